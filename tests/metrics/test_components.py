"""The largest part and filled holes of small masks, and which library works on which kind of array."""

import sys
import types

import numpy as np
import pytest
import scipy.ndimage

from fastliver.metrics.arrays import array_module, image_module
from fastliver.metrics.chaos import volume_scores
from fastliver.metrics.components import fill_holes, largest_component


def boxes(shape: tuple[int, ...], *parts: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for part in parts:
        mask[part] = True
    return mask


SMALL, LARGE = np.s_[0:1, 0:2, 0:2], np.s_[2:4, 3:5, 3:5]


def test_the_largest_part_is_kept_wherever_it_lies():
    shape = (4, 6, 6)
    np.testing.assert_array_equal(largest_component(boxes(shape, SMALL, LARGE)), boxes(shape, LARGE))
    turned = boxes(shape, SMALL, LARGE)[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(largest_component(turned), boxes(shape, LARGE)[::-1, ::-1, ::-1])


@pytest.mark.parametrize("touching", [(0, 1, 2), (1, 0, 2), (1, 1, 0), (1, 1, 2)])  # three edges and a corner
def test_parts_that_meet_at_an_edge_or_a_corner_are_apart(touching):
    block = boxes((2, 3, 4), np.s_[0:1, 0:1, 0:2])
    mask = block.copy()
    mask[touching] = True
    np.testing.assert_array_equal(largest_component(mask), block)


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_parts_that_share_a_face_are_one(step):
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = mask[tuple(1 + np.array(step))] = True
    np.testing.assert_array_equal(largest_component(mask), mask)


def test_of_two_equal_parts_the_first_is_kept():
    mask = boxes((3, 3, 3), np.s_[0:1, 0:1, 0:2], np.s_[2:3, 2:3, 1:3])
    np.testing.assert_array_equal(largest_component(mask), boxes((3, 3, 3), np.s_[0:1, 0:1, 0:2]))


@pytest.mark.parametrize("function", [largest_component, fill_holes])
@pytest.mark.parametrize("value", [0, 63])
def test_empty_and_full_masks_stay_what_they_are_as_booleans(function, value):
    found = function(np.full((2, 3, 4), value, np.uint8))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.full((2, 3, 4), value > 0))


def test_one_part_of_many_values_is_one_part():
    mask = np.zeros((1, 2, 5), np.uint8)
    mask[0, 0] = 1, 63, 255, 0, 7
    np.testing.assert_array_equal(largest_component(mask)[0, 0], [True, True, True, False, False])


@pytest.mark.parametrize("cavity", [np.s_[2, 2, 2], np.s_[1:4, 2, 2], np.s_[1:3, 1:3, 1:3]])
def test_a_closed_cavity_is_filled(cavity):
    mask = np.ones((5, 5, 5), np.uint8)
    mask[cavity] = 0
    np.testing.assert_array_equal(fill_holes(mask), np.ones((5, 5, 5), bool))


@pytest.mark.parametrize("channel", [np.s_[2:, 2, 2], np.s_[2, :3, 2], np.s_[2, 2, 2:]])
def test_a_cavity_open_to_the_edge_stays(channel):
    mask = np.ones((5, 5, 5), bool)
    mask[channel] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)


def test_a_hole_in_every_slice_is_a_channel_in_the_volume():
    ring = np.ones((3, 5, 5), bool)
    ring[:, 2, 2] = False
    np.testing.assert_array_equal(fill_holes(ring), ring)
    ring[[0, 2], 2, 2] = True
    assert fill_holes(ring).all()


def test_a_cavity_closed_but_for_a_diagonal_is_filled():
    mask = np.ones((3, 4, 4), bool)
    mask[1, 1, 1] = False
    mask[0, 0, 1] = False  # meets the cavity along an edge alone
    filled = np.ones((3, 4, 4), bool)
    filled[0, 0, 1] = False
    np.testing.assert_array_equal(fill_holes(mask), filled)


class GpuArray(np.ndarray):
    """Plays the part of cupy.ndarray."""


@pytest.fixture
def cupy(monkeypatch) -> dict[str, types.ModuleType]:
    """A module called cupy, its arrays NumPy's in disguise, and its twin of scipy.ndimage; both note their calls."""
    made = {name: types.ModuleType(name) for name in ("cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.ndimage")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(made[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    calls: list[str] = []

    def disguised(home, name):
        def call(*arguments, **options):
            calls.append(name)
            assert any(isinstance(argument, GpuArray) for argument in arguments), name
            found = getattr(home, name)(*(np.asarray(a) for a in arguments), **options)
            if isinstance(found, tuple):
                return tuple(part.view(GpuArray) if isinstance(part, np.ndarray) else part for part in found)
            return found.view(GpuArray)

        return call

    for name in ("nonzero", "bincount"):
        setattr(made["cupy"], name, disguised(np, name))
    for name in ("binary_erosion", "distance_transform_edt", "label", "binary_fill_holes"):
        setattr(made["cupyx.scipy.ndimage"], name, disguised(scipy.ndimage, name))
    made["cupy"].ndarray, made["cupy"].calls = GpuArray, calls
    return made


def test_numpy_arrays_go_to_scipy_whether_or_not_cupy_is_there(cupy, monkeypatch):
    array = np.zeros((1, 2, 3))
    assert (array_module(array), image_module(array)) == (np, scipy.ndimage)
    monkeypatch.delitem(sys.modules, "cupy")
    assert (array_module(array), image_module(array)) == (np, scipy.ndimage)


def test_choosing_for_a_numpy_array_imports_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it would fail
    assert largest_component(np.ones((1, 2, 3))).all()
    assert volume_scores(np.eye(3)[None], np.eye(3)[None], (1, 1, 1)).dice == 1


def test_cupy_arrays_go_to_cupy(cupy):
    array = np.zeros((1, 2, 3)).view(GpuArray)
    assert array_module(array) is cupy["cupy"]
    assert image_module(array) is cupy["cupyx.scipy.ndimage"]


def test_scores_and_post_processing_of_cupy_arrays_are_worked_out_by_cupy(cupy):
    a, b = np.random.default_rng(3).random((2, 5, 6, 7)) < 0.4
    on_gpu = [mask.view(GpuArray) for mask in (a, b)]
    assert volume_scores(*on_gpu, (3, 1, 2)) == volume_scores(a, b, (3, 1, 2))
    assert set(cupy["cupy"].calls) == {"nonzero", "binary_erosion", "distance_transform_edt"}
    cupy["cupy"].calls.clear()
    for function in (largest_component, fill_holes):
        np.testing.assert_array_equal(np.asarray(function(on_gpu[0])), function(a))
    assert cupy["cupy"].calls == ["label", "bincount", "binary_fill_holes"]
