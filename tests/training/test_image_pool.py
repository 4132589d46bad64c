"""The pool of earlier generated images."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor

from fastliver.training.image_pool import BLOCK, ImagePool

CPU = torch.device("cpu")


def _image(number: int) -> Tensor:
    return torch.full((1, 1, 2, 2), float(number))


def _pool(size: int, batch: int = 1, seed: tuple[int, ...] = (0, 11)) -> ImagePool:
    return ImagePool(size, batch, (2, 2), seed, CPU)


def _feed(pool: ImagePool, steps: range) -> list[int]:
    """What the pool gives for images that are numbered on and on."""
    given: list[int] = []
    for step in steps:
        batch = torch.cat([_image(step * pool.batch + number) for number in range(pool.batch)])
        pool.stage(step)
        shown = pool.query(batch)
        assert torch.equal(shown, shown[:, :1, :1, :1].expand(-1, 1, 2, 2))
        given += [int(value) for value in shown[:, 0, 0, 0]]
    return given


def _held(pool: ImagePool) -> list[int]:
    return [int(image[0, 0, 0]) for image in pool.images]


def _listed(size: int, batch: int, seed: tuple[int, ...], steps: int) -> tuple[list[int], list[int]]:
    """The pool as a list of numbers, one image after the other: what is given, and what is kept in the end."""
    kept: list[int] = []
    given: list[int] = []
    for step in range(steps):
        rng = np.random.default_rng([*seed, step])
        for number in range(step * batch, (step + 1) * batch):
            shown = number
            if len(kept) < size:
                kept.append(number)
            elif rng.random() < 0.5:
                place = int(rng.integers(size))
                shown, kept[place] = kept[place], number
            given.append(shown)
    return given, kept


@pytest.mark.parametrize(("size", "batch", "steps"), [(5, 1, 2 * BLOCK + 40), (1, 1, 50), (4, 3, 300), (3, 8, 80)])
def test_it_is_the_list_that_a_pool_is_on_paper(size, batch, steps):
    pool = _pool(size, batch)
    given, kept = _listed(size, batch, (0, 11), steps)
    assert _feed(pool, range(steps)) == given
    assert _held(pool) == kept


def test_the_first_images_are_returned_and_kept_until_the_pool_is_full():
    pool = _pool(5)
    assert _feed(pool, range(5)) == list(range(5))
    assert _held(pool) == list(range(5))


def test_afterwards_half_are_swapped_for_an_earlier_one_that_is_then_gone():
    pool = _pool(5)
    held = set(_feed(pool, range(5)))
    swapped = 0
    for number in range(5, 605):
        given = _feed(pool, range(number, number + 1))[0]
        if given != number:
            swapped += 1
            assert given in held  # seen before, and not given out before
            held = held - {given} | {number}
        assert set(_held(pool)) == held
    assert 240 <= swapped <= 360  # 300 expected, 12 the deviation


def test_every_place_of_the_pool_is_swapped():
    pool = _pool(4)
    _feed(pool, range(104))
    assert all(number >= 4 for number in _held(pool))


def test_each_image_of_a_batch_is_drawn_for_itself():
    pool = _pool(3, batch=40)
    _feed(pool, range(1))
    given = _feed(pool, range(1, 2))
    assert 8 <= sum(shown == number for shown, number in zip(given, range(40, 80), strict=True)) <= 32


def test_size_0_passes_through():
    pool = _pool(0)
    image = _image(3)
    pool.stage(0)
    assert pool.query(image) is image
    assert pool.state()["images"].numel() == 0


def test_choices_depend_on_seed_and_step_alone():
    a, b, other = _pool(4), _pool(4), _pool(4, seed=(0, 12))
    first, second, different = (_feed(pool, range(60)) for pool in (a, b, other))
    assert first == second
    assert first != different


@pytest.mark.parametrize("at", [3, 60, BLOCK, BLOCK + 5])
def test_a_pool_that_gets_the_state_of_another_goes_on_as_that_one_would(at):
    pool, resumed = _pool(4, batch=2), _pool(4, batch=2)
    _feed(pool, range(at))
    file = io.BytesIO()
    torch.save(pool.state(), file)
    file.seek(0)
    address = resumed.images.data_ptr()
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.images.data_ptr() == address  # a graph reads there
    assert _feed(resumed, range(at, at + 30)) == _feed(pool, range(at, at + 30))
    assert torch.equal(resumed.images, pool.images)


def test_a_step_back_is_a_step_that_does_not_follow():
    pool, again = _pool(4), _pool(4)
    _feed(pool, range(40))
    _feed(again, range(40))
    images = pool.images.clone()
    first = _feed(pool, range(20, 40))
    again.images.copy_(images)
    _feed(again, range(5, 6))
    again.images.copy_(images)
    assert _feed(again, range(20, 40)) == first


def test_a_staged_run_of_steps_needs_no_more_than_queries():
    """As a graph's replays have it: the step is on the device."""
    pool, expected = _pool(4), _listed(4, 1, (0, 11), 50)[0]
    pool.stage(0)
    assert [int(pool.query(_image(number))[0, 0, 0, 0]) for number in range(50)] == expected


def test_kept_images_do_not_change_with_what_was_given():
    pool = _pool(1)
    image = _image(1)
    pool.stage(0)
    given = pool.query(image)
    image.zero_()
    given.zero_()
    assert pool.images[0].eq(1).all()


def test_images_of_half_precision_are_kept_and_given_in_the_pools_precision():
    pool = _pool(2)
    pool.stage(0)
    given = pool.query(torch.full((1, 1, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True))
    assert (given.dtype, given.requires_grad) == (torch.float32, False)
    assert pool.images[0].eq(0.5).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_query_does_not_wait_for_the_device(batch, no_sync):
    pool = _pool(2, batch)
    for step in range(6):
        pool.stage(step)
        images = torch.rand(batch, 1, 2, 2)
        with no_sync():
            pool.query(images)
