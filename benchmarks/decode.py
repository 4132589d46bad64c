"""`python -m benchmarks.decode`: slices a second from DICOM to half precision in [-1, 1], and reading a store.

Files are real CT (FASTLIVER_REAL_DATA) where there are any, else the phantom's, as they are and as JPEG 2000. Beside
fastliver's roads stand what one would write without it: pydicom and PyTorch in a loop, and MONAI's transforms. All make
256x256 from 512x512 by the same window. MONAI's Resize doesn't antialias, which saves it work.

On a GPU two further cases take 5,000 slices (the files again and again), from files and from parsed bytes in memory.
Everything that a run needs is in its time, threads, decoder processes and DALI's graphs, which are started anew each
time; but what lies in memory is parsed for fastliver, as its pipeline hands it to DALI, and bytes of files for pydicom.
"""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from importlib.util import find_spec
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pydicom
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless

from benchmarks.measure import Work
from benchmarks.suite import Case, Check, Contestant, Sitting, Suite
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
PHANTOM = PhantomSpec(ct_patients=1, mr_patients=1, ct_slices=78, mr_slices=4, ct_size=512, mr_size=32)
SIZE = 256
MANY = 5000
STORED = 1000
"""Slices of the store that is read: 131 MB of images and 66 MB of labels."""
EDGE = 4
"""Rows and columns at the border that PyTorch resizes differently, and somewhat more."""
TOLERANCE = 2e-3


