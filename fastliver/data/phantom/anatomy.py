"""One patient's abdomen as smooth solids, cut into axial maps of tissues.

Shapes are given in a standard frame in mm (x to the patient's left, y to the back, z to the head, origin in the middle
of the liver's height) and brought to a patient by a scale and a smooth warp. Nothing depends on the slices taken, so
any z can be asked for.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fastliver.data.phantom.canvas import Canvas
from fastliver.data.phantom.organs import Organs
from fastliver.data.phantom.shapes import Ellipsoid, Floats, Tube, Waves, smooth_max


class Tissue(IntEnum):
    """What a pixel of a tissue map shows."""

    AIR = 0
    SKIN = 1
    FAT = 2
    VISCERAL_FAT = 3
    MUSCLE = 4
    BONE = 5
    MARROW = 6
    DISC = 7
    CEREBROSPINAL_FLUID = 8
    CORD = 9
    LUNG = 10
    BLOOD = 11
    HEART = 12
    AORTA = 13
    VENA_CAVA = 14
    LIVER = 15
    LIVER_VESSEL = 16
    GALLBLADDER = 17
    SPLEEN = 18
    KIDNEY_LEFT = 19
    KIDNEY_RIGHT = 20
    MEDULLA_LEFT = 21
    MEDULLA_RIGHT = 22
    PANCREAS = 23
    BOWEL_WALL = 24
    BOWEL_FLUID = 25
    STOOL = 26
    GAS = 27


# The liver's lower surface: where its medial edge stands (x in mm) at each height, from the tip to the dome.
_EDGE_Z = (-96, -70, -42, -28, -14, 0, 14, 28, 45, 70)
_EDGE_X = (-150, -112, -94, -80, -59, -34, -6, 19, 38, 20)
# The diaphragm: domes as (x, y, radius in x, radius in y, height of the top), the right one first.
_DOMES = ((-62, 0, 87, 100, 72), (12, -28, 88, 84, 50), (66, 2, 82, 99, 58))
_DOME_FOOT = -28.0


@dataclass(frozen=True)
class Abdomen:
    """One patient's shapes.

    `scale` brings the standard frame to the patient's mm and `shift` (x, y in mm) to its place in the picture. `fat` is
    the thickness under the skin in front, at the sides and behind; `wall` is relative. The fields bend and roughen
    everything.
    """

    scale: tuple[float, float, float]
    shift: tuple[float, float]
    squareness: float
    belly: float
    fat: tuple[float, float, float]
    wall: float
    warp: tuple[Waves, Waves]
    edge: Waves
    dome: Waves
    content: Waves
    grain: Waves
    edge_shift: float
    edge_tilt: float
    arms: bool
    organs: Organs

    @classmethod
    def sample(cls, rng: np.random.Generator, variation: float = 1.0) -> "Abdomen":
        """Draw a patient; `variation` widens the spread of all shapes and, above 1, adds weight and sometimes arms."""

        def vary(spread: float) -> float:
            return float(spread * variation * np.clip(rng.normal(), -2, 2))

        heavier = max(variation - 1, 0)
        adipose = rng.uniform(0.7, 1.7) * (1 + 0.5 * heavier)
        return cls(
            scale=(1 + vary(0.04) + 0.03 * heavier, 1 + vary(0.045) + 0.08 * heavier, 1 + vary(0.04)),
            shift=(vary(5), vary(6)),
            squareness=float(np.clip(1.25 + vary(0.3), 0.6, 2.0)),
            belly=vary(0.06) + 0.05 * heavier,
            fat=(11 * adipose, 9 * adipose, 12 * adipose),
            wall=1 + vary(0.1),
            warp=(Waves.sample(rng, 3.0 * variation**0.5, 130), Waves.sample(rng, 3.0 * variation**0.5, 130)),
            edge=Waves.sample(rng, 6.0, 75, 8),
            dome=Waves.sample(rng, 2.5, 90),
            content=Waves.sample(rng, 1.0, 26, 12),
            grain=Waves.sample(rng, 1.0, 15, 16),
            edge_shift=vary(8),
            edge_tilt=float(np.clip(0.6 + vary(0.15), 0.25, 1.0)),
            arms=bool(rng.random() < 0.6 * heavier),
            organs=Organs.sample(rng, variation),
        )

    @property
    def extent(self) -> tuple[float, float]:
        """Lowest and highest z in mm worth imaging: from below the liver's tip to the lungs above its dome."""
        return -122 * self.scale[2], 94 * self.scale[2]

    @property
    def size(self) -> tuple[float, float]:
        """Width and depth in mm of the widest section of the trunk, without arms."""
        width = 2 * self.scale[0] * (142 + 15 * self.wall + self.fat[1])
        return width, self.scale[1] * (204 + 22 * self.wall + self.fat[0] + self.fat[2])

    @property
    def back_mm(self) -> float:
        """How far the back reaches below the picture's middle, in mm."""
        return self.shift[1] + self.scale[1] * (104 + 14 * self.wall + self.fat[2])

    def tissues(self, z_mm: float, size: int, fov_mm: float) -> NDArray[np.uint8]:
        """The axial section at height `z_mm`, `fov_mm` wide, as `Tissue` values: uint8 (size, size).

        Row 0 is anterior and column 0 the patient's right.
        """
        pixels = ((np.arange(size) - (size - 1) / 2) * (fov_mm / size)).astype(np.float32)
        axis_x = (pixels - np.float32(self.shift[0])) / np.float32(self.scale[0])
        axis_y = (pixels - np.float32(self.shift[1])) / np.float32(self.scale[1])
        # The trunk's box: everything outside stays air.
        reach_x = 270 if self.arms else self.size[0] / self.scale[0] / 2 + 12
        reach_y = 150 + max(self.fat)
        top, bottom = np.searchsorted(axis_y, (-reach_y, reach_y))
        left, right = np.searchsorted(axis_x, (-reach_x, reach_x))
        tissues = np.zeros((size, size), np.uint8)
        if top < bottom and left < right:
            canvas = Canvas(axis_x[left:right], axis_y[top:bottom], z_mm / self.scale[2], self.warp)
            grain = self.grain.field(canvas.axis_x, canvas.axis_y, canvas.z)
            depth = self._trunk(canvas, grain)
            roof = self._chest(canvas, depth)
            self._viscera(canvas, depth, roof, grain)
            self._back(canvas, grain)
            tissues[top:bottom, left:right] = canvas.map
        return tissues

    def _trunk(self, c: Canvas, grain: Floats) -> Floats:
        """Paint skin, fat, the wall of muscle and the ribs; return the distance outwards from the cavity (h, w)."""
        z, x, y = c.z, c.x, c.y
        narrowing = 1 - 0.07 * (z / 100) ** 2
        front = 1 / (100 * narrowing * (1 + self.belly * np.clip(-z / 80, -0.5, 1)))
        u = x * np.float32(1 / (142 * narrowing))
        v = y * np.where(y < 0, np.float32(front), np.float32(1 / (100 * narrowing)))
        u, v = u * u, v * v
        rho = np.sqrt(np.sqrt(u * u + v * v + np.float32(self.squareness) * u * v)) + np.float32(1e-6)
        radius = np.sqrt(x * x + y * y)
        depth = radius - radius / rho
        shell = depth > 0
        side = np.where(shell, x * x / (radius * radius + 1), 0)
        behind = np.where(y > 0, 1 - side, 0)
        ahead = 1 - side - behind
        chest = float(np.clip((z + 20) / 90, 0, 1))
        # The wall: thin in front with a seam between the two recti, thicker behind and over the ribs. Its profile along
        # x is taken before the warp, where it is a row instead of a picture.
        middle = np.abs(c.axis_x)[None, :]
        recti = 8 + 4 * np.exp(-(((middle - 34) / 22) ** 2))
        wall = (ahead * recti + side * (12 + 5 * chest) + behind * (13 + 6 * chest)) * np.float32(self.wall)
        fat = ahead * self.fat[0] + side * self.fat[1] + behind * (self.fat[2] - 7 * np.exp(-((middle / 16) ** 2)))
        skin = wall + fat * np.float32(1 - 0.3 * chest) + 2
        wall -= ahead * (6 * np.exp(-((middle / 5) ** 2)))
        c.map[depth < skin] = Tissue.SKIN
        c.map[depth < skin - 2] = Tissue.FAT
        c.map[depth < wall] = Tissue.MUSCLE
        c.map[depth < 0] = Tissue.VISCERAL_FAT
        c.map[(c.map == Tissue.MUSCLE) & (np.abs(grain) < 0.05)] = Tissue.FAT  # strands between the muscles
        self._ribs(c, depth, wall)
        if self.arms:
            self._arms(c)
        return depth

    def _arms(self, c: Canvas) -> None:
        """Paint the forearms beside the trunk, from the inside out so that each layer only fills air."""
        layers = ((12, Tissue.BONE), (33, Tissue.MUSCLE), (40, Tissue.FAT), (42, Tissue.SKIN))
        for side in (-1, 1):
            for radius, tissue in layers:
                limb = Ellipsoid((side * (200 + self.fat[1]), 18, -60), (radius, radius, 600), lean=(side * 0.15, 0.05))
                c.ellipsoid(limb, tissue, (Tissue.AIR,))

    def _ribs(self, c: Canvas, depth: Floats, wall: Floats) -> None:
        """Ribs fall from the spine forwards, so a section cuts each one in an oblique oval."""
        rows, columns = np.nonzero((depth > 0) & (depth < wall))
        x, y, out = c.x[rows, columns], c.y[rows, columns], depth[rows, columns]
        angle = np.arctan2(np.abs(x), y)
        fall = np.float32(c.z) + 42 * angle + np.where(x < 0, np.float32(6), np.float32(-6))
        rise = (fall / 27 - np.round(fall / 27)) * 27
        oval = (rise / 5.5) ** 2 + ((out - 5) / 3.8) ** 2
        present = (fall > -18) & (angle < 2.35 + c.z / 180) & (angle > 0.35)
        for limit, tissue in ((1.0, Tissue.BONE), (0.35, Tissue.MARROW)):
            hit = present & (oval < limit)
            c.map[rows[hit], columns[hit]] = tissue
        c.ellipsoid(Ellipsoid((0, -106, 110), (24, 6, 62)), Tissue.BONE, (Tissue.MUSCLE, Tissue.FAT))

    def _chest(self, c: Canvas, depth: Floats) -> Floats:
        """Paint lungs, heart and the diaphragm; return the height of the diaphragm over each pixel (h, w)."""
        roof = np.full(c.x.shape, _DOME_FOOT, np.float32)
        for x, y, across, along, top in _DOMES:
            u, v = (c.x - x) * np.float32(1 / across), (c.y - y) * np.float32(1 / along)
            bulge = np.sqrt(np.maximum(1 - u * u - v * v, 0))
            np.maximum(roof, _DOME_FOOT + np.float32(top - _DOME_FOOT) * bulge, out=roof)
        roof += self.dome.field(c.axis_x, c.axis_y, c.z)
        inner = depth < 0
        c.map[inner & (roof < c.z + 3)] = Tissue.MUSCLE
        c.map[inner & (roof < c.z)] = Tissue.LUNG
        organs = self.organs
        if c.z > _DOME_FOOT:
            c.fill(organs.lung_vessels, Tissue.BLOOD, (Tissue.LUNG,))
            # FAT, not the belly's fat, which the belly's organs would fill
            c.ellipsoid(organs.mediastinum, Tissue.FAT, (Tissue.LUNG,))
            layers = (Tissue.FAT, Tissue.HEART, Tissue.BLOOD, Tissue.BLOOD)
            for solid, tissue in zip(organs.heart, layers, strict=True):
                c.ellipsoid(solid, tissue, (Tissue.LUNG, Tissue.FAT, Tissue.HEART))
        return roof

    def _viscera(self, c: Canvas, depth: Floats, roof: Floats, grain: Floats) -> None:
        """Paint the organs of the belly, from the liver to the bowel that fills what is left."""
        organs, free = self.organs, (Tissue.VISCERAL_FAT,)
        whole = (slice(None), slice(None))
        cover = smooth_max(depth + 3, c.z + 3 - roof, 10)
        if _EDGE_Z[0] < c.z < 90:
            reach = np.interp(c.z, _EDGE_Z, _EDGE_X) + self.edge_shift
            tilt = self.edge_tilt * float(np.interp(c.z, (-60, 30), (0, 1)))
            medial = (c.x + np.float32(tilt) * c.y - np.float32(reach)) * np.float32((1 + tilt**2) ** -0.5)
            medial += self.edge.field(c.axis_x, c.axis_y, c.z)
            c.put(whole, smooth_max(cover, medial, 18) < 0, Tissue.LIVER, free)
            for solid in organs.fissures:
                c.ellipsoid(solid, Tissue.VISCERAL_FAT, (Tissue.LIVER,))
            c.fill(organs.liver_vessels, Tissue.LIVER_VESSEL, (Tissue.LIVER,))
        cut = organs.spleen.section(c.z)
        if cut is not None:
            box = c.box(*cut)
            outer = smooth_max(organs.spleen.distance(c.x[box], c.y[box], c.z), cover[box], 8)
            inner = -organs.spleen_hollow.distance(c.x[box], c.y[box], c.z)
            c.put(box, smooth_max(outer, inner, 6) < 0, Tissue.SPLEEN, free)
        self._kidneys(c)
        c.ellipsoid(organs.gallbladder, Tissue.GALLBLADDER, (Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.VISCERAL_FAT))
        c.fill(organs.pancreas, Tissue.PANCREAS, free)
        content = self.content.field(c.axis_x, c.axis_y, c.z)
        self._gut(c, organs.stomach, content, Tissue.BOWEL_FLUID, organs.stomach_gas, 3.5)
        for piece in organs.colon:
            self._gut(c, piece, content + grain, Tissue.STOOL, 0.45, 2.5)
        for i, loop in enumerate(organs.loops):
            self._gut(c, loop, content, Tissue.STOOL if i % 3 == 1 else Tissue.BOWEL_FLUID, 1.2, 2.5)
        c.fill(organs.mesentery, Tissue.BLOOD, free)

    def _kidneys(self, c: Canvas) -> None:
        """Paint both kidneys; their capsules push liver and spleen aside."""
        names = ((Tissue.KIDNEY_RIGHT, Tissue.MEDULLA_RIGHT), (Tissue.KIDNEY_LEFT, Tissue.MEDULLA_LEFT))
        for kidney, (cortex, medulla) in zip(self.organs.kidneys, names, strict=True):
            c.ellipsoid(kidney.capsule, Tissue.VISCERAL_FAT, (Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.SPLEEN))
            c.ellipsoid(kidney.cortex, cortex, (Tissue.VISCERAL_FAT,))
            c.ellipsoid(kidney.medulla, medulla, (cortex,))
            c.ellipsoid(kidney.sinus, Tissue.VISCERAL_FAT, (cortex, medulla))
            c.ellipsoid(kidney.pelvis, Tissue.BLOOD, (Tissue.VISCERAL_FAT,))

    def _gut(self, c: Canvas, solid: Tube, content: Floats, filling: Tissue, gas: float, wall: float) -> None:
        """Paint a piece of gut, its wall `wall` mm thick; gas is where `content` and the lift forwards exceed `gas`."""
        cut = c.tube(solid)
        if cut is None:
            return
        box, away = cut
        free = c.map[box] == Tissue.VISCERAL_FAT
        c.put(box, free & (away < 0), Tissue.BOWEL_WALL)
        lumen = free & (away < -wall)
        c.put(box, lumen, filling)
        middle = c.axis_y[box[0]].mean()
        lightness = 0.5 * content[box] - (c.y[box] - middle) * np.float32(0.03)
        c.put(box, lumen & (away < -wall - 1) & (lightness > gas), Tissue.GAS)

    def _back(self, c: Canvas, grain: Floats) -> None:
        """Paint the muscles beside the spine, the great vessels and the spine itself."""
        organs = self.organs
        soft = (Tissue.VISCERAL_FAT, Tissue.FAT, Tissue.MUSCLE, Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.LUNG)
        for solid in organs.back_muscles:
            c.ellipsoid(solid, Tissue.MUSCLE, soft)
        for muscle in organs.psoas:
            c.fill(muscle, Tissue.MUSCLE, soft)
        c.fill(organs.vena_cava, Tissue.VENA_CAVA)
        c.fill(organs.aorta, Tissue.AORTA)
        box = c.box(0, 78, 50)
        x, y, part = c.x[box], c.y[box], c.map[box]
        beside = np.abs(x)
        part[(part == Tissue.MUSCLE) & (np.abs(grain[box]) < 0.06)] = Tissue.FAT
        level = (c.z / 35) % 1.0  # where in its vertebra the section lies: 0 to 0.2 the disc, then the body
        disc = level < 0.2
        swell = 1 - 0.08 * np.sin(np.pi * level)
        body = (x / (23.5 * swell)) ** 2 + ((y - 53) / (18 * swell)) ** 2
        body += 0.35 * np.exp(-(((y - 70) / 8) ** 2) - (x / 9) ** 2)
        part[body < 1] = Tissue.DISC if disc else Tissue.BONE
        if not disc:
            part[body < 0.82] = Tissue.MARROW
        canal = np.sqrt((x / 11) ** 2 + ((y - 79) / 9) ** 2)
        arch = (canal < 1.4) & ((y > 76) | (level > 0.55))
        spinous = (x / 3.5) ** 2 + ((y - 97) / (6 + 9 * level)) ** 2
        facets = ((beside - 15) / 6) ** 2 + ((y - 86) / 6) ** 2
        wings = ((beside - 24) / 15) ** 2 + ((y - 80) / 4) ** 2 + ((level - 0.6) / 0.22) ** 2
        bony = np.minimum(np.minimum(spinous, facets), wings)
        part[((bony < 1) | arch) & (body >= 1)] = Tissue.BONE
        part[(bony < 0.35) & (body >= 1)] = Tissue.MARROW
        part[canal < 1] = Tissue.CEREBROSPINAL_FLUID
        part[canal < (0.55 if c.z > -30 else 0.3)] = Tissue.CORD
