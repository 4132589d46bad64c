"""Features of images from a network that the user names, for FID and KID."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastliver.errors import InputError

BATCH = 16


class FeatureNetwork:
    """A feature network in an ONNX file: data alone, nothing of it is executed as Python.

    It takes one input (N, 1 or 3, H, W) float32 in [-1, 1] and gives features as its first output, (N, D) or (N, D, 1,
    1); to 3 channels a slice goes three times. Sizes that the network fixes must be those of the run's images.
    """

    def __init__(self, path: Path) -> None:
        """Load the file; raises InputError where it or onnxruntime is missing, or it isn't such a network."""
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"{path}: FID and KID need onnxruntime: pip install onnxruntime") from error
        if not path.is_file():
            raise InputError(f"{path}: no such file; name a feature network in ONNX")
        self.path = path
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds of error share no base class
            raise InputError(f"{path}: can't be loaded as ONNX ({str(error).partition(chr(10))[0]})") from error
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3):
            raise InputError(
                f"{path}: its input is {[item.shape for item in inputs]}, expected one of (N, 1 or 3, H, W)"
            )
        self.input, self.channels = inputs[0].name, int(shape[1])

    def __call__(
        self, images: NDArray[np.float16], on_slice: Callable[[int], None] = lambda done: None
    ) -> NDArray[np.float32]:
        """Features (N, D) of slices (N, H, W) in [-1, 1]."""
        found = []
        for start in range(0, len(images), BATCH):
            batch = np.asarray(images[start : start + BATCH], np.float32)[:, None].repeat(self.channels, 1)
            try:
                features = self.session.run(None, {self.input: batch})[0]
            except Exception as error:
                raise InputError(
                    f"{self.path}: refuses images {batch.shape} ({str(error).partition(chr(10))[0]}); name a network "
                    "that takes the run's image size"
                ) from error
            found.append(np.asarray(features, np.float32).reshape(len(batch), -1))
            on_slice(start + len(batch))
        return np.concatenate(found)
