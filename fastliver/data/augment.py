"""Augmentation on the device: image and label go the same way, by parameters that are drawn on the host.

An epoch's parameters are a table with one row a sample. What follows them are device operations alone, fit for a CUDA
graph. The order is: move (one affine and elastic map, sampled once), gamma, bias field, noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastliver.data.resize import BACKGROUND

CONTROL = 7
"""Control points of the elastic field along each axis."""
ORDER = 3
"""Degree of the bias field's polynomial."""
POWERS = [(i, j) for i in range(ORDER + 1) for j in range(ORDER + 1 - i) if i + j > 0]

# Columns of the table.
AFFINE = slice(0, 6)
GAMMA, NOISE, NOISE_SEED = 6, 7, 8
BIAS = slice(9, 9 + len(POWERS))
ELASTIC = slice(BIAS.stop, BIAS.stop + 2 * CONTROL**2)


@dataclass(frozen=True)
class Recipe:
    """How far each transform goes; parameters are uniform from minus to plus what is given, unless it says otherwise.

    Attributes:
        flip: mirror left and right half the time.
        shift: share of the side, along each axis.
        whole_pixels: shift by whole pixels, which leaves values as they are.
        rotation: degrees.
        shear: degrees.
        scale: share of the size, along each axis for itself.
        elastic: largest move of a control point, as a share of the side (Rueckert et al. 1999: cubic B-splines).
        gamma: largest logarithm of the exponent that is taken of values mapped to [0, 1].
        bias: coefficients of a polynomial over [-1, 1]^2, the logarithm of a factor on values mapped to [0, 1].
        noise: largest deviation of Gaussian noise on values mapped to [0, 1]; uniform from 0.
        repeat_edge: what comes in from outside repeats the edge; else it is background.
    """

    flip: bool = False
    shift: float = 0.0
    whole_pixels: bool = False
    rotation: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    noise: float = 0.0
    repeat_edge: bool = False


RECIPES = {
    "flip-shift": Recipe(flip=True, shift=1 / 16, whole_pixels=True),
    # What the Keras U-Net (github.com/zhixuhao/unet, main.py) asks of ImageDataGenerator.
    "keras": Recipe(flip=True, shift=0.05, rotation=0.2, shear=0.05, scale=0.05, repeat_edge=True),
    "full": Recipe(flip=True, shift=1 / 16, rotation=10, scale=0.1, elastic=0.03, gamma=0.35, bias=0.15, noise=0.03),
}


