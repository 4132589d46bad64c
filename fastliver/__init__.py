"""fastliver: labelled synthetic MRI from labelled CT, and a liver U-Net that learns from it.

Implements "Cross modality medical image synthesis for improving liver segmentation" (EssNet + U-Net).

    model = fastliver.load("runs/x")
    mr = model.synthesize(ct, spacing)    # (D, H, W) HU -> (D, H, W) in [-1, 1]
    liver = model.segment(mr, spacing)    # (D, H, W) grey values -> (D, H, W) uint8
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastliver.inference import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`fastliver.load` and `fastliver.Model`, imported when they are first asked for."""
    if name in ("Model", "load"):
        from fastliver import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
