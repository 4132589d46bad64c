"""A CT slice from a tissue map: Hounsfield units, blur, correlated noise and the table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fastliver.data.phantom.anatomy import Tissue
from fastliver.data.phantom.shapes import Floats

# Mean HU in the portal venous phase, in the order of `Tissue`.
_HOUNSFIELD = {
    Tissue.AIR: -1000,
    Tissue.SKIN: 20,
    Tissue.FAT: -105,
    Tissue.VISCERAL_FAT: -98,
    Tissue.MUSCLE: 57,
    Tissue.BONE: 420,
    Tissue.MARROW: 175,
    Tissue.DISC: 95,
    Tissue.CEREBROSPINAL_FLUID: 22,
    Tissue.CORD: 40,
    Tissue.LUNG: -860,
    Tissue.BLOOD: 150,
    Tissue.HEART: 115,
    Tissue.AORTA: 170,
    Tissue.VENA_CAVA: 140,
    Tissue.LIVER: 110,
    Tissue.LIVER_VESSEL: 152,
    Tissue.GALLBLADDER: 8,
    Tissue.SPLEEN: 122,
    Tissue.KIDNEY_LEFT: 185,
    Tissue.KIDNEY_RIGHT: 185,
    Tissue.MEDULLA_LEFT: 150,
    Tissue.MEDULLA_RIGHT: 150,
    Tissue.PANCREAS: 95,
    Tissue.BOWEL_WALL: 85,
    Tissue.BOWEL_FLUID: 35,
    Tissue.STOOL: 15,
    Tissue.GAS: -980,
}
_CONTRASTED = tuple(t for t in Tissue if t in range(Tissue.BLOOD, Tissue.BOWEL_FLUID) and t is not Tissue.GALLBLADDER)


@dataclass(frozen=True)
class CtScan:
    """What stays the same over one patient's CT.

    `hounsfield` (n,) float32 by tissue, the noise's deviation in HU, and how far below the middle the table lies in mm.
    """

    hounsfield: Floats
    noise_hu: float = 17.0
    table_mm: float = 128.0

    @classmethod
    def sample(cls, rng: np.random.Generator, table_mm: float) -> "CtScan":
        """Draw a scan: enhancement and noise differ a little from patient to patient."""
        table = _standard()
        table[list(_CONTRASTED)] *= rng.uniform(0.93, 1.1)
        table[[Tissue.LIVER, Tissue.SPLEEN]] += rng.normal(0, 3, 2)
        return cls(table.astype(np.float32), float(rng.uniform(14, 21)), table_mm)


def _standard() -> Floats:
    return np.array([_HOUNSFIELD[t] for t in Tissue], np.float32)


def ct_slice(
    tissues: NDArray[np.uint8], rng: np.random.Generator, pixel_mm: float, scan: CtScan | None = None
) -> Floats:
    """Image a tissue map (size, size) whose pixels are `pixel_mm` wide: float32 HU of the same shape, at least -1024.

    The table lies below the patient at `scan.table_mm` from the picture's middle.
    """
    scan = scan or CtScan(_standard())
    hu = np.take(scan.hounsfield, tissues)
    _add_table(hu, pixel_mm, scan.table_mm)
    blur = 0.55 / pixel_mm
    hu = gaussian_filter(hu, blur, truncate=3.0)
    grain = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 0.75, truncate=3.0)
    hu += grain * np.float32(scan.noise_hu / 0.376)  # 0.376: what this filter leaves of the deviation
    return np.maximum(hu, np.float32(-1024))


def _add_table(hu: Floats, pixel_mm: float, table_mm: float) -> None:
    """Draw the cradle under the patient, in place: two thin shells, highest at the sides."""
    half = (hu.shape[0] - 1) / 2
    mm = ((np.arange(hu.shape[0]) - half) * pixel_mm).astype(np.float32)
    top = int(np.searchsorted(mm, table_mm - 45))
    below = mm[top:, None] - (table_mm - 42 * np.minimum((mm / 190) ** 2, 1.3))[None, :]
    part = hu[top:]
    thickness = max(2.6, pixel_mm)
    for offset, value in ((0.0, 160.0), (16.0, -150.0)):
        part[(np.abs(below - offset) < thickness / 2) & (part < -900)] = value
    part[(below > thickness / 2) & (below < 16 - thickness / 2) & (part < -900)] = -960