class Material:
    """What the cases read: made in a temporary folder when it is first asked for, and removed with this object."""

    def __init__(self) -> None:
        root = os.environ.get("FASTLIVER_REAL_DATA")
        self.real = sorted(Path(root).glob("chaos/Train_Sets/CT/*/DICOM_anon/*")) if root else []
        self.count = len(self.real) or PHANTOM.ct_slices

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    def _new(self, name: str) -> Path:
        folder = Path(self._temporary.name) / name
        folder.mkdir()
        return folder

    @cached_property
    def files(self) -> list[Path]:
        """Uncompressed CT files of 512x512: real ones where there are any, else the phantom's."""
        phantom = (
            [] if self.real else write_phantom(self._new("phantom") / "files", PHANTOM).glob("**/CT/*/DICOM_anon/*")
        )
        return self.real or sorted(phantom)

    @cached_property
    def jpeg2000(self) -> list[Path]:
        """The files again, without loss as JPEG 2000."""
        folder = self._new("jpeg2000")
        for path in self.files:
            dataset = pydicom.dcmread(path)
            dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
            dataset.save_as(folder / path.name)
        return [folder / path.name for path in self.files]

    @cached_property
    def many(self) -> list[list[Path]]:
        """The files in folders of links, at least MANY in all: each folder is a series."""
        root, parts = self._new("many"), []
        for number in range(-(-MANY // self.count)):
            part = root / str(number)
            part.mkdir()
            for path in self.files:
                (part / path.name).symlink_to(path)
            parts.append(sorted(part.iterdir()))
        return parts

    @cached_property
    def store(self) -> SliceStore:
        """A store of noise, so large that a processor's caches don't hold it."""
        folder = self._new("store")
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


def by_pydicom(paths: Iterable[Path | BytesIO], device: str = "cpu") -> NDArray[np.float16]:
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


def disagreement(works: Mapping[str, Work]) -> dict[str, float]:
    """The largest difference of each work from pydicom's and PyTorch's, away from the borders; MONAI isn't compared."""
    outputs = {title: work() for title, work in works.items() if title != "monai"}
    inside = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    expected = outputs.pop("pydicom")[inside].astype(np.float32)
    differences = {}
    for title, found in outputs.items():
        # The files' own order may be from the head down.
        ways = (found[inside], found[::-1][inside])
        differences[title] = min(float(np.abs(way.astype(np.float32) - expected).max()) for way in ways)
    return differences


def _check(works: Mapping[str, Work]) -> dict[str, str]:
    return {
        title: f"differs from pydicom and PyTorch by {difference:.1e}"
        for title, difference in disagreement(works).items()
        if not difference <= TOLERANCE
    }


def writes_jpeg2000() -> bool:
    """Whether pydicom finds an encoder for JPEG 2000."""
    return find_spec("openjpeg") is not None


def _case(
    name: str,
    amount: float,
    unit: str,
    makes: Mapping[str, Callable[[], Work]],
    targets: Mapping[str, float],
    check: Check = lambda works: {},
) -> Case:
    contestants = tuple(Contestant(who, make) for who, make in makes.items())
    wanted = {("fastliver", peer): ratio for peer, ratio in targets.items()}
    return Case(name, f"{SIZE}x{SIZE}", "fp16", contestants, amount, unit, targets=wanted, check=check)


def _decoding(name: str, count: int, paths: Callable[[], list[Path]], targets: dict[str, float]) -> Case:
    ways: dict[str, Callable[[list[Path]], NDArray[np.float16]]] = {
        "fastliver": lambda given: by_fastliver([given], "auto")
    }
    if dali_is_there() and not torch.cuda.is_available():
        ways["fastliver dali-cpu"] = lambda given: by_fastliver([given], "dali")
    ways["pydicom"] = by_pydicom
    if find_spec("monai"):
        ways["monai"] = by_monai
    makes = {who: lambda way=way: partial(way, paths()) for who, way in ways.items()}
    return _case(name, count, "slices/s", makes, targets, _check)


def _store_case(material: Material) -> Case:
    def by_store() -> Work:
        store, device = material.store, torch.device("cpu")
        return lambda: Slices.load(store, np.arange(len(store)), device)

    def by_file() -> Work:
        # Into memory that was just asked for, as for any array.
        paths = [material.store.path / name for name in ("images.npy", "labels.npy")]
        return lambda: [np.fromfile(path, np.uint8) for path in paths]

    gigabytes = STORED * SIZE * SIZE * 3 / 1e9
    return _case("store", gigabytes, "GB/s", {"fastliver": by_store, "file": by_file}, {"file": 0.8})


def _many_files(material: Material) -> Case:
    makes: dict[str, Callable[[], Work]] = {
        "fastliver": lambda: partial(by_fastliver, material.many, "dali"),
        "pydicom": lambda: lambda: [by_pydicom(part, "cuda") for part in material.many],
    }
    return _case("files-gpu", -(-MANY // material.count) * material.count, "slices/s", makes, {"pydicom": 5})


def _many_in_memory(material: Material) -> Case:
    def by_graphs() -> Work:
        samples = in_memory(material.files)
        return lambda: deque(DaliGraphs(SIZE, 0, 4, 4 * BATCH).run(iter(samples)), maxlen=0)

    def by_loop() -> Work:
        held = [path.read_bytes() for path in material.files]
        return lambda: by_pydicom(map(BytesIO, islice(cycle(held), MANY)), "cuda")

    return _case("memory-gpu", MANY, "slices/s", {"fastliver": by_graphs, "pydicom": by_loop}, {"pydicom": 20})


def cases(device: torch.device, material: Material) -> Iterator[Case]:
    """Every case that this machine can do."""
    yield _decoding("files", material.count, lambda: material.files, {"pydicom": 2, "monai": 8})
    yield _store_case(material)
    if writes_jpeg2000():  # which takes longest
        yield _decoding("jpeg2000", material.count, lambda: material.jpeg2000, {"pydicom": 1})
    if device.type == "cuda" and dali_is_there():
        yield _many_files(material)
        yield _many_in_memory(material)


def run(sitting: Sitting) -> None:
    needed = {
        "monai": bool(find_spec("monai")),
        "nvidia-dali": dali_is_there(),
        "pylibjpeg-openjpeg": writes_jpeg2000(),
    }
    for name, there in needed.items():
        if not there:
            sitting.say(f"{name} isn't installed: left out")
    for case in cases(sitting.device, Material()):
        if sitting.takes(case.name):
            sitting.race(case)


SUITE = Suite("decode", __doc__, run, repeats=(3, 5))

if __name__ == "__main__":
    sys.exit(SUITE.main(sys.argv[1:]))
