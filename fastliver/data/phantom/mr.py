"""A T2-SPIR-like MR slice from a tissue map: suppressed fat, bright fluid, a bias field and Rician noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fastliver.data.phantom.anatomy import Tissue
from fastliver.data.phantom.shapes import Floats, Waves

# Mean signal and its relative spread between patients, in the arbitrary units that CHAOS's T2-SPIR volumes have.
_SIGNAL = {
    Tissue.AIR: (0, 0),
    Tissue.SKIN: (190, 0.2),
    Tissue.FAT: (125, 0.25),
    Tissue.VISCERAL_FAT: (95, 0.25),
    Tissue.MUSCLE: (155, 0.12),
    Tissue.BONE: (45, 0.2),
    Tissue.MARROW: (215, 0.2),
    Tissue.DISC: (330, 0.3),
    Tissue.CEREBROSPINAL_FLUID: (1000, 0.08),
    Tissue.CORD: (520, 0.1),
    Tissue.LUNG: (28, 0.2),
    Tissue.BLOOD: (330, 0.3),
    Tissue.HEART: (240, 0.15),
    Tissue.AORTA: (210, 0.6),
    Tissue.VENA_CAVA: (190, 0.6),
    Tissue.LIVER: (315, 0.1),
    Tissue.LIVER_VESSEL: (560, 0.15),
    Tissue.GALLBLADDER: (1050, 0.1),
    Tissue.SPLEEN: (690, 0.1),
    Tissue.KIDNEY_LEFT: (760, 0.08),
    Tissue.KIDNEY_RIGHT: (760, 0.08),
    Tissue.MEDULLA_LEFT: (880, 0.1),
    Tissue.MEDULLA_RIGHT: (880, 0.1),
    Tissue.PANCREAS: (420, 0.12),
    Tissue.BOWEL_WALL: (330, 0.15),
    Tissue.BOWEL_FLUID: (680, 0.25),
    Tissue.STOOL: (230, 0.3),
    Tissue.GAS: (12, 0.2),
}


@dataclass(frozen=True)
class MrScan:
    """What stays the same over one patient's MR.

    `signal` (n,) float32 by tissue, the logarithm of the coils' gain, the texture as a fraction, the noise's deviation.
    """

    signal: Floats
    bias: Waves
    texture: Waves
    noise: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "MrScan":
        """Draw a scan: contrast, coil and noise differ from patient to patient."""
        mean = np.array([_SIGNAL[t][0] for t in Tissue])
        spread = np.array([_SIGNAL[t][1] for t in Tissue])
        signal = mean * (1 + spread * np.clip(rng.normal(size=len(mean)), -1.8, 1.8))
        for left, right in ((Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT), (Tissue.MEDULLA_LEFT, Tissue.MEDULLA_RIGHT)):
            signal[left] = signal[right]
        return cls(
            signal=(signal * rng.uniform(0.85, 1.15)).astype(np.float32),
            bias=Waves.sample(rng, 0.13, 450),
            texture=Waves.sample(rng, 0.035, 14, 24),
            noise=float(rng.uniform(11, 20)),
        )


def mr_slice(tissues: NDArray[np.uint8], rng: np.random.Generator, scan: MrScan, z_mm: float, fov_mm: float) -> Floats:
    """Image a tissue map (size, size) at height `z_mm`: float32 of the same shape, at least 0, mostly below 1200."""
    size = tissues.shape[0]
    axis = ((np.arange(size) - (size - 1) / 2) * (fov_mm / size)).astype(np.float32)
    gain = np.exp(scan.bias.field(axis, axis, z_mm)) * (1 + scan.texture.field(axis, axis, z_mm))
    clean = gaussian_filter(np.take(scan.signal, tissues), 0.55, truncate=3.0) * gain
    real, imaginary = scan.noise * rng.standard_normal((2, size, size), dtype=np.float32)
    return np.hypot(clean + real, imaginary)
