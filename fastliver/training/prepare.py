"""The data of a run: stores, split, and the table of what was found."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastliver.config import ExperimentConfig, TrainConfig
from fastliver.data.intensity import IntensityRule
from fastliver.data.sources import Source
from fastliver.data.splits import Split, patients_of, split_by_patient, split_by_slice
from fastliver.data.store import SliceStore
from fastliver.data.store_builder import build_store
from fastliver.data.study import Modality
from fastliver.errors import InputError
from fastliver.training.progress import bar


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is tested on.

    Attributes:
        ct: store of the CT.
        mr: store of the MR.
        split: of the MR; unlabelled MR is all on the training side.
        essnet_ct: numbers of the CT slices that EssNet trains on.
    """

    ct: SliceStore
    mr: SliceStore
    split: Split
    essnet_ct: NDArray[np.intp]

    @property
    def mr_rule(self) -> IntensityRule:
        return IntensityRule(**self.mr.meta["intensity"])

    def fingerprint(self) -> list[str]:
        """Changes when the images or labels do; where they lie has no say."""
        return [self.ct.meta["content"], self.mr.meta["content"]]


def sources(config: TrainConfig, phantom: Path | None) -> tuple[Source, Source]:
    """The CT and the MR that the settings name, or the phantom where they name none.

    Raises:
        InputError: when only one of the two is named.
    """
    data = config.data
    root = Path(data.data) if data.data is not None else phantom
    paths = {"ct": data.ct, "mr": data.mr}
    for name, given in paths.items():
        if given is None and root is None:
            other = "mr" if name == "ct" else "ct"
            raise InputError(
                f"--{other} is given without --{name}: name both, or --data with a CHAOS tree that holds both"
            )

    def source(modality: Modality, given: str | None) -> Source:
        path = Path(given) if given is not None else root
        assert path is not None
        return Source(path, modality, data.mr_sequence, data.liver_label, data.skip_bad, data.patient_pattern)

    return source("CT", paths["ct"]), source("MR", paths["mr"])


def prepare(config: TrainConfig, ct: Source, mr: Source, stores: Path, console: Console) -> RunData:
    """Build or reuse both stores and split them.

    Args:
        config: the run's settings.
        ct: where the CT is.
        mr: where the MR is.
        stores: folder that keeps stores for all runs.
        console: for the progress bar.

    Raises:
        InputError: for data that can't be read or doesn't suffice.
    """
    data, experiment = config.data, config.experiment
    ct_store = _store(ct, IntensityRule("CT", *data.ct_window), config, stores, console)
    mr_store = _store(mr, IntensityRule("MR", *data.mr_percentiles), config, stores, console)
    for store, source in ((ct_store, ct), (mr_store, mr)):
        if not len(store.liver_slices()):
            raise InputError(f"{source.path}: no {source.modality} slice shows liver in its label; check the labels")
    if experiment.segmentor and not ct_store.labelled:
        raise InputError(
            f"{ct.path}: the CT has no labels, which EssNet's segmentor learns from; add them, or train a CycleGAN "
            "with --no-segmentor"
        )
    split = split_mr(experiment, mr_store)
    _check_patients(config, mr_store, split)
    return RunData(ct_store, mr_store, split, _essnet_ct(config, ct_store))


def _check_patients(config: TrainConfig, store: SliceStore, split: Split) -> None:
    """Refuse a learning curve over more labelled patients than there are; unlabelled MR trains no U-Net."""
    there = len(patients_of(store, split.train))
    if store.labelled and max(config.patient_counts(), default=0) >= there:
        raise InputError(
            f"--labelled-patients={config.experiment.labelled_patients}: there are {there} labelled MR patients to "
            f"train on, and U-Nets learn from all {there} anyway; name numbers below {there}, or add patients"
        )


def split_mr(experiment: ExperimentConfig, store: SliceStore) -> Split:
    """Which MR slices a run learns from and which it is tested on."""
    if not store.labelled:
        # Nothing can be tested without labels, so EssNet may learn from all of it.
        nothing = np.empty(0, np.intp)
        return Split("none", store.liver_slices(), nothing, nothing)
    split_by = split_by_patient if experiment.split == "patient" else split_by_slice
    return split_by(store, experiment.test_fraction, experiment.seed)


def _store(source: Source, rule: IntensityRule, config: TrainConfig, stores: Path, console: Console) -> SliceStore:
    studies = source.studies()
    on_cpu = config.engine.reader == "auto" and config.engine.device == "cpu"
    started = time.monotonic()
    with bar(console, f"reading {source.modality}", len(studies)) as progress:

        def show(done: int, total: int, slices: int) -> None:
            progress.update(done, f"patients, {slices / (time.monotonic() - started):.0f} slices/s")

        return build_store(
            studies,
            rule,
            config.data.image_size,
            stores,
            config.data.skip_bad,
            show,
            "threads" if on_cpu else config.engine.reader,
        )


def _essnet_ct(config: TrainConfig, store: SliceStore) -> NDArray[np.intp]:
    """All CT slices with liver, or so many of them."""
    slices = store.liver_slices()
    wanted = config.essnet.ct_slices
    rng = np.random.default_rng([config.experiment.seed, 3])
    return slices if wanted is None else np.sort(rng.permutation(slices)[:wanted])


def describe(data: RunData, ct: Source, mr: Source) -> dict[str, Any]:
    """What was found and how it was split, as `results/data.json` keeps it."""

    def found(source: Source, store: SliceStore) -> dict[str, Any]:
        return {
            "modality": source.modality,
            "path": str(source.path),
            "patients": len(store.patients),
            "slices": len(store),
            "liver_slices": sum(entry.liver > 0 for entry in store.entries),
            "labelled": store.labelled,
            "skipped": store.meta["skipped"],
            "notes": store.meta["notes"],
        }

    return {
        "sources": [found(ct, data.ct), found(mr, data.mr)],
        "fingerprint": data.fingerprint(),
        "split": {
            "name": data.split.name,
            "train_patients": patients_of(data.mr, data.split.train),
            "test_patients": patients_of(data.mr, data.split.test_volume),
            "train_slices": len(data.split.train),
            "test_slices": len(data.split.test),
            "essnet_ct_slices": len(data.essnet_ct),
            "warning": data.split.warning,
        },
    }


def print_counts(description: dict[str, Any], console: Console) -> None:
    """Show what was found."""
    table = Table("", "patients", "slices", "with liver", "skipped", title="Images found")
    for found in description["sources"]:
        liver = str(found["liver_slices"]) if found["labelled"] else "no labels"
        counts = (str(found[name]) for name in ("patients", "slices"))
        table.add_row(found["modality"], *counts, liver, str(len(found["skipped"])))
    console.print(table)
    split = description["split"]
    kinds = {"patient": "Split by patient", "paper": "Split by slice (paper)", "none": "No split (MR without labels)"}
    console.print(
        f"{kinds[split['name']]}: {split['train_slices']} MR slices of {len(split['train_patients'])} patients to "
        f"learn from, {split['test_slices']} of {len(split['test_patients'])} to test on; EssNet learns from "
        f"{split['essnet_ct_slices']} CT slices.",
    )
    if split["warning"]:
        console.print(f"warning: {split['warning']}", style="yellow")
    for found in description["sources"]:
        for text in (*found["skipped"], *found["notes"]):
            console.print(f"{found['modality']}: {text}", style="yellow")
