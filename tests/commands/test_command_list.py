"""`python -m fastliver`: the list of commands, the way to each, completion; and `python -m fastliver.export`."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastliver.commands import find_commands, load_command
from fastliver.errors import InputError
from fastliver.export.__main__ import available
from fastliver.inference import load

EXPECTED = {"evaluate", "export", "info", "report", "segment", "synthesize", "train"}


def test_lists_every_command(train) -> None:
    out = train(module="fastliver", small=False).succeeded()
    commands = find_commands()
    assert commands.keys() >= EXPECTED
    for name, text in commands.items():
        assert f"  {name} " in out
        assert text in out


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_has_help_with_an_example(name) -> None:
    module = load_command(name)
    if hasattr(module, "build_parser"):
        assert f"example: python -m fastliver.{name} " in module.build_parser().format_help().replace("\n", " ")


def test_runs_the_command_that_is_named(train) -> None:
    out = train("segment", "--help", module="fastliver", small=False).succeeded()
    assert "usage: python -m fastliver.segment" in out
    assert "fastliver 0." in train("--version", module="fastliver", small=False).succeeded()
    train("segmnt", module="fastliver", small=False).refused("segmnt: no such command", "segment")


def test_completes_commands_and_options_in_bash(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-m", "fastliver", "--completion", "bash"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def complete(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        code = f"{done.stdout}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _fastliver; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert complete("fastliver", "s") == ["segment", "synthesize"]
    assert complete("fastliver", "segment", "--la") == ["--largest-component"]
    assert complete("fastliver", "train", "--essnet-ch") == ["--essnet-channels"]
    assert complete("fastliver", "segment", "--mr", "") == []


@pytest.fixture
def export(train):
    def call(*arguments):
        return train(*arguments, module="fastliver.export", small=False)

    return call


@pytest.mark.slow
def test_export_writes_what_the_run_has(export, write_run, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    run = write_run(tmp_path / "run", unets=("unet-real-0-seed0",), segmentor=False)
    out = export(f"--run={run}", f"--out={tmp_path / 'onnx'}").succeeded()
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"generator.onnx", "unet.onnx"}
    assert "unet-real-0-seed0" in out
    export(f"--run={run}", f"--out={tmp_path / 'onnx'}").refused("generator.onnx: exists already", "--force")


def test_export_refusals(export, write_run, tmp_path) -> None:
    run = write_run(tmp_path / "run", unets=())
    export(f"--run={tmp_path}", f"--out={tmp_path / 'o'}").refused("no run here")
    export(f"--run={run}", f"--out={tmp_path / 'o'}", "--network=unet").refused("no finished U-Net", "--stage unet")
    export(f"--run={run}", f"--out={tmp_path / 'o'}", "--arrangement=3").refused("no finished U-Net")
    assert not (tmp_path / "o").exists()


def test_export_takes_a_damaged_network_for_no_missing_one(write_run, tmp_path) -> None:
    run = write_run(tmp_path / "run")
    Path(run / "checkpoints" / "essnet" / "final" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        available(load(run, "cpu"), None, "all")


def test_export_names_the_missing_package(write_run, tmp_path, monkeypatch) -> None:
    from fastliver.export.onnx import export_generator

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'fastliver\[export\]'"):
        export_generator(load(write_run(tmp_path / "run"), "cpu").generator.network.g1, 32, tmp_path / "x", {})
