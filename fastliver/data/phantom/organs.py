"""The solids inside one patient's abdomen, drawn around an average that was measured on real scans."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastliver.data.phantom.shapes import Ellipsoid, Tube, branches

Point = tuple[float, float, float]

# Where the coils of small bowel lie.
_LOOPS = (
    (62, -40, -42), (30, -50, -62), (68, -8, -70), (-8, -52, -78), (-48, -42, -92), (36, -20, -92),
    (72, -35, -100), (-40, -20, -122), (5, -50, -118), (45, -40, -128),
)  # fmt: skip
# Where the mesentery's vessels head for (x).
_ROOTS = (-20.0, 5.0, 30.0)


@dataclass(frozen=True)
class Kidney:
    """A kidney with its fat capsule outside and medulla, sinus and pelvis inside."""

    capsule: Ellipsoid
    cortex: Ellipsoid
    medulla: Ellipsoid
    sinus: Ellipsoid
    pelvis: Ellipsoid

    @classmethod
    def at(cls, centre: Point, size: float) -> "Kidney":
        """A kidney of the relative `size` whose hilum faces the spine at x = 0."""
        x, y, z = centre
        side = 1.0 if x > 0 else -1.0
        turn, lean = side * 0.45, (-side * 0.16, -0.1)

        def part(dx: float, dy: float, a: float, b: float, c: float) -> Ellipsoid:
            return Ellipsoid((x - side * dx, y - dy, z), (a * size, b * size, c * size), turn, lean)

        return cls(
            part(0, 0, 33, 31, 62),
            part(0, 0, 28, 26, 54),
            part(4, 2, 19, 16, 40),
            part(15, 7, 16, 8, 27),
            part(16, 8, 9, 4, 12),
        )


@dataclass(frozen=True)
class Organs:
    """Every solid in the standard frame (mm), the warp and the scale of the patient still to come."""

    heart: tuple[Ellipsoid, ...]
    mediastinum: Ellipsoid
    lung_vessels: Tube
    fissures: tuple[Ellipsoid, ...]
    liver_vessels: Tube
    gallbladder: Ellipsoid
    spleen: Ellipsoid
    spleen_hollow: Ellipsoid
    kidneys: tuple[Kidney, Kidney]
    pancreas: Tube
    stomach: Tube
    stomach_gas: float
    colon: tuple[Tube, ...]
    loops: tuple[Tube, ...]
    mesentery: Tube
    aorta: Tube
    vena_cava: Tube
    psoas: tuple[Tube, ...]
    back_muscles: tuple[Ellipsoid, ...]

    @classmethod
    def sample(cls, rng: np.random.Generator, variation: float) -> "Organs":
        """Draw one patient's organs."""

        def near(x: float, y: float, z: float, spread: float = 4.0) -> Point:
            dx, dy, dz = np.clip(rng.normal(size=3), -2, 2) * spread * variation
            return float(x + dx), float(y + dy), float(z + dz)

        def about(spread: float = 0.08) -> float:
            return float(1 + np.clip(rng.normal(), -2, 2) * spread * variation)

        heart = near(22, -32, 100, 3)
        k = about()
        spleen, p = near(98, 40, 14), about(0.1)
        gall, q = near(-54, -42, -36), about(0.15)
        swell = about(0.12)
        return cls(
            heart=(
                Ellipsoid(heart, (56 * k, 48 * k, 58), 0.4),
                Ellipsoid(heart, (51 * k, 43 * k, 54), 0.4),
                Ellipsoid((heart[0] + 16, heart[1] + 2, heart[2]), (22 * k, 26 * k, 42), 0.4),
                Ellipsoid((heart[0] - 18, heart[1] - 4, heart[2]), (20 * k, 28 * k, 46), 0.2),
            ),
            mediastinum=Ellipsoid((4, 26, 110), (22, 38, 110)),
            lung_vessels=_lung_vessels(rng),
            fissures=(
                Ellipsoid(near(14, -58, 8), (4.5, 30, 24), 0.15),
                Ellipsoid(near(-18, -4, -4), (26, 8, 13), -0.5),
                Ellipsoid(near(6, 10, 22), (22, 3.5, 18), -0.3),
            ),
            liver_vessels=_liver_vessels(rng, near),
            gallbladder=Ellipsoid(gall, (13 * q, 21 * q, 27 * q), 0.5, (-0.2, 0.3)),
            spleen=Ellipsoid(spleen, (42 * p, 58 * p, 56 * p), -0.25, (-0.2, -0.15)),
            spleen_hollow=Ellipsoid(
                (spleen[0] - 36, spleen[1] - 26, spleen[2]), (36 * p, 44 * p, 90), -0.25, (-0.2, -0.15)
            ),
            kidneys=(Kidney.at(near(-60, 47, -62), about()), Kidney.at(near(60, 48, -52), about())),
            pancreas=Tube.along(
                [near(-32, 0, -36), near(-20, -12, -24), near(6, -10, -14), near(36, 6, -6), near(66, 26, 0)],
                [13, 11, 8, 9, 8],
            ),
            stomach=Tube.along(
                [
                    near(52, 32, 40),
                    near(62, -4, 28),
                    near(60, -42, 6),
                    near(30, -56, -14),
                    near(-6, -44, -18),
                    near(-24, -26, -18),
                ],
                [30 * swell, 33 * swell, 28 * swell, 20, 16, 9],
            ),
            stomach_gas=float(rng.uniform(-0.4, 0.4)),
            colon=_colon(rng, near),
            loops=tuple(_loop(rng, middle) for middle in _LOOPS),
            mesentery=branches(
                rng, [near(x / 3, 0, -40, 8) for x in _ROOTS], [(x, -20, -60) for x in _ROOTS], [3.6] * 3, 36, 4
            ),
            aorta=Tube.along([(14, 34, 130), (9, 29, 40), (5, 24, -40), (3, 27, -130)], [12.5, 11.5, 9.5, 8]),
            vena_cava=Tube.along(
                [(-18, 30, -130), (-22, 26, -50), (-24, 18, 0), (-18, 14, 44), (-14, 10, 70)], [10, 12, 12.5, 13, 14]
            ),
            psoas=tuple(
                Tube.along([(s * 24, 52, -15), (s * 30, 55, -60), (s * 42, 52, -130)], [6, 13 * k, 22 * k])
                for s in (-1, 1)
            ),
            back_muscles=(
                *(Ellipsoid((s * 31, 93, 0), (30, 18 * k, 900), s * 0.2) for s in (-1, 1)),
                *(Ellipsoid((s * 60, 72, -110), (24, 9, 90), s * -0.5) for s in (-1, 1)),
                *(Ellipsoid((s * 14, 36, 0), (6, 12, 75)) for s in (-1, 1)),
            ),
        )


