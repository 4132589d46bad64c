"""Batches: every slice once an epoch, the same for the same seed, image and label moved together."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fastliver.data.augment import RECIPES
from fastliver.data.batches import BatchStream, Slices

CPU = torch.device("cpu")


def numbered(count: int, size: int = 16) -> Slices:
    """Slice k holds k/64 everywhere and the label k."""
    values = torch.arange(count)
    images = (values / 64).half().view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()
    return Slices(images, values.to(torch.uint8).view(-1, 1, 1).expand(-1, size, size).contiguous())


def random_slices(count: int, size: int = 32) -> Slices:
    """Slices of noise, each with its own."""
    rng = np.random.default_rng(count)
    images = torch.from_numpy(rng.uniform(-1, 1, (count, 1, size, size)).astype(np.float16))
    return Slices(images, torch.from_numpy(rng.integers(0, 2, (count, size, size)).astype(np.uint8)))


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


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


@pytest.mark.parametrize("augment", ["none", *RECIPES])
def test_a_batch_depends_on_seed_epoch_and_step_alone(augment):
    slices = random_slices(6)
    used = BatchStream(slices, 2, (3, 4), augment)
    for epoch in range(3):
        for step in range(used.steps):
            used.get(epoch, step)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    for epoch, step in ((2, 1), (0, 0), (1, 2)):
        assert_same(used.get(epoch, step), BatchStream(slices, 2, (3, 4), augment).get(epoch, step))


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


def test_the_order_is_numpys_permutation_of_the_seed_and_epoch():
    """Written down, because a run that was begun earlier goes on with it."""
    expected = np.random.default_rng([7, 2, 1]).permutation(12)
    assert drawn(BatchStream(numbered(12), 3, (7,)), 2) == expected.tolist()


# Staging


@pytest.mark.parametrize("augment", ["none", *RECIPES])
@pytest.mark.parametrize("budget", [None, 1000])
def test_a_batch_does_not_wait_for_the_device(augment, budget, made_store, no_sync):
    slices = Slices.load(made_store({"p": [1] * 5}, size=16), np.arange(5), CPU, budget)
    stream = BatchStream(slices, 2, (1,), augment)
    for epoch in range(2):
        for step in range(stream.steps):
            stream.stage(epoch, step)
            with no_sync():
                stream.batch()


def test_a_batch_that_follows_needs_no_more_than_what_is_on_the_device():
    """As a graph's replays have it: one staged step, then the counter goes on."""
    slices = random_slices(8)
    stream, expected = (BatchStream(slices, 2, (1,), "full") for _ in range(2))
    stream.stage(3, 0)
    for step in range(stream.steps):
        assert_same(stream.batch(), expected.get(3, step))


def test_the_tables_keep_their_place_in_memory():
    stream = BatchStream(random_slices(5), 2, (1,), "full")
    stream.get(0, 0)
    before = [t.data_ptr() for t in (stream._numbers, stream._table, stream._counter)]
    stream.get(1, 2)
    stream.get(0, 1)
    assert [t.data_ptr() for t in (stream._numbers, stream._table, stream._counter)] == before


# Ranks


@pytest.mark.parametrize("augment", ["none", *RECIPES])
@pytest.mark.parametrize(("count", "length", "ranks", "batch"), [(7, None, 2, 1), (9, 5, 2, 2), (4, 11, 3, 1)])
def test_ranks_together_draw_what_one_would_alone(augment, count, length, ranks, batch):
    slices = random_slices(count)
    alone = BatchStream(slices, batch * ranks, (5,), augment, length)
    shared = [BatchStream(slices, batch, (5,), augment, length, rank, ranks) for rank in range(ranks)]
    assert {stream.steps for stream in shared} == {alone.steps}
    for epoch in range(2):
        for step in range(alone.steps):
            parts = [stream.get(epoch, step) for stream in shared]
            images, labels = (torch.cat(kind) for kind in zip(*parts, strict=True))
            whole = alone.get(epoch, step)
            torch.testing.assert_close(images, whole[0], rtol=0, atol=2e-6)
            assert torch.equal(labels, whole[1])


