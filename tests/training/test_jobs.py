"""Which U-Nets a run trains, under which names and in which order."""

from dataclasses import replace
from typing import Any

from fastliver.config import TrainConfig
from fastliver.training.jobs import unet_jobs


def names(**experiment: Any) -> list[str]:
    config = TrainConfig()
    return [job.name for job in unet_jobs(replace(config, experiment=replace(config.experiment, **experiment)))]


def test_without_a_learning_curve_names_say_nothing_of_patients():
    assert names(arrangements="0,714", seeds=2, seed=5) == [
        "unet-real-0-seed5",
        "unet-essnet-714-seed5",
        "unet-real-0-seed6",
        "unet-essnet-714-seed6",
    ]


def test_a_learning_curve_comes_after_the_u_nets_on_all_labels():
    assert names(arrangements="0,714", labelled_patients="2,1", seeds=2) == [
        "unet-real-0-seed0",
        "unet-essnet-714-seed0",
        "unet-real-0-seed1",
        "unet-essnet-714-seed1",
        "unet-real-0-patients1-seed0",
        "unet-essnet-714-patients1-seed0",
        "unet-real-0-patients2-seed0",
        "unet-essnet-714-patients2-seed0",
        "unet-real-0-patients1-seed1",
        "unet-essnet-714-patients1-seed1",
        "unet-real-0-patients2-seed1",
        "unet-essnet-714-patients2-seed1",
    ]


def test_the_ablation_has_no_learning_curve_of_its_own():
    found = names(arrangements="0", labelled_patients="3", ablation=True)
    assert found == [
        "unet-real-0-seed0",
        "unet-essnet-714-seed0",
        "unet-cyclegan-714-seed0",
        "unet-real-0-patients3-seed0",
    ]
    assert names(arrangements="354", labelled_patients="3", segmentor=False)[1:] == [
        "unet-cyclegan-354-patients3-seed0"
    ]