def _liver_vessels(rng: np.random.Generator, near: Callable[..., Point]) -> Tube:
    """Three hepatic veins that meet below the dome, and the portal vein from the hilum to both lobes."""
    veins, hilum = near(-18, 10, 46, 2), near(-30, -2, 2, 3)
    roots = (
        (veins, (-1.0, 0.2, -0.5), 6.2),
        (veins, (-0.5, -0.9, -0.5), 6.0),
        (veins, (0.5, -0.9, -0.2), 5.4),
        (hilum, (-1.0, 0.25, 0.1), 7.2),
        (hilum, (-0.7, 0.4, -0.8), 6.2),
        (hilum, (0.4, -0.9, 0.5), 6.4),
        (hilum, (-0.9, -0.5, -0.6), 5.4),
        (hilum, (-0.6, 0.1, -1.0), 5.6),
    )
    return branches(rng, [r[0] for r in roots], [r[1] for r in roots], [r[2] for r in roots], 33, 5)


def _lung_vessels(rng: np.random.Generator) -> Tube:
    ways = [(s * x, y, z) for s in (-1, 1) for x, y, z in ((0.5, 0.6, -0.8), (0.9, 0.1, -0.5), (0.7, -0.6, -0.5))]
    return branches(rng, [(42 if way[0] > 0 else -42, 20, 118) for way in ways], ways, [3.4] * 6, 38, 4)


def _colon(rng: np.random.Generator, near: Callable[..., Point]) -> tuple[Tube, ...]:
    """Up the right flank, across in front and down the left flank, with the pouches that make it look like a colon."""
    right, left = near(-80, -24, -66), near(100, -22, -6)
    parts = (
        Tube.along([near(-94, 12, -140), near(-94, 4, -100), right], [25, 25, 20]),
        Tube.along([right, near(-50, -64, -55), near(5, -74, -48), near(58, -66, -26), left], [20, 19, 19, 19, 17]),
        Tube.along([left, near(112, 14, -30), near(110, 24, -80), near(104, 20, -140)], [17, 15, 15, 17]),
    )
    phase = rng.uniform(0, 2 * np.pi)
    return tuple(
        Tube(t.points, (t.radii * (1 + 0.14 * np.sin(t.points.sum(axis=1) * 0.2 + phase))).astype(np.float32))
        for t in parts
    )


def _loop(rng: np.random.Generator, middle: Point) -> Tube:
    """A coil of small bowel that winds through a box around `middle`."""
    way = np.linspace(0, 1, 130)[:, None]
    pace, phase = rng.uniform(1.5, 3.5, 3), rng.uniform(0, 2 * np.pi, 3)
    line = np.array(middle) + np.array([34, 26, 24]) * np.sin(2 * np.pi * pace * way + phase)
    size = 11.0 + 2.0 * np.sin(2 * np.pi * 7 * way[:, 0] + phase[0])
    return Tube(line.astype(np.float32), size.astype(np.float32))
