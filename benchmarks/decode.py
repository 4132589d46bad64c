"""`python -m benchmarks.decode`: slices a second from DICOM to half precision in [-1, 1], and reading a store.

Files are real CT (FASTLIVER_REAL_DATA) where there are any, else the phantom's, as they are and as JPEG 2000. Beside
fastliver's roads stand what one would write without it: pydicom and PyTorch in a loop, and MONAI's transforms. All make
256x256 from 512x512 by the same window. MONAI's Resize doesn't antialias, which saves it work.

On a GPU two further cases take 5,000 slices (the files again and again), from files and from parsed bytes in memory.
Every provider does a case as often as the others, by turns, so that a busy machine slows all of them. Everything that a
run needs is in its time: threads, decoder processes and DALI's graphs are started anew each time.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless

from benchmarks.measure import Results, percentiles, rates, results_folder, surroundings
from fastliver.data.batches import Slices
from fastliver.data.dali import BATCH, DaliGraphs, Encoding, Sample, dali_is_there
from fastliver.data.intensity import IntensityRule
from fastliver.data.phantom import PhantomSpec, write_phantom
from fastliver.data.pipeline import Pipeline, PreparedStudy, Road
from fastliver.data.series import plan_series, read_series
from fastliver.data.slices import fit_of, raw_frame, window
from fastliver.data.store import SliceStore, StoreWriter
from fastliver.data.study import Study

RULE = IntensityRule("CT", -160.0, 240.0)
SIZE = 256
MANY = 5000
STORED = 1000
"""Slices of the store that is read: 131 MB of images and 66 MB of labels."""
EDGE = 4
"""Rows and columns at the border that PyTorch resizes differently, and somewhat more."""
TOLERANCE = 2e-3

Work = Callable[[], Any]
"""Does a case once."""


@dataclass(frozen=True)
class Case:
    """One thing to do, and who does it.

    Attributes:
        name: says what.
        amount: of what the rate counts.
        unit: of the rate.
        providers: each does it once; the first one is fastliver's.
        targets: the least ratio of fastliver's rate to that of another provider.
        compared: whether each provider gives the slices (D, SIZE, SIZE), to be held against each other.
    """

    name: str
    amount: float
    unit: str
    providers: dict[str, Work]
    targets: dict[str, float] = field(default_factory=dict)
    compared: bool = False


def files(folder: Path) -> list[Path]:
    """Uncompressed CT files of 512x512: real ones where there are any, else the phantom's, written under `folder`."""
    root = os.environ.get("FASTLIVER_REAL_DATA")
    real = sorted(Path(root).glob("chaos/Train_Sets/CT/*/DICOM_anon/*")) if root else []
    if real:
        return real
    spec = PhantomSpec(ct_patients=1, mr_patients=1, ct_slices=78, mr_slices=4, ct_size=512, mr_size=32)
    return sorted(write_phantom(folder / "phantom", spec).glob("**/CT/*/DICOM_anon/*"))


def jpeg2000(paths: list[Path], folder: Path) -> list[Path]:
    """The files again, without loss as JPEG 2000."""
    folder.mkdir(parents=True)
    copies = []
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        copies.append(folder / path.name)
        dataset.save_as(copies[-1])
    return copies


def study(paths: list[Path]) -> Study:
    """The files as an unlabelled study."""
    read = partial(read_series, paths, "CT", None, range(0), False)
    plan = partial(plan_series, paths, "CT", None, range(0), False)
    return Study("CT", "patient", "series", tuple(paths), False, read, plan=plan)


def by_fastliver(series: list[list[Path]], road: Road) -> NDArray[np.float16]:
    """Headers, planning, reading and all."""
    images = []
    for found in Pipeline(RULE, SIZE, road).prepare([study(paths) for paths in series]):
        assert isinstance(found, PreparedStudy), found
        images.append(found.images)
    return np.concatenate(images)


