"""The pool of earlier generated images."""

import torch
from torch import Tensor

from fastliver.training.image_pool import ImagePool


def _image(number: int) -> Tensor:
    return torch.full((1, 1, 2, 2), float(number))


def _feed(pool: ImagePool, numbers: range) -> list[int]:
    """What the pool gives for images of these numbers, each at the step of its number."""
    return [int(pool.query(_image(number), number)[0, 0, 0, 0]) for number in numbers]


def test_the_first_images_are_returned_and_kept_until_the_pool_is_full():
    pool = ImagePool(5, (0, 11))
    assert _feed(pool, range(5)) == list(range(5))
    assert [int(image[0, 0, 0]) for image in pool.images] == list(range(5))


def test_afterwards_half_are_swapped_for_an_earlier_one_that_is_then_gone():
    pool = ImagePool(5, (0, 11))
    given = _feed(pool, range(5))
    held = set(given)
    swapped = 0
    for number in range(5, 605):
        given = _feed(pool, range(number, number + 1))[0]
        if given != number:
            swapped += 1
            assert given in held  # seen before, and not given out before
            held = held - {given} | {number}
        assert {int(image[0, 0, 0]) for image in pool.images} == held
    assert len(pool.images) == 5
    assert 240 <= swapped <= 360  # 300 expected, 12 the deviation


def test_every_place_of_the_pool_is_swapped():
    pool = ImagePool(4, (0, 11))
    _feed(pool, range(104))
    assert all(image[0, 0, 0] >= 4 for image in pool.images)


def test_each_image_of_a_batch_is_drawn_for_itself():
    pool = ImagePool(3, (0, 11))
    _feed(pool, range(3))
    batch = torch.cat([_image(number) for number in range(100, 140)])
    given = pool.query(batch, 50)
    kept = (given == batch).flatten(1).all(1)
    assert given.shape == batch.shape
    assert 8 <= int(kept.sum()) <= 32
    early = ImagePool(3, (0, 11))
    assert torch.equal(early.query(batch[:3], 0), batch[:3])
    assert len(early.images) == 3


def test_size_0_passes_through():
    pool = ImagePool(0, (0, 11))
    image = _image(3)
    assert pool.query(image, 0) is image
    assert pool.images == []


def test_choices_depend_on_seed_and_step_alone():
    a, b, other = ImagePool(4, (0, 11)), ImagePool(4, (0, 11)), ImagePool(4, (0, 12))
    first, second, different = (_feed(pool, range(60)) for pool in (a, b, other))
    assert first == second
    assert first != different
    # A pool that gets the images of another goes on as that one would.
    resumed = ImagePool(4, (0, 11))
    resumed.images = [image.clone() for image in a.images]
    assert _feed(resumed, range(60, 90)) == _feed(a, range(60, 90))


def test_kept_images_do_not_change_with_what_was_given():
    pool = ImagePool(1, (0, 11))
    image = _image(1)
    given = pool.query(image, 0)
    image.zero_()
    given.zero_()
    assert pool.images[0].eq(1).all()
