"""The data of a run: stores, split, and the table of what was found."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fastliver.columns import Printed, print_columns
from fastliver.config import ExperimentConfig, TrainConfig
from fastliver.data.intensity import IntensityRule
from fastliver.data.sources import Source
from fastliver.data.splits import Split, patients_of, split_by_patient, split_by_slice
from fastliver.data.store import SliceStore
from fastliver.data.store_builder import build_store
from fastliver.data.study import Modality
from fastliver.errors import InputError
from fastliver.training.progress import bar
from fastliver.words import counted

NAMES = ("CT", "MR", "more MR")
"""What tables call the images of `sources`."""
MR = NAMES.index("MR")
"""Which of them, of the stores and of a fingerprint's parts the MR is."""


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is tested on.

    Attributes:
        ct: store of the CT.
        mr: store of the MR.
        split: of the MR; unlabelled MR is all on the training side.
        essnet_ct: numbers of the CT slices that EssNet trains on.
        more_mr: store of the MR that EssNet alone learns from, if there is any.
    """

    ct: SliceStore
    mr: SliceStore
    split: Split
    essnet_ct: NDArray[np.intp]
    more_mr: SliceStore | None = None

    @property
    def stores(self) -> list[SliceStore]:
        """All of them: CT, MR, and more MR if there is any."""
        return [self.ct, self.mr, *([self.more_mr] if self.more_mr is not None else [])]

    @property
    def essnet_mr(self) -> list[tuple[SliceStore, NDArray[np.intp]]]:
        """The MR slices that EssNet trains on: stores, and numbers of slices in them."""
        more = [] if self.more_mr is None else [(self.more_mr, self.more_mr.liver_slices())]
        return [(self.mr, self.split.train), *more]

    @property
    def essnet_mr_count(self) -> int:
        """How many those are."""
        return sum(len(numbers) for _, numbers in self.essnet_mr)

    @property
    def mr_rule(self) -> IntensityRule:
        return IntensityRule(**self.mr.meta["intensity"])

    def fingerprint(self) -> list[str]:
        """Of each store; changes when the images or labels do, and where they lie has no say."""
        return [store.meta["content"] for store in self.stores]


def sources(config: TrainConfig, phantom: Path | None) -> list[Source]:
    """The CT and the MR that the settings name, or the phantom where they name none, and more MR if they name it.

    Raises:
        InputError: when only one of the two is named.
    """
    data = config.data
    root = Path(data.data) if data.data is not None else phantom
    paths = {"ct": data.ct, "mr": data.mr}
    for name, given in paths.items():
        if given is None and root is None:
            other = "mr" if name == "ct" else "ct"
            raise InputError(
                f"--{other} is given without --{name}: name both, or --data with a CHAOS tree that holds both"
            )

    def source(modality: Modality, given: str | None) -> Source:
        path = Path(given) if given is not None else root
        assert path is not None
        return Source(path, modality, data.mr_sequence, data.liver_label, data.skip_bad, data.patient_pattern)

    more = [] if data.more_mr is None else [source("MR", data.more_mr)]
    return [source("CT", paths["ct"]), source("MR", paths["mr"]), *more]


def prepare(config: TrainConfig, found: Sequence[Source], stores: Path, console: Console) -> RunData:
    """Build or reuse the stores and split the MR.

    Args:
        config: the run's settings.
        found: where the images are; see `sources`.
        stores: folder that keeps stores for all runs.
        console: for the progress bar.

    Raises:
        InputError: for data that can't be read or doesn't suffice.
    """
    data, experiment = config.data, config.experiment
    rules = {"CT": IntensityRule("CT", *data.ct_window), "MR": IntensityRule("MR", *data.mr_percentiles)}
    built = [_store(source, rules[source.modality], config, stores, console) for source in found]
    for store, source in zip(built, found, strict=True):
        if not len(store.liver_slices()):
            raise InputError(
                f"{source.path}: no {source.modality} slice shows liver in its label; check the labels, and of an "
                "nnU-Net data set --liver-label"
            )
    ct_store, mr_store, *more = built
    if experiment.segmentor and not ct_store.labelled:
        raise InputError(
            f"{found[0].path}: the CT has no labels, which EssNet's segmentor learns from; add them, or train a "
            "CycleGAN with --no-segmentor"
        )
    split = split_mr(experiment, mr_store)
    _check_patients(config, mr_store, split)
    return RunData(ct_store, mr_store, split, _essnet_ct(config, ct_store), *more)


def _check_patients(config: TrainConfig, store: SliceStore, split: Split) -> None:
    """Refuse a learning curve over more labelled patients than there are; unlabelled MR trains no U-Net."""
    there = len(patients_of(store, split.train))
    if store.labelled and max(config.patient_counts(), default=0) >= there:
        raise InputError(
            f"--labelled-patients={config.experiment.labelled_patients}: there are {there} labelled MR patients to "
            f"train on, and U-Nets learn from all {there} anyway; name numbers below {there}, or add patients"
        )


def split_mr(experiment: ExperimentConfig, store: SliceStore) -> Split:
    """Which MR slices a run learns from and which it is tested on."""
    if not store.labelled:
        # Nothing can be tested without labels, so EssNet may learn from all of it.
        nothing = np.empty(0, np.intp)
        return Split("none", store.liver_slices(), nothing, nothing)
    split_by = split_by_patient if experiment.split == "patient" else split_by_slice
    return split_by(store, experiment.test_fraction, experiment.seed)


def _store(source: Source, rule: IntensityRule, config: TrainConfig, stores: Path, console: Console) -> SliceStore:
    studies = source.studies()
    on_cpu = config.engine.reader == "auto" and config.engine.device == "cpu"
    started = time.monotonic()
    with bar(console, f"reading {source.modality}", len(studies)) as progress:

        def show(done: int, total: int, slices: int) -> None:
            progress.update(done, f"patients, {slices / (time.monotonic() - started):.0f} slices/s")

        return build_store(
            studies,
            rule,
            config.data.image_size,
            stores,
            config.data.skip_bad,
            show,
            "threads" if on_cpu else config.engine.reader,
        )


def _essnet_ct(config: TrainConfig, store: SliceStore) -> NDArray[np.intp]:
    """All CT slices with liver, or so many of them."""
    slices = store.liver_slices()
    wanted = config.essnet.ct_slices
    rng = np.random.default_rng([config.experiment.seed, 3])
    return slices if wanted is None else np.sort(rng.permutation(slices)[:wanted])


def describe(data: RunData, found: Sequence[Source]) -> dict[str, Any]:
    """What was found and how it was split, as `results/data.json` keeps it."""

    def about(name: str, source: Source, store: SliceStore) -> dict[str, Any]:
        return {
            "name": name,
            "modality": source.modality,
            "path": str(source.path),
            "patients": len(store.patients),
            "slices": len(store),
            "liver_slices": sum(entry.liver > 0 for entry in store.entries),
            "labelled": store.labelled,
            "skipped": store.meta["skipped"],
            "notes": store.meta["notes"],
        }

    described = [about(*each) for each in zip(NAMES, found, data.stores, strict=False)]
    if data.more_mr is not None:
        both = sorted(set(data.mr.patients) & set(data.more_mr.patients))
        if both:
            described[-1]["notes"] = [
                *described[-1]["notes"],
                f"{found[-1].path}: has patients called {', '.join(both)}, as --mr has; if they are the same people, "
                "EssNet has seen images that the U-Nets are tested on: leave them out",
            ]
    return {
        "sources": described,
        "fingerprint": data.fingerprint(),
        "split": {
            "name": data.split.name,
            "train_patients": patients_of(data.mr, data.split.train),
            "test_patients": patients_of(data.mr, data.split.test_volume),
            "train_slices": len(data.split.train),
            "test_slices": len(data.split.test),
            "essnet_ct_slices": len(data.essnet_ct),
            "essnet_mr_slices": data.essnet_mr_count,
            "warning": data.split.warning,
        },
    }


def print_counts(description: dict[str, Any], console: Console) -> None:
    """Show what was found."""
    sources = description["sources"]
    columns = {
        "patients": [str(found["patients"]) for found in sources],
        "slices": [str(found["slices"]) for found in sources],
        "with liver": [str(found["liver_slices"]) if found["labelled"] else "no labels" for found in sources],
        "skipped": [str(len(found["skipped"])) for found in sources],
    }
    names = Printed("", [found["name"] for found in sources], numeric=False)
    print_columns([names, *(Printed(*column) for column in columns.items())], console, title="Images found")
    split = description["split"]
    kinds = {"patient": "Split by patient", "paper": "Split by slice (paper)", "none": "No split (MR without labels)"}
    learning = counted(len(split["train_patients"]), "patient")
    console.print(
        f"{kinds[split['name']]}: {split['train_slices']} MR slices of {learning} to learn from, "
        f"{split['test_slices']} of {len(split['test_patients'])} to test on; EssNet learns from "
        f"{split['essnet_ct_slices']} CT slices and {split['essnet_mr_slices']} MR slices.",
        soft_wrap=True,
    )
    if split["warning"]:
        console.print(f"warning: {split['warning']}", style="yellow", soft_wrap=True)
    for found in sources:
        for text in (*found["skipped"], *found["notes"]):
            console.print(f"{found['name']}: {text}", style="yellow", soft_wrap=True)
