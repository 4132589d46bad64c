"""A run folder such as training leaves it, with ellipses for livers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastliver.reporting import build_report
from fastliver.run_folder import RunFolder

DICE = {
    ("real", 0): (0.90, 0.91, 0.92),
    ("essnet", 354): (0.91, 0.915, 0.925),
    ("essnet", 714): (0.93, 0.935, 0.95),
    ("cyclegan", 714): (0.905, 0.91, 0.915),
}
CURVE = {
    ("real", 0, 1): (0.70, 0.60, 0.80),
    ("essnet", 714, 1): (0.85, 0.80, 0.87),
    ("real", 0, 2): (0.80, 0.82, 0.81),
    ("essnet", 714, 2): (0.82, 0.86, 0.80),
}
"""Dice of the U-Nets with the labels of so many of the three patients, by seed."""
PATIENTS = ("mr_010", "<b>$x$[/red]")


def _ellipse(size: int, generator: np.random.Generator, scale: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    cy, cx = 0.5 + 0.08 * generator.standard_normal(2)
    return ((y - cy) / (0.30 * scale)) ** 2 + ((x - cx) / (0.40 * scale)) ** 2 < 1


def _image(size: int, generator: np.random.Generator, liver: np.ndarray) -> np.ndarray:
    body = _ellipse(size, np.random.default_rng(0), 1.15)
    image = -1 + 1.1 * body + 0.6 * liver + 0.08 * generator.standard_normal((size, size))
    return np.clip(image, -1, 1).astype(np.float16)


def _roc(dice: float) -> dict[str, list[float]]:
    fpr = np.linspace(0, 1, 400) ** 3
    return {"fpr": fpr.tolist(), "tpr": (fpr ** ((1 - dice) / 4)).tolist()}


def _unet(source: str, arrangement: int, seed: int, dice: float) -> dict[str, Any]:
    return {
        "job": f"unet-{source}-{arrangement}-seed{seed}",
        "source": source,
        "arrangement": arrangement,
        "labelled_patients": ["mr_001", "mr_002", "mr_003"],
        "all_labelled": True,
        "real": 350,
        "synthetic": arrangement,
        "seed": seed,
        "parameters": 31_031_685,
        "epochs": 300,
        "steps": 300 * (350 + arrangement) // 2,
        "seconds_per_epoch": 10.0 + seed,
        "seconds": 3000.0 + 300 * seed,
        "images_per_second": 400.0,
        "device": "NVIDIA H100",
        "scores": {
            "dice": dice,
            "iou": dice / (2 - dice),
            "dice_per_slice_mean": dice - 0.02,
            "dice_per_slice_std": 0.05,
            "iou_per_slice_mean": dice - 0.1,
            "iou_per_slice_std": 0.08,
            "dice_per_patient": {PATIENTS[0]: dice + 0.01, PATIENTS[1]: dice - 0.01},
            "iou_per_patient": dict.fromkeys(PATIENTS, dice / (2 - dice)),
            "auc": 1 - (1 - dice) / 10,
        },
        "roc": _roc(dice),
    }


def write_run(
    root: Path, *, size: int = 48, slices: int = 3, steps: int = 400, seeds: int = 3, curve: bool = False
) -> RunFolder:
    """Write a whole run: two synthesis networks and `seeds` U-Nets for each training set.

    With `curve` U-Nets on few labelled patients too: with one patient seed 0 has 100 real slices, seed 1 101 ...
    """
    run = RunFolder(root)
    root.mkdir(parents=True)
    run.config.write_text("essnet:\n  epochs: 100\n  note: <script>alert(1)</script>\n")
    environment = {
        "fastliver": "0.1.0",
        "python": "3.11",
        "torch": "2.11",
        "device": "NVIDIA H100",
        "platform": "Linux",
        "date": "2026-01-02 03:04",
        "command": "fastliver train --ct CT --mr MR",
    }
    run.environment.write_text(json.dumps(environment))
    source = {"path": "data/CT", "patients": 20, "slices": 2874, "liver_slices": 2050, "labelled": True, "notes": []}
    run.write_result(
        "data",
        {
            "sources": [
                {"name": "CT", "modality": "CT", **source, "skipped": ["a<b>.dcm: no pixel data"]},
                {
                    "name": "MR",
                    "modality": "MR",
                    **source,
                    "path": "data/MR",
                    "slices": 623,
                    "liver_slices": 408,
                    "skipped": [],
                },
            ],
            "split": {
                "name": "patient",
                "train_patients": ["mr_001", "mr_002", "mr_003"],
                "test_patients": list(PATIENTS),
                "train_slices": 350,
                "test_slices": 58,
                "essnet_ct_slices": 350,
                "essnet_mr_slices": 350,
                "warning": "",
            },
        },
    )
    generator = np.random.default_rng(1)
    livers = np.stack([_ellipse(size, generator, 0.45) for _ in range(slices)])
    ct = np.stack([_image(size, generator, liver) for liver in livers])
    lines = []
    for job in ("essnet", "cyclegan"):
        total = 39_625_414 if job == "essnet" else 28_256_644
        parameters = {
            "generator": 11_365_633,
            "segmentor": 11_368_770,
            "discriminator": 2_762_689,
            "paper_count": 28_256_644,
            "total": total,
        }
        run.write_result(
            f"train-{job}",
            {
                "job": job,
                "parameters": parameters,
                "epochs": 100,
                "steps_per_epoch": 350,
                "steps": 35_000,
                "seconds_per_epoch": 12.5,
                "seconds": 1260.0,
                "device": "NVIDIA H100",
            },
        )
        run.write_result(f"synthesis-{job}", {"job": job, "images": 714, "seconds": 2.0, "images_per_second": 357.0})
        agreement = {"mean": 0.9, "p5": 0.7, "threshold": 0.8, "dropped": 71} if job == "essnet" else None
        distance = {
            "liver": {"synthetic": 0.0625, "ct": 0.75},
            "body": {"synthetic": 0.125, "ct": 0.5},
            "slice": {"synthetic": 0.03125, "ct": 0.25},
        }
        run.write_result(f"quality-{job}", {"images": 714, "real": 350, "distance": distance, "agreement": agreement})
        synthetic = np.stack([-_image(size, generator, liver) * 0.9 for liver in livers]).astype(np.float16)
        np.savez(run.arrays(f"samples-{job}"), ct=ct, synthetic=synthetic, label=livers.astype(np.uint8))
        names = ["g_adv", "d1", "d2", "cycle_ct", "cycle_mr"] + (["seg"] if job == "essnet" else [])
        for step in range(0, steps * 10, 10):
            losses = {f"loss_{name}": float(np.exp(-step / 2000) + 0.3 * generator.random()) for name in names}
            memory = {"memory_gib": 1.5 + 0.25 * (step == 20)} if job == "essnet" else {}
            lines.append({"job": job, "step": step, "epoch": step // 350, "seconds": step / 30, **memory, **losses})
    for (network, arrangement), scores in DICE.items():
        for seed, dice in enumerate(scores[:seeds]):
            result = _unet(network, arrangement, seed, dice)
            run.write_result(result["job"], result)
            shifted = np.roll(livers, 1 + seed, axis=2) & (generator.random(livers.shape) > 0.005)
            probability = np.where(shifted, 0.9, 0.1).astype(np.float16)
            np.savez(
                run.arrays(result["job"]),
                image=ct,
                label=livers.astype(np.uint8),
                probability=probability,
                patient=np.array([PATIENTS[place % 2] for place in range(slices)]),
                z=np.arange(slices, dtype=float),
            )
            np.savez(
                run.arrays(f"{result['job']}-extremes"),
                image=ct,
                label=livers.astype(np.uint8),
                probability=probability,
                patient=np.array(["$a$"] * slices),
                z=np.arange(slices, dtype=float),
            )
            lines += [
                {"job": result["job"], "step": step, "epoch": 0, "loss": float(np.exp(-step / 300) + 0.02)}
                for step in range(0, steps, 10)
            ]
    for (network, arrangement, patients), scores in CURVE.items() if curve else ():
        for seed, dice in enumerate(scores[:seeds]):
            job = f"unet-{network}-{arrangement}-patients{patients}-seed{seed}"
            few = {"job": job, "labelled_patients": ["mr_001", "mr_003"][:patients], "all_labelled": False}
            run.write_result(job, _unet(network, arrangement, seed, dice) | few | {"real": 100 * patients + seed})
            lines.append({"job": job, "step": 0, "epoch": 0, "loss": 0.7})
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Writes a fake run folder; see `write_run`."""
    return lambda **options: write_run(tmp_path / "run", **options)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with its report, built once since drawing takes seconds; tests leave it as it is."""
    run = write_run(tmp_path_factory.mktemp("report") / "run", curve=True)
    build_report(run)
    return run
