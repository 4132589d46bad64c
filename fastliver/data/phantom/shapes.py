"""Smooth random fields and the two solids that the abdomen is made of: ellipsoids and tubes.

Lengths are millimetres. Distances are negative inside a solid; an ellipsoid's are rough away from its surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float32]

# The balls of a tube stand this many radii apart; their union is then within 4 % of a smooth tube.
_STEP = 0.55


@dataclass(frozen=True)
class Waves:
    """A smooth random field over space: a sum of plane waves, so it is continuous in all three directions.

    `amplitude` (n,), `wave` (n, 3) in rad/mm, `phase` (n,) in rad; all float32.
    """

    amplitude: Floats
    wave: Floats
    phase: Floats

    @classmethod
    def sample(cls, rng: np.random.Generator, deviation: float, wavelength: float, count: int = 6) -> "Waves":
        """Draw a field with the standard deviation `deviation` whose waves are about `wavelength` mm long."""
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = wavelength * rng.uniform(0.7, 1.5, size=(count, 1))
        return cls(
            amplitude=np.full(count, deviation * np.sqrt(2 / count), np.float32),
            wave=(2 * np.pi * direction / length).astype(np.float32),
            phase=rng.uniform(0, 2 * np.pi, count).astype(np.float32),
        )

    @property
    def bound(self) -> float:
        """No value of the field is larger than this."""
        return float(np.abs(self.amplitude).sum())

    def at(self, points: Floats) -> Floats:
        """Values at `points` (m, 3): float32 (m,)."""
        return np.sin(points @ self.wave.T + self.phase) @ self.amplitude

    def field(self, x: Floats, y: Floats, z: float) -> Floats:
        """Values on the grid of the axes `x` (w,) and `y` (h,) at height `z`: float32 (h, w)."""
        across = np.outer(self.wave[:, 0], x)
        down = np.outer(self.wave[:, 1], y) + (self.wave[:, 2] * np.float32(z) + self.phase)[:, None]
        weight = self.amplitude[:, None]
        # sin(a + b) taken apart: one thin product instead of a sine for each wave and pixel. einsum, not @: handing so
        # thin a product to the BLAS library's threads costs more than the product.
        rows = np.concatenate([weight * np.sin(down), weight * np.cos(down)])
        return np.einsum("nh,nw->hw", rows, np.concatenate([np.cos(across), np.sin(across)]))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid turned by `turn` rad about z, whose centre moves by `lean` mm in x and y for each mm of z."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)

    def section(self, z: float) -> tuple[float, float, float] | None:
        """Centre x, y and largest in-plane reach of the cut at height z, or None where z misses the ellipsoid."""
        rise = z - self.centre[2]
        if abs(rise) >= self.radii[2]:
            return None
        return self.centre[0] + self.lean[0] * rise, self.centre[1] + self.lean[1] * rise, max(self.radii[:2])

    def distance(self, x: Floats, y: Floats, z: float) -> Floats:
        """Roughly the signed distance at the points (x, y) of height z; float32 of their shape."""
        rise = z - self.centre[2]
        u = x - np.float32(self.centre[0] + self.lean[0] * rise)
        v = y - np.float32(self.centre[1] + self.lean[1] * rise)
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        p = (cos * u + sin * v) * np.float32(1 / self.radii[0])
        q = (cos * v - sin * u) * np.float32(1 / self.radii[1])
        size = np.float32(min(self.radii[:2]))
        return (np.sqrt(p * p + q * q + np.float32((rise / self.radii[2]) ** 2)) - 1) * size


@dataclass(frozen=True)
class Tube:
    """The union of balls along one or more lines: `points` (n, 3) and `radii` (n,), float32."""

    points: Floats
    radii: Floats

    @classmethod
    def along(cls, points: Sequence[Sequence[float]], radii: Sequence[float]) -> "Tube":
        """A tube through `points` (smoothly, without overshoot) with the radius `radii` at each of them."""
        knots, size = np.asarray(points, np.float64), np.asarray(radii, np.float64)
        way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
        steps = np.linspace(0, way[-1], max(2, int(way[-1] / (_STEP * size.min())) + 1))
        line, size = PchipInterpolator(way, knots)(steps), np.interp(steps, way, size)
        return cls(line.astype(np.float32), size.astype(np.float32))

    def section(self, z: float) -> tuple[Floats, Floats]:
        """The balls that the plane z cuts: `points` (m, 3) and `radii` (m,)."""
        cut = np.abs(self.points[:, 2] - np.float32(z)) < self.radii
        return self.points[cut], self.radii[cut]


def branches(
    rng: np.random.Generator,
    starts: Sequence[Sequence[float]],
    headings: Sequence[Sequence[float]],
    radii: Sequence[float],
    length: float,
    depth: int,
) -> Tube:
    """Vessels from `starts` (n, 3) towards `headings` (n, 3) that split in two `depth` times, thinner and shorter."""
    start, unit, radius = (
        np.array(starts, np.float64),
        _unit(np.array(headings, np.float64)),
        np.array(radii, np.float64),
    )
    reach = np.full(len(start), length)
    points, sizes = [], []
    for _ in range(depth + 1):
        thin = 0.78 * radius
        bend = 0.25 * rng.normal(size=unit.shape)
        way = np.linspace(0, 1, int((reach / (_STEP * thin)).max()) + 2)[:, None]
        line = start + reach[:, None] * (way[..., None] * unit + way[..., None] ** 2 * 0.5 * bend)
        points.append(line.reshape(-1, 3))
        sizes.append((radius + way * (thin - radius)).reshape(-1))
        unit = _unit(unit + bend)
        aside = _unit(np.cross(unit, rng.normal(size=unit.shape)))
        start = np.concatenate([line[-1], line[-1]])
        unit = _unit(np.concatenate([unit + 0.75 * aside, unit - 0.45 * aside]))
        radius = np.concatenate([0.8 * thin, 0.92 * thin])
        reach = np.concatenate([reach, reach]) * rng.uniform(0.7, 0.95, 2 * len(reach))
    return Tube(np.concatenate(points).astype(np.float32), np.concatenate(sizes).astype(np.float32))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def smooth_max(a: Floats, b: Floats, width: float) -> Floats:
    """The larger of two distances, rounded over `width` mm where they meet: the intersection of two solids."""
    blend = a - b
    np.abs(blend, out=blend)
    np.subtract(np.float32(width), blend, out=blend)
    np.maximum(blend, 0, out=blend)
    blend *= blend
    blend *= np.float32(0.25 / width)
    blend += np.maximum(a, b)
    return blend