def by_pydicom(paths: list[Path], device: str = "cpu") -> NDArray[np.float16]:
    """A plain loop over pydicom and PyTorch."""
    images = []
    for path in paths:
        dataset = pydicom.dcmread(path)
        hu = torch.from_numpy(dataset.pixel_array.astype(np.float32)).to(device)
        hu = hu * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        scaled = (hu.clip(RULE.low, RULE.high) - RULE.low) * (2 / (RULE.high - RULE.low)) - 1
        small = F.interpolate(scaled[None, None], size=(SIZE, SIZE), mode="bilinear", antialias=True)
        images.append(small[0, 0].half())
    return torch.stack(images).cpu().numpy()


def by_monai(paths: list[Path]) -> NDArray[np.float16]:
    """MONAI's transforms."""
    from monai import transforms

    read = transforms.Compose(
        [
            transforms.LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True),
            transforms.ScaleIntensityRange(RULE.low, RULE.high, -1.0, 1.0, clip=True),
            transforms.Resize((SIZE, SIZE), mode="bilinear"),
        ]
    )
    # MONAI puts columns first.
    return torch.stack([read(path)[0].T.half() for path in paths]).numpy()


def in_memory(paths: list[Path]) -> list[Sample]:
    """Parsed slices whose bytes are in memory, MANY of them."""
    plan = plan_series(paths, "CT", None, range(0), False)
    fit = fit_of(plan, SIZE)
    samples = [
        Sample(
            np.frombuffer(raw_frame(item.image, item.number), np.uint8), Encoding.of(item.image.format), plan.shape,
            window(item, (RULE.low, RULE.high)), plan.transpose, (plan.flip_rows, plan.flip_columns), fit,
        )
        for item in plan.slices
    ]  # fmt: skip
    return list(islice(cycle(samples), MANY))


