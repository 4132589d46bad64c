"""Writes a phantom data set to disk in the layout of CHAOS: DICOM slices and PNG masks, whole or not at all."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastliver.data.phantom.anatomy import Abdomen, Tissue
from fastliver.data.phantom.ct import CtScan, ct_slice
from fastliver.data.phantom.headers import Series
from fastliver.data.phantom.mr import MrScan, mr_slice
from fastliver.files import new_folder

# Raised whenever the same spec would give other files.
_FORMAT = 1
_CT_IDS = (1, 2, 5, 6, 8, 10, 14, 16, 18, 19, *range(21, 31))
_MR_IDS = (1, 2, 3, 5, 8, 10, 13, 15, *range(19, 23), *range(31, 35), *range(36, 40))
# The MR patients are other people than the CT ones, and more varied: heavier, wider, in a larger field of view.
_MR_VARIATION = 1.6


@dataclass(frozen=True)
class PhantomSpec:
    """What to write: patients, slices per patient and pixels per side of each modality, and the seed.

    Sizes are at least 32 pixels, slices at least 4. A patient's shapes depend on the seed and its own rank, not on how
    many others there are.
    """

    ct_patients: int = 4
    mr_patients: int = 6
    ct_slices: int = 40
    mr_slices: int = 28
    ct_size: int = 512
    mr_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"ct_slices": 4, "mr_slices": 4, "ct_size": 32, "mr_size": 32}
        for name, value in asdict(self).items():
            if value < lowest.get(name, 0):
                raise ValueError(f"PhantomSpec.{name} is {value}; it must be at least {lowest.get(name, 0)}")


@dataclass(frozen=True)
class _Patient:
    """One patient's shapes, geometry and random stream; `order` lists the heights in mm in the order of the files."""

    number: int
    key: str
    abdomen: Abdomen
    rng: np.random.Generator
    fov_mm: float
    spacing_mm: float
    order: list[float]
    base_mm: float

    @classmethod
    def sample(cls, spec: PhantomSpec, modality: str, index: int) -> "_Patient":
        ct = modality == "CT"
        rng = np.random.default_rng(np.random.SeedSequence([spec.seed, 1 if ct else 2, index]))
        abdomen = Abdomen.sample(rng, 1.0 if ct else _MR_VARIATION)
        ids = _CT_IDS if ct else _MR_IDS
        room = rng.uniform(1.06, 1.16) if ct else rng.uniform(1.1, 1.3)
        low, high = abdomen.extent
        slices, size = (spec.ct_slices, spec.ct_size) if ct else (spec.mr_slices, spec.mr_size)
        spacing = round((high - low) / (slices - 1), 3)
        heights = [low + spacing * i for i in range(slices)]
        return cls(
            number=ids[index] if index < len(ids) else ids[-1] + 1 + index - len(ids),
            key=f"{_FORMAT} {spec} {modality} {index}",
            abdomen=abdomen,
            rng=rng,
            # rounded so that the header's pixel spacing is exactly the one drawn with
            fov_mm=round(abdomen.size[0] * room / size, 4) * size,
            spacing_mm=spacing,
            # two patients' files run from the head down, the next two from the feet up
            order=heights[::-1] if index // 2 % 2 == 0 else heights,
            base_mm=round(float(rng.uniform(1400, 1700) if ct else rng.uniform(-60, 60)), 1),
        )

    def series(self, modality: str, size: int) -> Series:
        corner = -round((1 - 1 / size) * self.fov_mm / 2, 3)
        return Series(modality, self.number, self.key, round(self.fov_mm / size, 4), self.spacing_mm, (corner, corner))

    def place(self, z: float) -> float:
        """The DICOM z of the height z."""
        return round(self.base_mm + z, 3)


def write_phantom(root: Path, spec: PhantomSpec, on_slice: Callable[[int, int], None] | None = None) -> Path:
    """Write the data set of `spec` to `root` and return `root / "Train_Sets"`; one that is there already is kept.

    `on_slice(done, total)` is called after each slice. The folder appears under its name only when it is complete.
    Raises FileExistsError where `root` holds anything else.
    """
    if not _is_there(root, spec):
        try:
            with new_folder(root, replace=False) as partial:
                _write_patients(partial / "Train_Sets", spec, on_slice)
                (partial / "phantom.json").write_text(_manifest(spec))
        except OSError:
            if not _is_there(root, spec):  # as where another run was faster
                raise
    return root / "Train_Sets"


