"""Settings: presets, files and options, in which order they count, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastliver.config import PRESETS, TrainConfig, flatten, unflatten
from fastliver.errors import InputError
from fastliver.train import read_options


def printed(train: Any, *arguments: Any) -> dict[str, Any]:
    """The settings that `--print_config` shows."""
    return yaml.safe_load(train(*arguments, "--print_config", small=False).succeeded())


def settings(*arguments: Any) -> dict[str, Any]:
    """The settings that a command line ends up with, as config.yaml of the run would have them."""
    return flatten(read_options(["--data=somewhere", *map(str, arguments)])[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_print_config_shows_the_preset(preset: str, train: Any) -> None:
    found = printed(train, "--preset", preset)
    expected = {**flatten(TrainConfig()), **PRESETS[preset], "preset": preset}
    assert {name: found.get(name, "not shown") for name in expected} == expected


def test_print_config_is_a_config(train: Any, tmp_path: Path) -> None:
    text = train("--preset=quick", "--unet-epochs=7", "--no-segmentor", "--print_config", small=False).succeeded()
    (tmp_path / "settings.yaml").write_text(text)
    again = printed(train, "--config", tmp_path / "settings.yaml")
    first = yaml.safe_load(text)
    assert {**again, "config": None} == {**first, "config": None}
    assert (again["preset"], again["image_size"], again["unet_epochs"], again["segmentor"]) == ("quick", 96, 7, False)


ORDERS = [
    ("--image-size=64", "--preset=quick", "--unet-epochs", "3"),
    ("--preset=quick", "--image-size", "64", "--unet-epochs=3"),
    ("--unet-epochs=3", "--preset", "quick", "--image-size=64"),
]


@pytest.mark.parametrize("order", ORDERS)
def test_options_override_the_preset_in_any_order(order: tuple[str, ...]) -> None:
    found = settings(*order)
    changed = {"preset": "quick", "image_size": 64, "unet_epochs": 3, "data": str(Path("somewhere").absolute())}
    assert found == {**flatten(TrainConfig()), **PRESETS["quick"], **changed}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("joined", [True, False])
def test_config_file_stands_between_preset_and_options(place: int, joined: bool, tmp_path: Path) -> None:
    file = tmp_path / "my settings.yaml"
    file.write_text("image_size: 80\nunet_epochs: 9\nct_window: [-100, 300]\n")
    arguments = ["--preset=quick", "--unet-epochs=3"]
    arguments[place:place] = [f"--config={file}"] if joined else ["--config", str(file)]
    found = settings(*arguments)
    expected = (80, 3, PRESETS["quick"]["essnet_epochs"])
    assert (found["image_size"], found["unet_epochs"], found["essnet_epochs"]) == expected
    assert list(found["ct_window"]) == [-100, 300]


def test_config_file_may_name_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("preset: quick\nunet_epochs: 9\n")
    found = settings("--config", file)
    assert (found["preset"], found["image_size"], found["unet_epochs"]) == ("quick", 96, 9)
    assert settings("--config", file, "--preset=default")["image_size"] == 256


def test_negations_and_tuples() -> None:
    found = settings("--no-segmentor", "--skip-bad", "--ct-window=[-100,300]", "--essnet-betas", "[0.9, 0.99]")
    assert (found["segmentor"], found["skip_bad"]) == (False, True)
    assert (list(found["ct_window"]), list(found["essnet_betas"])) == ([-100, 300], [0.9, 0.99])
    assert settings("--no-segmentor", "--segmentor")["segmentor"] is True
    assert settings("--skip-bad", "--no-skip-bad")["skip_bad"] is False


def test_run_keeps_the_settings_that_it_was_given(finished: Path) -> None:
    """From outside, without --print_config: what the options said is what the run folder says."""
    found = yaml.safe_load((finished / "config.yaml").read_text())
    assert found["preset"] == "default"
    given = {"device": "cpu", "image_size": 32, "arrangements": "0,714", "log_every": 1, "essnet_channels": 2,
             "essnet_blocks": 1, "essnet_epochs": 1, "essnet_augment": "none",
             "unet_channels": 2, "unet_epochs": 1, "unet_augment": "none"}  # fmt: skip
    data = {"data": found["data"]}
    assert found == {**flatten(TrainConfig()), **given, **data}


def test_paper_preset_is_the_paper() -> None:
    config = unflatten({**flatten(TrainConfig()), **PRESETS["paper"], "preset": "paper"})
    essnet, unet = config.essnet, config.unet
    assert config.data.image_size == 256
    assert (essnet.epochs, essnet.decay_epochs, essnet.ct_slices, essnet.batch) == (100, 0, 350, 1)
    assert (essnet.generator_lr, essnet.discriminator_lr, essnet.betas) == (1e-4, 2e-4, (0.5, 0.999))
    assert (essnet.channels, essnet.blocks, essnet.pool, essnet.adversarial) == (64, 9, 50, "bce")
    assert essnet.weights == (1, 1, 10, 10, 1)
    assert (essnet.segmentor_tanh, config.experiment.segmentor) == (False, True)
    assert (unet.epochs, unet.batch, unet.lr, unet.channels, unet.head_relu) == (300, 2, 1e-4, 64, True)
    assert (config.experiment.split, essnet.augment, unet.augment) == ("paper", "none", "none")
    assert config.experiment.test_fraction == 58 / 408
    assert config.synthetic_counts() == (0, 354, 714, 1034, 1487, 2050)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_settings_that_exist(preset: str) -> None:
    assert PRESETS[preset].keys() <= flatten(TrainConfig()).keys()
    config = unflatten({**flatten(TrainConfig()), **PRESETS[preset], "preset": preset})
    assert unflatten(flatten(config)) == config
    assert unflatten(yaml.safe_load(yaml.safe_dump(flatten(config)))) == config


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--preset=nonsense"], ["--preset=nonsense: expected one of demo, quick, default, paper"]),
        (["--unet-epochs=0"], ["--unet-epochs=0", "at least 1"]),
        (["--image-size=16"], ["--image-size=16", "at least 32"]),
        (["--image-size=40"], ["--image-size=40", "multiple of 16"]),
        (["--essnet-pool=-1"], ["--essnet-pool=-1", "at least 0"]),
        (["--essnet-weights=[1,1,10,-10,1]"], ["--essnet-weights", "at least 0"]),
        (["--ct-window=[240,-160]"], ["--ct-window", "first must be below"]),
        (["--mr-percentiles=[1,101]"], ["--mr-percentiles", "0..100"]),
        (["--test-fraction=1"], ["--test-fraction=1", "between 0 and 1"]),
        (["--seeds=0"], ["--seeds=0", "at least 1"]),
        (["--arrangements=0,x"], ["--arrangements=0,x", "0 to 2050"]),
        (["--arrangements=2051"], ["--arrangements=2051", "0 to 2050"]),
        (["--arrangements="], ["--arrangements="]),
        (["--labelled-patients=1,x"], ["--labelled-patients=1,x", "numbers from 1", "all"]),
        (["--labelled-patients=0,1"], ["--labelled-patients=0,1", "numbers from 1"]),
        (["--labelled-patients="], ["--labelled-patients="]),
        (["--labelled-patients=1", "--split=paper"], ["--labelled-patients=1", "--split patient"]),
        (["--preset=paper", "--labelled-patients=1"], ["--labelled-patients=1", "--split patient"]),
        (["--ablation", "--no-segmentor"], ["--ablation", "--no-segmentor"]),
        (["--essnet-betas=[0.5,1.0]"], ["--essnet-betas", "1"]),
        (["--seed=99999999999999999999"], ["--seed"]),
        (["--image-size=abc"], ["--image-size=abc: expected a whole number"]),
        (["--image-size"], ["image-size"]),
        (["--essnet-weights=[1,1]"], ["--essnet-weights=[1, 1]: expected 5 numbers", "[1.0, 1.0, 10.0, 10.0, 1.0]"]),
        (["--unet-lr=nan"], ["--unet-lr=nan: expected a number"]),
        (["--ct-window=[-160,.inf]"], ["--ct-window", "finite"]),
        (["--ct-window=0,400"], ["--ct-window=0,400: expected 2 numbers in brackets, such as [-160.0, 240.0]"]),
        (["--split=patients"], ["--split=patients: expected one of patient, paper"]),
        (["--essnet-epoch=3"], ["--essnet-epoch: no such option; did you mean --essnet-epochs?"]),
        (["--skip-bad=maybe"], ["--skip-bad=maybe: takes no value; its opposite is --no-skip-bad"]),
        (["--seed=1" + "0" * 320], ["--seed", "must be below 2**63"]),
        (["--zzz"], ["--zzz: no such option; --help lists them"]),
        (["quick"], ["quick: nothing is expected there"]),
        (["--essnet-adversarial=wgan"], ["wgan", "lsgan"]),
        (["--stage=nonsense"], ["--stage", "nonsense", "synthesize"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_refused(arguments: list[str], texts: list[str], train: Any, phantom: Path, tmp_path: Path) -> None:
    ended = train("--data", phantom, "--runs", tmp_path / "runs", "--stage=essnet", *arguments)
    ended.refused(*texts)
    assert not (tmp_path / "runs").exists()
    assert ended.err.count("\n") < 25


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1, 2", "settings.yaml: can't be read as settings"),
        (b"just text", "settings.yaml: holds no settings"),
        (b"- 1", "settings.yaml: holds no settings"),
        ("name: caf\xe9".encode("latin-1"), "settings.yaml: can't be read as settings"),
        (b"unet_epochs: none at all", "--unet-epochs=none at all: expected a whole number"),
        (b"preset: fast", "--preset=fast: expected one of demo, quick, default, paper"),
        (b"no_such_setting: 1", "no_such_setting: no such setting"),
        (b"image_sizes: 64", "image_sizes: no such setting; did you mean image_size?"),
        (None, "settings.yaml: can't be read as settings"),
    ],
)
def test_config_file_refused(content: bytes | None, text: str, train: Any, phantom: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    train("--data", phantom, "--runs", tmp_path / "runs", "--config", file, small=False).refused(text)
    assert not (tmp_path / "runs").exists()


def test_help_names_every_setting(train: Any) -> None:
    out = train("--help", small=False).succeeded()
    for name in flatten(TrainConfig()):
        assert f"--{name.replace('_', '-')}" in out
    assert "--no-segmentor" in out


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().preset = "quick"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("all", (0, 354, 714, 1034, 1487, 2050)), ("714,0", (0, 714)), ("5, 5", (5,)), ("0", (0,)), ("2050", (2050,))],
)
def test_arrangements(text: str, counts: tuple[int, ...]) -> None:
    assert unflatten({**flatten(TrainConfig()), "arrangements": text}).synthetic_counts() == counts


@pytest.mark.parametrize("name", ["essnet_batch", "unet_channels", "log_every", "essnet_ct_slices"])
def test_least_values(name: str) -> None:
    unflatten({**flatten(TrainConfig()), name: 1})
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}=0: must be at least 1"):
        unflatten({**flatten(TrainConfig()), name: 0})


@pytest.mark.parametrize(("text", "counts"), [("all", ()), ("8,1,2,2", (1, 2, 8)), ("3", (3,))])
def test_labelled_patients(text: str, counts: tuple[int, ...]) -> None:
    assert unflatten({**flatten(TrainConfig()), "labelled_patients": text}).patient_counts() == counts
