"""Batches: every slice once an epoch, the same for the same seed, image and label moved together."""

from collections import Counter

import numpy as np
import pytest
import torch

from fastliver.data.batches import BatchStream, Slices, flip_shift


def numbered(count: int, size: int = 16) -> Slices:
    """Slice k holds k/64 everywhere and the label k."""
    values = torch.arange(count)
    images = (values / 64).half().view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()
    return Slices(images, values.to(torch.uint8).view(-1, 1, 1).expand(-1, size, size).contiguous())


def drawn(stream: BatchStream, epoch: int) -> list[int]:
    """The numbers of an epoch's slices, which image and label agree on."""
    numbers = []
    for step in range(stream.steps):
        images, labels = stream.get(epoch, step)
        assert (images[:, 0, 0, 0] * 64).tolist() == labels[:, 0, 0].tolist()
        numbers += labels[:, 0, 0].tolist()
    return numbers


def test_a_batch_has_the_shapes_and_types_of_the_contract():
    images, labels = BatchStream(numbered(5), 2, (0,)).get(0, 0)
    assert (images.shape, images.dtype) == ((2, 1, 16, 16), torch.float32)
    assert (labels.shape, labels.dtype) == ((2, 16, 16), torch.uint8)


@pytest.mark.parametrize("batch", [1, 2, 3, 12])
def test_every_slice_comes_once_an_epoch_in_a_new_order_each_time(batch):
    stream = BatchStream(numbered(12), batch, (7,))
    epochs = [drawn(stream, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_last_batch_is_filled_up_from_the_next_order():
    stream = BatchStream(numbered(7), 3, (7,))
    assert stream.steps == 3
    numbers = drawn(stream, 0)
    assert sorted(numbers[:7]) == list(range(7))
    assert len(numbers) == 9


@pytest.mark.parametrize("augment", ["none", "flip-shift"])
def test_a_batch_depends_on_seed_epoch_and_step_alone(augment):
    slices = Slices(torch.rand(6, 1, 32, 32).half(), torch.randint(0, 2, (6, 32, 32)).to(torch.uint8))
    used = BatchStream(slices, 2, (3, 4), augment)
    for epoch in range(3):
        for step in range(used.steps):
            used.get(epoch, step)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    for epoch, step in ((2, 1), (0, 0), (1, 2)):
        for a, b in zip(used.get(epoch, step), BatchStream(slices, 2, (3, 4), augment).get(epoch, step), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("one", "other"), [((0, 21), (0, 22)), ((0, 21), (1, 21)), ((0,), (1,)), ((1,), (1, 0))])
def test_streams_of_different_seeds_are_independent(one, other):
    a, b = (BatchStream(numbered(30), 5, seed) for seed in (one, other))
    assert all(drawn(a, epoch) != drawn(b, epoch) for epoch in range(3))


def test_an_epoch_shorter_than_the_set_leaves_some_out_and_others_next_time():
    stream = BatchStream(numbered(20), 2, (1,), length=8)
    assert stream.steps == 4
    numbers = drawn(stream, 0)
    assert len(set(numbers)) == 8
    assert len(set().union(*(drawn(stream, epoch) for epoch in range(12)))) == 20


def test_an_epoch_longer_than_the_set_goes_through_it_again():
    stream = BatchStream(numbered(4), 3, (1,), length=12)
    assert stream.steps == 4
    numbers = drawn(stream, 0)
    assert Counter(numbers) == dict.fromkeys(range(4), 3)
    assert all(sorted(numbers[start : start + 4]) == list(range(4)) for start in (0, 4, 8))


IMAGE = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])


@pytest.mark.parametrize(
    ("flip", "down", "right", "expected"),
    [
        (False, 0, 0, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
        (True, 0, 0, [[4, 3, 2, 1], [8, 7, 6, 5], [12, 11, 10, 9], [16, 15, 14, 13]]),
        (False, 1, 0, [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]),
        (False, -2, 1, [[0, 9, 10, 11], [0, 13, 14, 15], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (True, 0, -1, [[3, 2, 1, 0], [7, 6, 5, 0], [11, 10, 9, 0], [15, 14, 13, 0]]),
        (False, 0, 4, [[0] * 4] * 4),
    ],
)
def test_flip_and_shift_by_hand(flip, down, right, expected):
    """In the image -1 comes in at the edges, in the label 0; both move alike."""
    image, label = flip_shift(IMAGE[None].float(), IMAGE.to(torch.uint8), flip, down, right)
    assert label.tolist() == expected
    background = torch.tensor(expected) == 0
    assert image[0].tolist() == torch.where(background, -1, torch.tensor(expected)).tolist()
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


def test_augmentation_mirrors_half_and_shifts_by_a_sixteenth_at_most():
    """A mark off the middle shows what was done: mirrored or not, and how far it moved."""
    slices = Slices(torch.full((1, 1, 64, 64), -1.0).half(), torch.zeros(1, 64, 64, dtype=torch.uint8))
    slices.images[0, 0, 30, 20] = 1
    slices.labels[0, 30, 20] = 1
    stream, seen = BatchStream(slices, 1, (9,), "flip-shift"), []
    for epoch in range(400):
        images, labels = stream.get(epoch, 0)
        ((_, _, row, column),) = (images > 0).nonzero().tolist()
        assert labels.nonzero().tolist() == [[0, row, column]]
        mirrored = column > 31
        seen.append((mirrored, row - 30, column - (43 if mirrored else 20)))
    assert 140 < sum(mirrored for mirrored, _, _ in seen) < 260
    for axis in (1, 2):
        assert {move[axis] for move in seen} == set(range(-4, 5))
    assert images.min() == -1


def test_slices_are_loaded_by_number_and_joined(made_store):
    store = made_store({"p": [1] * 5}, size=16)
    loaded = Slices.load(store, np.array([3, 0]), torch.device("cpu"))
    assert (loaded.images.shape, loaded.images.dtype) == ((2, 1, 16, 16), torch.float16)
    np.testing.assert_array_equal(loaded.images[:, 0].numpy(), store.images[[3, 0]])
    np.testing.assert_array_equal(loaded.labels.numpy(), store.labels[[3, 0]])
    joined = loaded + Slices.load(store, np.array([1]), torch.device("cpu"))
    assert len(joined) == 3
    np.testing.assert_array_equal(joined.images[2, 0].numpy(), store.images[1])
