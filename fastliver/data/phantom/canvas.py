"""The map that one section's solids are painted on."""

import numpy as np
from numpy.typing import NDArray

from fastliver.data.phantom.shapes import Ellipsoid, Floats, Tube, Waves

Box = tuple[slice, slice]


class Canvas:
    """A section at the height `z`, under work.

    `axis_x` (w,) and `axis_y` (h,) are the pixels' coordinates in the standard frame, `x` and `y` (h, w) the same after
    the warp, all float32 mm; `map` (h, w) uint8 holds the tissues painted so far.
    """

    def __init__(self, axis_x: Floats, axis_y: Floats, z: float, warp: tuple[Waves, Waves]) -> None:
        self.axis_x, self.axis_y, self.z, self.warp = axis_x, axis_y, z, warp
        self.x = axis_x[None, :] + warp[0].field(axis_x, axis_y, z)
        self.y = axis_y[:, None] + warp[1].field(axis_x, axis_y, z)
        self.margin = max(w.bound for w in warp)
        self.map = np.zeros(self.x.shape, np.uint8)

    def box(self, x: float, y: float, reach: float) -> Box:
        """The rows and columns that hold every point that may lie within `reach` of (x, y) after the warp."""
        reach += self.margin
        top, bottom = np.searchsorted(self.axis_y, (y - reach, y + reach))
        left, right = np.searchsorted(self.axis_x, (x - reach, x + reach))
        return slice(int(top), int(bottom)), slice(int(left), int(right))

    def put(self, box: Box, inside: NDArray[np.bool_], tissue: int, over: tuple[int, ...] = ()) -> None:
        """Write `tissue` where `inside`, only over the tissues named (over all when none is)."""
        part = self.map[box]
        if over:
            inside = inside & (part == over[0] if len(over) == 1 else np.isin(part, over))
        part[inside] = tissue

    def ellipsoid(self, solid: Ellipsoid, tissue: int, over: tuple[int, ...] = ()) -> None:
        """Fill an ellipsoid's cut."""
        cut = solid.section(self.z)
        if cut is not None:
            box = self.box(*cut)
            self.put(box, solid.distance(self.x[box], self.y[box], self.z) < 0, tissue, over)

    def tube(self, solid: Tube) -> tuple[Box, Floats] | None:
        """The box of a tube's cut and the signed distance there, or None where z misses it.

        The balls are moved to where the warp takes them and stay round, so their boxes need no margin.
        """
        points, radii = solid.section(self.z)
        if not len(points):
            return None
        x, y = points[:, 0] - self.warp[0].at(points), points[:, 1] - self.warp[1].at(points)
        top, bottom = np.searchsorted(self.axis_y, y - radii), np.searchsorted(self.axis_y, y + radii)
        left, right = np.searchsorted(self.axis_x, x - radii), np.searchsorted(self.axis_x, x + radii)
        box = slice(int(top.min()), int(bottom.max())), slice(int(left.min()), int(right.max()))
        away = np.full((box[0].stop - box[0].start, box[1].stop - box[1].start), 99, np.float32)
        rise = (points[:, 2] - np.float32(self.z)) ** 2
        for i, radius in enumerate(radii):
            u, v = self.axis_x[left[i] : right[i]] - x[i], self.axis_y[top[i] : bottom[i]] - y[i]
            ball = np.sqrt((u * u)[None, :] + (v * v + rise[i])[:, None]) - radius
            near = away[
                top[i] - box[0].start : bottom[i] - box[0].start, left[i] - box[1].start : right[i] - box[1].start
            ]
            np.minimum(near, ball, out=near)
        return box, away

    def fill(self, solid: Tube, tissue: int, over: tuple[int, ...] = ()) -> None:
        """Fill a tube's cut."""
        cut = self.tube(solid)
        if cut is not None:
            self.put(cut[0], cut[1] < 0, tissue, over)