# Slices in host memory


def test_slices_are_loaded_by_number_and_joined(made_store):
    store = made_store({"p": [1] * 5}, size=16)
    loaded = Slices.load(store, np.array([3, 0]), CPU)
    assert (loaded.images.shape, loaded.images.dtype) == ((2, 1, 16, 16), torch.float16)
    np.testing.assert_array_equal(loaded.images[:, 0].numpy(), store.images[[3, 0]])
    np.testing.assert_array_equal(loaded.labels.numpy(), store.labels[[3, 0]])
    joined = loaded + Slices.load(store, np.array([1]), CPU)
    assert len(joined) == 3
    np.testing.assert_array_equal(joined.images[2, 0].numpy(), store.images[1])
    assert joined.copied_to is None


def test_slices_that_do_not_fit_the_budget_stay_in_host_memory(made_store):
    store = made_store({"p": [1] * 5}, size=16)
    bytes_of_a_slice = 16 * 16 * (2 + 1)
    for numbers, budget, resident in (([0, 1], 2, True), ([0, 1, 2], 2, False), ([4], 0, False)):
        slices = Slices.load(store, np.array(numbers), CPU, budget * bytes_of_a_slice)
        assert slices.copied_to == (None if resident else CPU)
        assert slices.device == CPU
        np.testing.assert_array_equal(slices.images[:, 0].numpy(), store.images[numbers])


def test_the_budget_holds_for_the_sum(made_store):
    store = made_store({"p": [1] * 5}, size=16)
    budget = 3 * 16 * 16 * (2 + 1)
    one, two = (Slices.load(store, np.array(numbers), CPU, budget) for numbers in ([0], [1, 2]))
    assert (one + two).copied_to is None
    joined = one + two + two
    assert joined.copied_to == CPU
    np.testing.assert_array_equal(joined.images[:, 0].numpy(), store.images[[0, 1, 2, 1, 2]])
    np.testing.assert_array_equal(joined.labels.numpy(), store.labels[[0, 1, 2, 1, 2]])


@pytest.mark.parametrize("augment", ["none", "full"])
@pytest.mark.parametrize(("count", "batch"), [(7, 1), (7, 2), (5, 5), (1, 1)])
def test_batches_are_the_same_from_host_memory(count, batch, augment, made_store):
    store = made_store({"p": [1] * 8}, size=16)
    resident, copied = (
        BatchStream(Slices.load(store, np.arange(count), CPU, budget), batch, (3,), augment) for budget in (None, 10)
    )
    assert copied.slices.copied_to == CPU
    steps = [(epoch, step) for epoch in range(3) for step in range(resident.steps)]
    jumps = [(0, resident.steps - 1), (2, 0), (2, 0), (1, resident.steps - 1), (0, 0)]
    for epoch, step in [*steps, *jumps]:
        assert_same(copied.get(epoch, step), resident.get(epoch, step))


def test_the_slices_of_the_next_step_are_copied_ahead_into_the_other_slot(made_store):
    store = made_store({"p": [1] * 6}, size=16)
    stream = BatchStream(Slices.load(store, np.arange(6), CPU, 0), 2, (3,))
    buffers = stream._copies
    addresses = buffers.images.data_ptr(), buffers.labels.data_ptr()
    for epoch in range(2):
        order = np.random.default_rng([3, epoch, 1]).permutation(6).reshape(3, 2)
        for step in range(3):
            stream.stage(epoch, step)
            for ahead in range(min(2, 3 - step)):
                expected = store.images[order[step + ahead]]
                np.testing.assert_array_equal(buffers.images[(step + ahead) % 2, :, 0].numpy(), expected)
            stream.batch()
    assert (buffers.images.data_ptr(), buffers.labels.data_ptr()) == addresses
