"""Who is trained on and who tested: disjoint, repeatable, and in the paper's numbers where there are as many slices."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastliver.config import EssNetConfig, TrainConfig
from fastliver.data.splits import (
    labelled_subset,
    patients_of,
    split_by_patient,
    split_by_slice,
    synthetic_count,
    synthetic_subset,
)
from fastliver.errors import InputError
from fastliver.training.evaluation import score
from fastliver.training.prepare import _essnet_ct

PAPER = (354, 714, 1034, 1487, 2050)


@pytest.fixture
def twenty(made_store):
    """Twenty patients of ten slices, the last three without liver."""
    return made_store({f"p{number:02d}": [5] * 7 + [0] * 3 for number in range(20)})


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_stands_on_both_sides(twenty, seed):
    split = split_by_patient(twenty, 58 / 408, seed)
    test = set(patients_of(twenty, split.test))
    assert len(test) == 3, "58 of 408, of 20 patients, is 2.8"
    assert set(patients_of(twenty, split.test_volume)) == test
    assert test.isdisjoint(patients_of(twenty, split.train))
    assert len(patients_of(twenty, split.train)) == 17
    assert (split.name, split.warning) == ("patient", "")


def test_scores_are_on_liver_slices_and_volumes_whole(twenty):
    split = split_by_patient(twenty, 0.25, 0)
    livers = {number for number, entry in enumerate(twenty.entries) if entry.liver}
    assert set(split.train) | set(split.test) == livers
    assert (len(split.train), len(split.test), len(split.test_volume)) == (15 * 7, 5 * 7, 5 * 10)
    assert set(split.test) <= set(split.test_volume)


@pytest.mark.parametrize("make", [split_by_patient, split_by_slice])
def test_a_seed_decides_the_split(twenty, make):
    first, again = make(twenty, 0.2, 3), make(twenty, 0.2, 3)
    for side in ("train", "test", "test_volume"):
        np.testing.assert_array_equal(getattr(first, side), getattr(again, side))
    assert len({make(twenty, 0.2, seed).test.tobytes() for seed in range(6)}) > 1


def test_the_order_of_patients_in_the_store_does_not_matter(made_store):
    names = [f"p{number}" for number in range(9)]
    splits = [made_store({name: [4, 4] for name in order}) for order in (names, names[::-1])]
    held_out = [set(patients_of(store, split_by_patient(store, 0.3, 1).test)) for store in splits]
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize(("patients", "fraction", "tested"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.0, 1), (10, 1.0, 9)])
def test_each_side_has_at_least_one_patient(made_store, patients, fraction, tested):
    store = made_store({f"p{number}": [5, 5] for number in range(patients)})
    split = split_by_patient(store, fraction, 0)
    assert len(patients_of(store, split.test)) == tested
    assert len(patients_of(store, split.train)) == patients - tested


def test_one_patient_can_not_be_split_and_the_message_says_who(made_store):
    with pytest.raises(InputError, match=r"made by hand: 1 MR patient \(MR_1\).*two or more: add patients"):
        split_by_patient(made_store({"MR_1": [5, 5, 5]}), 0.2, 0)


def test_a_side_without_liver_is_refused(made_store):
    with pytest.raises(InputError, match="no training slices with liver|no test slices with liver"):
        split_by_patient(made_store({"a": [5, 5], "b": [0, 0]}), 0.5, 0)


def test_the_papers_arrangement_is_350_and_58_of_408(made_store):
    store = made_store({f"p{number:02d}": [9] * 20 + [0] * 10 for number in range(20)} | {"last": [9] * 8})
    split = split_by_slice(store, 58 / 408, 0)
    assert (len(split.train), len(split.test)) == (350, 58)
    assert set(split.train).isdisjoint(split.test)
    assert all(store.entries[number].liver for number in [*split.train, *split.test])
    assert set(patients_of(store, split.train)) & set(patients_of(store, split.test))
    assert (split.name, "both sides" in split.warning) == ("paper", True)


def test_one_liver_slice_can_not_be_split(made_store):
    with pytest.raises(InputError, match="1 MR slices with liver; a split needs two or more"):
        split_by_slice(made_store({"a": [0, 7, 0]}), 0.2, 0)


@pytest.mark.parametrize("arrangement", PAPER)
def test_the_papers_numbers_hold_where_there_are_as_many_images(arrangement):
    assert synthetic_count(arrangement, 2050) == arrangement
    assert synthetic_count(arrangement, 5000) == arrangement


def test_fewer_images_give_the_same_fractions():
    assert [synthetic_count(arrangement, 1025) for arrangement in (0, *PAPER)] == [0, 177, 357, 517, 744, 1025]
    assert [synthetic_count(arrangement, 205) for arrangement in PAPER] == [35, 71, 103, 149, 205]


@given(st.integers(0, 2050), st.integers(0, 4000))
def test_never_more_than_there_are(arrangement, available):
    assert 0 <= synthetic_count(arrangement, available) <= available


def test_a_larger_arrangement_contains_a_smaller_one(made_store):
    store = made_store({"p": [1] * 205})
    subsets = [synthetic_subset(store, arrangement, 4).tolist() for arrangement in PAPER]
    assert [len(subset) for subset in subsets] == [35, 71, 103, 149, 205]
    assert max(Counter(subsets[-1]).values()) == 1
    for small, large in pairwise(subsets):
        assert set(small) < set(large)
    assert set(synthetic_subset(store, 354, 5)) != set(subsets[0])
    assert synthetic_subset(store, 0, 4).tolist() == []


def test_synthetic_slices_are_those_that_show_liver(made_store):
    store = made_store({"p": [0, 3, 0, 3, 3, 0]})
    assert sorted(synthetic_subset(store, 2050, 0)) == [1, 3, 4]


def test_few_labelled_patients_by_hand(made_store):
    """Slices 1, 2 | 3 | 5, 6 | 8 show liver; 3, of b, is not learned from."""
    store = made_store({"a": [0, 4, 4], "b": [4], "c": [0, 4, 4, 0], "d": [4]})
    train = np.array([1, 2, 5, 6, 8])
    mine = {"a": {1, 2}, "c": {5, 6}, "d": {8}}
    assert patients_of(store, train) == ["a", "c", "d"]
    drawn = set()
    for seed in range(20):
        one, two, three = (labelled_subset(store, train, count, seed) for count in (1, 2, 3))
        assert set(one) == set.union(*(mine[name] for name in patients_of(store, one)))
        assert set(two) == set.union(*(mine[name] for name in patients_of(store, two)))
        assert (len(patients_of(store, one)), len(patients_of(store, two))) == (1, 2)
        assert set(one) < set(two) < set(three)
        np.testing.assert_array_equal(three, train)
        np.testing.assert_array_equal(two, labelled_subset(store, train, 2, seed))
        drawn |= {tuple(patients_of(store, one))}
    assert drawn == {("a",), ("c",), ("d",)}, "seeds draw other patients"
    assert labelled_subset(store, train, None, 0) is train


def test_labelled_patients_are_drawn_whatever_the_order_of_the_store(made_store):
    names = [f"p{number}" for number in range(9)]
    drawn = []
    for order in (names, names[::-1]):
        store = made_store({name: [4, 4] for name in order})
        drawn.append(set(patients_of(store, labelled_subset(store, np.arange(18), 4, 1))))
    assert drawn[0] == drawn[1]


def test_scores_by_patient_are_of_patients_held_out_whole(twenty):
    shape = twenty.labels.shape[1:]
    for split, patients in ((split_by_patient(twenty, 0.15, 0), 3), (split_by_slice(twenty, 0.15, 0), 0)):
        scores = score(np.zeros((len(split.test_volume), *shape), np.float32), twenty, split)["scores"]
        assert len(scores["dice_per_patient"]) == len(scores["iou_per_patient"]) == patients


@pytest.mark.parametrize(("asked", "given"), [(None, 140), (3, 3), (139, 139), (350, 140)])
def test_essnet_learns_from_as_many_ct_slices_as_asked_for_or_all(twenty, asked, given):
    config = TrainConfig(essnet=EssNetConfig(ct_slices=asked))
    chosen = _essnet_ct(config, twenty)
    assert len(chosen) == len(set(chosen)) == given
    assert set(chosen) <= set(twenty.liver_slices())