class Augmenter:
    """Draws parameters and applies them.

    Args:
        recipe: what is done, and how far it goes.
        shape: (rows, columns) of the images.
        device: where they lie.
    """

    columns = ELASTIC.stop
    """Parameters of a sample."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], device: torch.device) -> None:
        self.recipe, self.shape = recipe, shape
        rows, columns = (torch.from_numpy(_centres(side)).to(device, torch.float32) for side in shape)
        self._x, self._y = columns.view(1, 1, -1), rows.view(1, -1, 1)
        self._splines = [torch.from_numpy(_splines(side)).to(device, torch.float32) for side in shape]
        self._powers = torch.stack([self._y[0] ** i * self._x[0] ** j for i, j in POWERS]).flatten(1)
        self._inside = torch.ones(shape, device=device)
        self._hashes = _hash(torch.arange(shape[0] * shape[1], device=device))

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """(count, columns) parameters; the first rows are the same however many are drawn."""
        recipe = self.recipe
        uniform = rng.random((count, self.columns + 1))
        signed = 2 * uniform - 1
        table = np.zeros((count, self.columns), np.float32)
        flip = np.where((uniform[:, 0] < 0.5) & recipe.flip, -1.0, 1.0)
        pixels = np.array(self.shape)
        if recipe.whole_pixels:
            limit = (pixels * recipe.shift).astype(int)
            shift = np.floor(uniform[:, 1:3] * (2 * limit + 1)) - limit
        else:
            shift = signed[:, 1:3] * recipe.shift * pixels
        table[:, AFFINE] = self.affine(
            flip,
            shift,
            np.deg2rad(recipe.rotation * signed[:, 3]),
            np.deg2rad(recipe.shear * signed[:, 4]),
            1 + recipe.scale * signed[:, 5:7],
        ).reshape(count, 6)
        table[:, GAMMA] = np.exp(recipe.gamma * signed[:, 7])
        table[:, NOISE] = recipe.noise * uniform[:, 8]
        table[:, NOISE_SEED] = np.floor(uniform[:, 9] * 2**24)  # what float32 holds exactly
        table[:, BIAS] = recipe.bias * signed[:, 10 : 10 + len(POWERS)]
        table[:, ELASTIC] = 2 * recipe.elastic * signed[:, 10 + len(POWERS) :]  # the side spans 2 of [-1, 1]
        return table

    def affine(
        self, flip: NDArray, shift: NDArray, rotation: NDArray, shear: NDArray, scale: NDArray
    ) -> NDArray[np.float64]:
        """The maps from a pixel to where its value comes from: first mirrored, then scaled, sheared, shifted, turned.

        Args:
            flip: (N,) -1 to mirror left and right, else 1.
            shift: (N, 2) down and right, in pixels, from the pixel to its source.
            rotation: (N,) in radians.
            shear: (N,) in radians.
            scale: (N, 2) along rows and columns; above 1 shows more of the image.

        Returns:
            (N, 2, 3) for (x, y, 1) with x and y from -1 to 1 between the image's outer edges.
        """
        one, zero = np.ones_like(flip), np.zeros_like(flip)

        def matrix(*values: NDArray) -> NDArray:
            return np.stack(values, -1).reshape(-1, 3, 3)

        sin, cos = np.sin(rotation), np.cos(rotation)
        # On (row, column, 1) in pixels from the middle.
        pixels = (
            matrix(cos, -sin, zero, sin, cos, zero, zero, zero, one)
            @ matrix(one, zero, shift[:, 0], zero, one, shift[:, 1], zero, zero, one)
            @ matrix(one, -np.sin(shear), zero, zero, np.cos(shear), zero, zero, zero, one)
            @ matrix(scale[:, 0], zero, zero, zero, scale[:, 1], zero, zero, zero, one)
            @ matrix(one, zero, zero, zero, flip, zero, zero, zero, one)
        )
        half = np.array([self.shape[1] / 2, self.shape[0] / 2, 1.0])
        return (pixels[:, [[1], [0], [2]], [1, 0, 2]] * half / half[:, None])[:, :2]

    def __call__(self, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 1, H, W) float32 in [-1, 1] and labels (N, H, W) uint8, each by its row (N, columns)."""
        # Coordinates need float32, whatever the training around computes in.
        with torch.autocast(images.device.type, enabled=False):
            images, labels = self._move(images, labels, rows)
            return self._intensity(images, rows), labels

    def _move(self, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        a = rows[:, AFFINE].view(-1, 2, 3, 1, 1)
        grid = a[:, :, 0] * self._x.unsqueeze(1) + a[:, :, 1] * self._y.unsqueeze(1) + a[:, :, 2]
        if recipe.elastic:
            down, across = self._splines
            grid = grid + down @ rows[:, ELASTIC].view(-1, 2, CONTROL, CONTROL) @ across.T
        points = grid.permute(0, 2, 3, 1)
        mode, padding = "nearest" if recipe.whole_pixels else "bilinear", "border" if recipe.repeat_edge else "zeros"
        known = torch.stack((labels.float(), self._inside.expand(labels.shape)), 1)
        mask, inside = F.grid_sample(known, points, "nearest", padding, align_corners=False).unbind(1)
        # Without zeros at the edges: half a pixel of them would be greyer than background.
        moved = F.grid_sample(images, points, mode, "border", align_corners=False)
        inside = inside.unsqueeze(1)
        return moved * inside + BACKGROUND * (1 - inside), mask.to(labels.dtype)

    def _intensity(self, images: Tensor, rows: Tensor) -> Tensor:
        recipe = self.recipe
        if not (recipe.gamma or recipe.bias or recipe.noise):
            return images
        values = ((images + 1) / 2).clamp(0, 1)
        if recipe.gamma:
            values = values ** rows[:, GAMMA].view(-1, 1, 1, 1)
        if recipe.bias:
            values = values * (rows[:, BIAS] @ self._powers).exp().view_as(values)
        if recipe.noise:
            values = values + rows[:, NOISE].view(-1, 1, 1, 1) * self._normal(rows[:, NOISE_SEED]).view_as(values)
        return values.clamp(0, 1) * 2 - 1

    def _normal(self, seeds: Tensor) -> Tensor:
        """(N, H * W) numbers of a standard normal distribution, by a seed (N,) each and the pixel (Box and Muller)."""
        first = _hash(self._hashes ^ seeds.long().unsqueeze(1))
        second = _hash((first + 0x9E3779B9) & 0xFFFFFFFF)
        radius = (-2 * ((first + 1).float() / 2**32).log()).sqrt()
        return radius * (second.float() * (2 * torch.pi / 2**32)).cos()


def _hash(numbers: Tensor) -> Tensor:
    """Mix 32-bit numbers held in int64 (a multiply-and-shift hash whose bits are near to fair coins)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & 0xFFFFFFFF
    return numbers ^ (numbers >> 16)


def _centres(side: int) -> NDArray[np.float64]:
    """(side,) pixel centres where the image's outer edges are -1 and 1."""
    return (2 * np.arange(side) + 1) / side - 1


def _splines(side: int) -> NDArray[np.float64]:
    """(side, CONTROL) weights of the control points at each pixel; they are 0 or more and add up to 1."""
    spans = CONTROL - 3
    distance = np.abs(((_centres(side) + 1) / 2 * spans)[:, None] - (np.arange(CONTROL) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)