def _manifest(spec: PhantomSpec) -> str:
    return json.dumps({"format": _FORMAT, "spec": asdict(spec)}, indent=2) + "\n"


def _is_there(root: Path, spec: PhantomSpec) -> bool:
    """Whether `root` holds the phantom of `spec`; not so if absent or empty. FileExistsError for anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / "phantom.json"
    if not manifest.is_file():
        raise FileExistsError(
            f"{root} exists and is not a phantom (no phantom.json); name another folder or remove this one"
        )
    if manifest.read_text(errors="replace") != _manifest(spec):
        raise FileExistsError(
            f"{root} holds a phantom of another spec or format (see {manifest}); name another folder or remove it"
        )
    return True


def _write_patients(train: Path, spec: PhantomSpec, on_slice: Callable[[int, int], None] | None) -> None:
    total = spec.ct_patients * spec.ct_slices + spec.mr_patients * spec.mr_slices
    slices = (
        drawn
        for write, count in ((_write_ct, spec.ct_patients), (_write_mr, spec.mr_patients))
        for index in range(count)
        for drawn in write(train, spec, index)
    )
    for done, _ in enumerate(slices, 1):
        if on_slice is not None:
            on_slice(done, total)


def _write_ct(train: Path, spec: PhantomSpec, index: int) -> Iterator[Path]:
    """Write one CT patient; masks pair with slices by rank alone."""
    patient = _Patient.sample(spec, "CT", index)
    images, masks = _folders(train / "CT" / str(patient.number))
    scan = CtScan.sample(patient.rng, patient.abdomen.back_mm + 6)
    series = patient.series("CT", spec.ct_size)
    name = "i{0:04d},0000b.dcm" if index % 2 == 0 else "IMG-{1:04d}-{2:05d}.dcm"
    for rank, z in enumerate(patient.order):
        tissues = patient.abdomen.tissues(z, spec.ct_size, patient.fov_mm)
        hu = ct_slice(tissues, patient.rng, patient.fov_mm / spec.ct_size, scan)
        path = images / name.format(rank, index + 1, rank + 1)
        series.file(_stored(hu + 1000), rank + 1, patient.place(z)).save_as(path, enforce_file_format=True)
        Image.fromarray(_mask(tissues, _CT_MASK) > 0).save(masks / f"liver_GT_{rank:03d}.png")
        yield path


def _write_mr(train: Path, spec: PhantomSpec, index: int) -> Iterator[Path]:
    """Write one MR patient; a mask has the name of its slice."""
    patient = _Patient.sample(spec, "MR", index)
    images, masks = _folders(train / "MR" / str(patient.number) / "T2SPIR")
    scan = MrScan.sample(patient.rng)
    series = patient.series("MR", spec.mr_size)
    for rank, z in enumerate(patient.order):
        tissues = patient.abdomen.tissues(z, spec.mr_size, patient.fov_mm)
        signal = mr_slice(tissues, patient.rng, scan, z, patient.fov_mm)
        path = images / f"IMG-{index + 2:04d}-{rank + 1:05d}.dcm"
        series.file(_stored(signal), rank + 1, patient.place(z)).save_as(path, enforce_file_format=True)
        Image.fromarray(_mask(tissues, _MR_MASK)).save(masks / f"{path.stem}.png")
        yield path


def _folders(series: Path) -> tuple[Path, Path]:
    images, masks = series / "DICOM_anon", series / "Ground"
    images.mkdir(parents=True)
    masks.mkdir()
    return images, masks


def _stored(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to what the file holds."""
    return np.clip(np.rint(values), 0, 4095).astype(np.uint16)


# The grey value of each tissue in the masks.
_CT_MASK = {Tissue.LIVER: 255, Tissue.LIVER_VESSEL: 255}
_MR_MASK = {
    Tissue.LIVER: 63,
    Tissue.LIVER_VESSEL: 63,
    Tissue.KIDNEY_RIGHT: 126,
    Tissue.MEDULLA_RIGHT: 126,
    Tissue.KIDNEY_LEFT: 189,
    Tissue.MEDULLA_LEFT: 189,
    Tissue.SPLEEN: 252,
}


def _mask(tissues: NDArray[np.uint8], values: dict[Tissue, int]) -> NDArray[np.uint8]:
    """The grey values of a ground truth picture: uint8 of the map's shape."""
    return np.take(np.array([values.get(t, 0) for t in Tissue], np.uint8), tissues)