def filled_store(folder: Path) -> SliceStore:
    """A store of noise, so large that a processor's caches don't hold it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (STORED, SIZE, SIZE)).astype(np.float16)
    labels = rng.integers(0, 2, images.shape).astype(np.uint8)
    writer = StoreWriter(folder, "CT", SIZE, RULE, True)
    entries = [
        {"patient": "a", "slice": number, "z": 0.0, "spacing": [1, 1, 1], "source": ""} for number in range(STORED)
    ]
    writer.add(images, labels, {}, entries)
    writer.finish(hash="", skipped=[], notes=[])
    return SliceStore.open(folder)


def _decoding(name: str, paths: list[Path], targets: dict[str, float]) -> Case:
    providers: dict[str, Work] = {"fastliver": lambda: by_fastliver([paths], "auto")}
    if dali_is_there() and not torch.cuda.is_available():
        providers["dali-cpu"] = lambda: by_fastliver([paths], "dali")
    providers["pydicom"] = lambda: by_pydicom(paths)
    if find_spec("monai"):
        providers["monai"] = lambda: by_monai(paths)
    return Case(name, len(paths), "slices/s", providers, targets, compared=True)


@contextmanager
def cases(only: str = "") -> Iterator[list[Case]]:
    """Every case that this machine can do and whose name contains `only`; its files are there until the end."""
    wanted = {
        name
        for name in ("files", "jpeg2000", "store", "files-gpu", "memory-gpu")
        if only in name and (torch.cuda.is_available() or not name.endswith("gpu"))
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = files(folder)
        found = []
        if "files" in wanted:
            found.append(_decoding("files", paths, {"pydicom": 2, "monai": 8}))
        if "jpeg2000" in wanted:
            found.append(_decoding("jpeg2000", jpeg2000(paths, folder / "jpeg2000"), {"pydicom": 1}))
        if "store" in wanted:
            found.append(_store_case(filled_store(folder / "store")))
        if "files-gpu" in wanted:
            many = _links(paths, folder / "many")
            providers: dict[str, Work] = {
                "fastliver": lambda: by_fastliver(many, "dali"),
                "pydicom": lambda: [by_pydicom(part, "cuda") for part in many],
            }
            found.append(Case("files-gpu", sum(map(len, many)), "slices/s", providers, {"pydicom": 5}))
        if "memory-gpu" in wanted:
            samples, graphs = in_memory(paths), DaliGraphs(SIZE, 0, 4, 4 * BATCH)
            plain = list(islice(cycle(paths), MANY))
            providers = {
                "fastliver": lambda: deque(graphs.run(iter(samples)), maxlen=0),
                "pydicom": lambda: by_pydicom(plain, "cuda"),
            }
            found.append(Case("memory-gpu", MANY, "slices/s", providers, {"pydicom": 20}))
        yield found


def _links(paths: list[Path], folder: Path) -> list[list[Path]]:
    """The files in folders of links, MANY in all: each folder is a series."""
    parts = []
    for number in range(-(-MANY // len(paths))):
        part = folder / str(number)
        part.mkdir(parents=True)
        for path in paths:
            (part / path.name).symlink_to(path)
        parts.append(sorted(part.iterdir()))
    return parts


def _store_case(store: SliceStore) -> Case:
    numbers, device = np.arange(len(store)), torch.device("cpu")
    both = [store.path / name for name in ("images.npy", "labels.npy")]
    providers: dict[str, Work] = {
        "fastliver": lambda: Slices.load(store, numbers, device),
        # Into memory that was just asked for, as for any array.
        "file": lambda: [np.fromfile(path, np.uint8) for path in both],
    }
    return Case("store", sum(path.stat().st_size for path in both) / 1e9, "GB/s", providers, {"file": 0.8})


def disagreement(case: Case) -> dict[str, float]:
    """The largest difference of each provider from pydicom and PyTorch, away from the borders; MONAI isn't compared."""
    outputs = {name: work() for name, work in case.providers.items() if name != "monai"}
    inside = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    expected = outputs.pop("pydicom")[inside].astype(np.float32)
    differences = {}
    for name, found in outputs.items():
        # The files' own order may be from the head down.
        ways = (found[inside], found[::-1][inside])
        differences[name] = min(float(np.abs(way.astype(np.float32) - expected).max()) for way in ways)
    return differences


def time_case(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds of each provider, `repeats` times by turns, after one that doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in case.providers}
    for repeat in range(repeats + 1):
        for name, work in case.providers.items():
            start = time.perf_counter()
            work()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(arguments: list[str]) -> int:
    """Time, print ratios and rates, and write the CSV; 1 if a provider's slices are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="CSV; by default benchmarks/results/<device>/decode.csv")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shared = surroundings(device)
    path = options.output or results_folder(shared["device"]) / "decode.csv"
    wrong = False
    with cases(options.only) as found, Results(path, "decode", shared) as results:
        for case in found:
            if case.compared:
                for name, difference in disagreement(case).items():
                    wrong |= difference > TOLERANCE
                    print(f"{case.name}: {name} differs from pydicom + PyTorch by {difference:.1e} at most")
            seconds = time_case(case, options.repeats)
            middle = {name: statistics.median(values) for name, values in seconds.items()}
            first = next(iter(middle))
            for name in list(middle)[1:]:
                target = f" (wanted {case.targets[name]:g})" if name in case.targets else ""
                print(f"{case.name}: {first} is {middle[name] / middle[first]:.2f} times as fast as {name}{target}")
            for name, values in seconds.items():
                rate = rates(case.amount, percentiles(values))
                print(f"  {name:10s} {rate[1]:10.4g} {case.unit} ({rate[0]:.4g} to {rate[2]:.4g})")
                results.add(
                    "rate", case.unit, rate, case=case.name, provider=name, mode="full",
                    shape=f"{SIZE}x{SIZE}", dtype="fp16",
                )  # fmt: skip
    print(f"{torch.get_num_threads()} threads of PyTorch; written to {path}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
