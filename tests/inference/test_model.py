"""`fastliver.load`: what a user of arrays gets, which networks are taken, and what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch

import fastliver
from fastliver.errors import InputError, RunError
from fastliver.inference import load_unet
from fastliver.inference.trained import load_unets
from fastliver.weights import DamagedCheckpoint, final

SPACING = (5.0, 0.8, 0.8)


@pytest.fixture(scope="module")
def run(write_run, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def model(run):
    return fastliver.load(run, device="cpu")


def ct() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 200, (3, 40, 50)).astype(np.float32)


def mr() -> np.ndarray:
    return np.random.default_rng(1).gamma(2, 100, (3, 40, 50)).astype(np.float32)


def test_synthesize_keeps_grid_and_range(model) -> None:
    synthetic = model.synthesize(ct(), SPACING)
    assert synthetic.shape == (3, 40, 50)
    assert synthetic.dtype == np.float32
    assert synthetic.min() >= -1
    assert synthetic.max() <= 1
    assert synthetic.std() > 0.01


def test_segment_is_the_probability_above_a_half(model) -> None:
    probability = model.probability(mr(), SPACING)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1
    mask = model.segment(mr(), SPACING)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, probability > 0.5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: busy")])
def test_trouble_of_the_device_is_not_taken_for_damage(run, monkeypatch, error) -> None:
    def to(network, *arguments, **options):
        if arguments == (torch.device("cpu"),) and not options:
            raise error
        return original(network, *arguments, **options)

    original = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", to)
    with pytest.raises(RunError, match=r"--device=cpu: can't take the networks \(CUDA"):
        fastliver.load(run, device="cpu").liver_networks()


@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "tpu"])
def test_devices_without_kernels_are_refused(run, name) -> None:
    with pytest.raises(InputError, match=rf"--device={name}: expected auto, cpu, cuda"):
        fastliver.load(run, device=name)


def test_tensors_give_tensors(model) -> None:
    for method in (model.synthesize, model.segment, model.probability):
        found = method(torch.from_numpy(ct()), SPACING)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), method(ct(), SPACING))


def test_batch_changes_nothing(run, model) -> None:
    one = fastliver.load(run, "cpu", batch=1)
    np.testing.assert_allclose(one.probability(mr(), SPACING), model.probability(mr(), SPACING), atol=1e-5)


def test_ensemble_is_the_mean_of_the_seeds(run, model) -> None:
    from fastliver.inference.model import Model
    from fastliver.run_folder import RunFolder

    alone = []
    for trained in load_unets(RunFolder(run), torch.device("cpu"), 714, ensemble=True):
        single = Model(RunFolder(run), torch.device("cpu"))
        single._unets[None, False] = [trained]
        alone.append(single.probability(mr(), SPACING))
    assert len(alone) == 2
    assert np.abs(alone[0] - alone[1]).max() > 1e-4
    np.testing.assert_allclose(model.probability(mr(), SPACING, ensemble=True), np.mean(alone, 0), atol=1e-6)


def test_flips_are_the_mean_with_the_mirrored(model) -> None:
    image = mr()
    mirrored = model.probability(image[:, :, ::-1].copy(), SPACING)[:, :, ::-1]
    expected = (model.probability(image, SPACING) + mirrored) / 2
    np.testing.assert_allclose(model.probability(image, SPACING, flips=True), expected, atol=1e-5)


def test_flips_are_refused_where_training_mirrored_nothing(write_run, tmp_path) -> None:
    with pytest.raises(InputError, match="mirrored"):
        fastliver.load(write_run(tmp_path / "x", augment="none"), "cpu").segment(mr(), flips=True)


def test_segmentor_alone(model) -> None:
    """S gives two classes; the probability is their softmax."""
    squares = np.random.default_rng(2).uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    s = model.generator.network.s
    with torch.no_grad():
        expected = s(torch.from_numpy(squares)[:, None]).softmax(1)[:, 1]
    np.testing.assert_allclose(model.segmentor_squares(squares), expected.numpy(), atol=1e-6)
    assert model.segment(mr(), SPACING, method="essnet").shape == mr().shape


def test_default_is_the_most_synthetic_images_and_the_lowest_seed(write_run, tmp_path) -> None:
    names = ("unet-real-0-seed0", "unet-essnet-354-seed0", "unet-cyclegan-714-seed0", "unet-essnet-714-seed3",
             "unet-essnet-714-seed10")  # fmt: skip
    model = fastliver.load(write_run(tmp_path / "x", names), "cpu")
    assert [t.job for t in model.liver_networks()] == ["unet-essnet-714-seed3"]
    assert [t.job for t in model.liver_networks(ensemble=True)] == ["unet-essnet-714-seed3", "unet-essnet-714-seed10"]
    assert [t.job for t in model.liver_networks(arrangement=0)] == ["unet-real-0-seed0"]
    with pytest.raises(InputError, match=r"--arrangement=5: .* 0, 354, 714"):
        model.liver_networks(arrangement=5)


def test_what_is_missing_names_the_stage(write_run, tmp_path) -> None:
    bare = fastliver.load(write_run(tmp_path / "bare", unets=()), "cpu")
    with pytest.raises(InputError, match="no finished U-Net.*--stage unet"):
        bare.segment(mr())
    unets = fastliver.load(write_run(tmp_path / "unets", generator=False), "cpu")
    with pytest.raises(InputError, match="no finished EssNet.*--stage essnet"):
        unets.synthesize(ct())
    plain = fastliver.load(write_run(tmp_path / "cyclegan", segmentor=False), "cpu")
    assert plain.synthesize(ct()).shape == ct().shape
    with pytest.raises(InputError, match="no segmentor"):
        plain.segment(mr(), method="essnet")
    with pytest.raises(InputError, match="no run here"):
        fastliver.load(tmp_path)


@pytest.mark.parametrize("volume", [np.zeros((4, 4)), np.full((2, 4, 4), np.nan), np.zeros((0, 4, 4))])
def test_refuses_what_is_no_volume(model, volume) -> None:
    with pytest.raises(ValueError, match="volume: "):
        model.segment(volume)


@pytest.mark.parametrize(
    "spacing", [(1.0, -1.0, 1.0), (1.0, 1.0, 0.0), (float("nan"), 1.0, 1.0), (1.0, 1.0), 1.0, ("5", "1", "1"), None]
)
def test_refuses_what_is_no_spacing(model, spacing) -> None:
    for work in (model.segment, model.synthesize, model.probability):
        with pytest.raises(ValueError, match=r"^spacing: is .*, expected three positive numbers in mm: slice,"):
            work(mr(), spacing)


@pytest.mark.parametrize("spacing", [[5, 1, 2], np.array([5, 1, 2], np.float32)])
def test_a_spacing_may_be_any_three_numbers(model, spacing) -> None:
    np.testing.assert_array_equal(model.probability(mr(), spacing), model.probability(mr(), (5.0, 1.0, 2.0)))


@pytest.mark.parametrize("flips", [False, True])
def test_refuses_an_unknown_method(model, flips) -> None:
    with pytest.raises(ValueError, match="^method: is 'u-net', expected 'unet' or 'essnet'$"):
        model.segment(mr(), method="u-net", flips=flips)


@pytest.mark.parametrize("batch", [0, -3, 1.5, True])
def test_refuses_a_batch_without_slices(run, batch) -> None:
    with pytest.raises(InputError, match=rf"^batch={batch}: must be a whole number from 1; leave it out for 8"):
        fastliver.load(run, "cpu", batch=batch)


def test_refuses_an_unknown_device(run) -> None:
    for name in ("gpu", "cuda:99"):
        with pytest.raises(InputError, match=f"--device={name}"):
            fastliver.load(run, name)


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __reduce__(self):
        return (open, ("trap-was-sprung", "w"))


@pytest.mark.parametrize("what", ["flipped byte", "pickle", "other network", "settings"])
def test_refuses_tampered_weights_and_executes_nothing(write_run, tmp_path, monkeypatch, what) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "x", ("unet-essnet-714-seed0",)) / "checkpoints" / "unet-essnet-714-seed0" / "final"
    weights, meta = folder / "weights.safetensors", folder / "checkpoint.json"
    if what == "flipped byte":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif what == "pickle":
        weights.write_bytes(pickle.dumps(Trap()))
    elif what == "other network":
        weights.write_bytes((folder.parents[1] / "essnet" / "final" / "weights.safetensors").read_bytes())
    else:
        changed = json.loads(meta.read_text())
        changed["network"]["channels"] = 4
        meta.write_text(json.dumps(changed))
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        fastliver.load(tmp_path / "x", "cpu").segment(mr())
    assert not (tmp_path / "trap-was-sprung").exists()


def test_weights_are_those_of_the_checkpoint(run, model) -> None:
    found = final(run / "checkpoints" / "unet-essnet-714-seed0")
    expected = load_unet(found.meta["network"], found.weights(), torch.device("cpu"))
    (trained,) = model.liver_networks()
    for a, b in zip(trained.network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not trained.network.training
