"""Which MR slices are learned from and which are tested on, and which synthetic ones go with them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastliver.data.store import SliceStore
from fastliver.errors import InputError

PAPER_ALL = 2050
"""Synthetic images of the paper's largest arrangement: all that there were."""


@dataclass(frozen=True)
class Split:
    """Numbers of slices in the MR store.

    Attributes:
        name: "patient" or "paper".
        train: slices with liver to learn from.
        test: slices with liver for pooled and per-slice scores.
        test_volume: all slices, liver or not, for scores per patient.
        warning: what a reader of the scores must know, or "".
    """

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    test_volume: NDArray[np.intp]
    warning: str = ""


def split_by_patient(store: SliceStore, test_fraction: float, seed: int) -> Split:
    """Hold out a share of the patients (at least one): nobody is both trained and tested on.

    Raises:
        InputError: for fewer than two patients.
    """
    patients = store.patients
    if len(patients) < 2:
        raise InputError(
            f"{store.meta['studies'][0]['series']}: {len(patients)} MR patient ({', '.join(patients)}); a split by "
            "patient needs two or more: add patients"
        )
    count = min(max(1, round(test_fraction * len(patients))), len(patients) - 1)
    chosen = set(np.random.default_rng([seed, 1]).permutation(sorted(patients))[:count])
    held_out = np.array([entry.patient in chosen for entry in store.entries])
    liver = np.zeros(len(store), bool)
    liver[store.liver_slices()] = True
    split = Split(
        "patient",
        train=np.flatnonzero(liver & ~held_out),
        test=np.flatnonzero(liver & held_out),
        test_volume=np.flatnonzero(held_out),
    )
    _check(split, store)
    return split


def split_by_slice(store: SliceStore, test_fraction: float, seed: int) -> Split:
    """The paper's arrangement: a share of the liver slices is held out (58 of 408), whoever's they are.

    Raises:
        InputError: for fewer than two slices with liver.
    """
    slices = np.random.default_rng([seed, 1]).permutation(store.liver_slices())
    if len(slices) < 2:
        raise InputError(f"{store.path}: {len(slices)} MR slices with liver; a split needs two or more: add patients")
    count = min(max(1, round(test_fraction * len(slices))), len(slices) - 1)
    test = np.sort(slices[:count])
    split = Split(
        "paper",
        train=np.sort(slices[count:]),
        test=test,
        test_volume=test,
        warning="Split by slice, as in the paper: slices of one patient stand on both sides, so the scores are too "
        "high for a new patient.",
    )
    _check(split, store)
    return split


def _check(split: Split, store: SliceStore) -> None:
    for name, slices in (("training", split.train), ("test", split.test)):
        if not len(slices):
            raise InputError(f"{store.path}: no {name} slices with liver after the split; add labelled MR patients")


def patients_of(store: SliceStore, slices: NDArray[np.intp]) -> list[str]:
    """Whose slices these are: each patient once, in the order of the slices."""
    return list(dict.fromkeys(store.entries[number].patient for number in slices))


def labelled_subset(store: SliceStore, train: NDArray[np.intp], patients: int | None, seed: int) -> NDArray[np.intp]:
    """The slices of so many of the patients to learn from; more patients of the same seed contain the fewer.

    Args:
        store: of the MR.
        train: numbers of the slices to learn from.
        patients: how many of their patients to keep, at most as many as there are; None for all.
        seed: decides which.
    """
    if patients is None:
        return train
    order = np.random.default_rng([seed, 4]).permutation(sorted(patients_of(store, train)))
    chosen = set(order[:patients])
    return np.array([number for number in train if store.entries[number].patient in chosen], np.intp)


def synthetic_count(arrangement: int, available: int) -> int:
    """How many synthetic images an arrangement of the paper means here: the number, or the same fraction of fewer."""
    return arrangement if available >= PAPER_ALL else round(arrangement * available / PAPER_ALL)


def synthetic_subset(store: SliceStore, arrangement: int, seed: int) -> NDArray[np.intp]:
    """Numbers of an arrangement's synthetic slices; a larger arrangement of the same seed contains a smaller one."""
    order = np.random.default_rng([seed, 2]).permutation(store.liver_slices())
    return order[: synthetic_count(arrangement, len(order))]
