"""The U-Nets of a run, grouped by what they were trained on, and the statistics over their seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastliver.interval import Estimate, estimate
from fastliver.reporting.paper import SHOWN_ARRANGEMENT
from fastliver.run_folder import RunFolder
from fastliver.words import counted

SOURCES = {"real": "Real", "essnet": "EssNet", "cyclegan": "CycleGAN"}
"""Where a U-Net's synthetic images come from, in the order of the tables, with the name to print."""


@dataclass(frozen=True)
class Group:
    """The U-Nets trained on the same images, one a seed."""

    source: str
    arrangement: int
    runs: tuple[dict[str, Any], ...]

    @property
    def real(self) -> int:
        return int(self.runs[0]["real"])

    @property
    def labelled(self) -> int:
        """Of how many MR patients the U-Nets saw the labels."""
        return len(self.runs[0]["labelled_patients"])

    @property
    def all_labelled(self) -> bool:
        """Whether those were all patients that aren't tested on."""
        return _all_labelled(self.runs[0])

    @property
    def synthetic(self) -> int:
        return int(self.runs[0]["synthetic"])

    @property
    def steps(self) -> int | None:
        """Training steps of each."""
        return self.runs[0].get("steps")

    @property
    def label(self) -> str:
        """The training set as the paper names it, with this run's counts."""
        return f"Combined ({self.real + self.synthetic})" if self.synthetic else f"Real only ({self.real})"

    def scores(self, key: str) -> dict[int, float]:
        """One score by seed; seeds without a finite value are left out."""
        return {run["seed"]: run["scores"][key] for run in self.runs if is_number(run["scores"].get(key))}

    def estimate(self, key: str) -> Estimate | None:
        return estimate(list(self.scores(key).values()))

    def mean(self, key: str) -> float | None:
        over_seeds = self.estimate(key)
        return over_seeds.mean if over_seeds else None

    def patients(self, key: str) -> dict[str, float]:
        """One score by patient, averaged over the seeds."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for patient, value in run["scores"].get(key, {}).items():
                if is_number(value):
                    found.setdefault(patient, []).append(value)
        return {patient: math.fsum(values) / len(values) for patient, values in found.items()}


def is_number(value: object) -> bool:
    """Whether `value` is a finite number: a score is null or NaN where it has no meaning."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def patient_count(number: int) -> str:
    """So many patients, in words."""
    return counted(number, "patient")


def mean(values: Sequence[float]) -> float | None:
    """The mean; None without any values."""
    return sum(values) / len(values) if values else None


def difference(group: Group, base: Group, key: str) -> Estimate | None:
    """How much higher `group` scores than `base`, paired by seed.

    Without a seed in common it is the difference of the two means, which has no interval.
    """
    ours, theirs = group.scores(key), base.scores(key)
    common = sorted(ours.keys() & theirs.keys())
    if common:
        return estimate([ours[seed] - theirs[seed] for seed in common])
    if ours and theirs:
        return Estimate(math.fsum(ours.values()) / len(ours) - math.fsum(theirs.values()) / len(theirs))
    return None


def load_groups(run: RunFolder) -> list[Group]:
    """The U-Nets that learned from all labelled patients: real only first, then by arrangement."""
    return _group(result for result in run.read_results("unet-") if _all_labelled(result))


def load_curve(run: RunFolder) -> list[Group]:
    """The learning curve: the U-Nets by the number of labelled patients, and then as in `load_groups`.

    At its end are those of the same training sets that learned from all patients; without a U-Net that learned from
    fewer it is empty.
    """
    fewer: dict[int, list[dict[str, Any]]] = {}
    for result in run.read_results("unet-"):
        if not _all_labelled(result):
            fewer.setdefault(len(result["labelled_patients"]), []).append(result)
    curve = [group for count in sorted(fewer) for group in _group(fewer[count])]
    kinds = {(group.source, group.arrangement) for group in curve}
    return curve + [group for group in load_groups(run) if (group.source, group.arrangement) in kinds]


def _all_labelled(result: dict[str, Any]) -> bool:
    return bool(result.get("all_labelled", True))


def _group(results: Iterable[dict[str, Any]]) -> list[Group]:
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault((result["arrangement"], result["source"]), []).append(result)
    order = list(SOURCES)
    keys = sorted(found, key=lambda key: (key[0], order.index(key[1])))
    return [
        Group(source, arrangement, tuple(sorted(found[arrangement, source], key=lambda result: result["seed"])))
        for arrangement, source in keys
    ]


def find(groups: Sequence[Group], source: str, arrangement: int | None = None) -> Group | None:
    """The group of `source` at `arrangement`; unless one is named, at the paper's best or else the first one there."""
    mine = [group for group in groups if group.source == source]
    if arrangement is not None:
        return next((group for group in mine if group.arrangement == arrangement), None)
    return find(mine, source, SHOWN_ARRANGEMENT) or next(iter(mine), None)


def shown(groups: Sequence[Group]) -> Group | None:
    """The combined training set that the page speaks about: EssNet's, or CycleGAN's in a run without EssNet."""
    return find(groups, "essnet") or find(groups, "cyclegan")
