"""`python -m fastliver`: the list of commands, the way to each, completion; and `python -m fastliver.export`."""

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastliver.commands import SHELLS, find_commands, load_command
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
    train("segmnt", module="fastliver", small=False).refused("segmnt: no such command; did you mean segment?")
    train("zzz", "--data=x", module="fastliver", small=False).refused("zzz: no such command; choose one of", "train")


COMPLETIONS = [
    ("fastliver s", {"segment", "synthesize"}),
    ("fastliver segment --la", {"--largest-component"}),
    ("fastliver train --essnet-augment ", {"none", "flip-shift", "keras", "full"}),
    ("fastliver train --preset d", {"demo", "default"}),
    ("fastliver synthesize --format d", {"dicom"}),
    ("fastliver segment --mr ct", {"ct_1.nii.gz", "ct_2.nii.gz"}),
]
"""What is typed, and what tab gives in a folder with these two files."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two NIfTI files, and the completion scripts that the command prints."""
    folder = tmp_path_factory.mktemp("shells")
    for name in ("ct_1.nii.gz", "ct_2.nii.gz"):
        (folder / name).touch()
    for shell in SHELLS:
        command = [sys.executable, "-m", "fastliver", "--completion", shell]
        (folder / f"script.{shell}").write_text(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )
    return folder


def shell(name: str, folder: Path, code: str) -> list[str]:
    """The lines that a shell prints."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb"}
    options = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["-f"]}[name]
    command = [name, *options, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("typed", "found"), COMPLETIONS)
def test_bash_completes(folder, typed, found) -> None:
    words = typed.split(" ")
    code = f"""
source script.bash
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_shtab_fastliver fastliver '{words[-1]}' '{words[-2]}'
printf '%s\n' "${{COMPREPLY[@]}}"
complete -p fastliver >&2
"""
    assert set(shell("bash", folder, code)) == found


@pytest.mark.parametrize(("typed", "found"), COMPLETIONS)
def test_fish_completes(folder, typed, found) -> None:
    told = shell("fish", folder, f"source script.fish; complete --do-complete '{typed}'")
    assert {line.partition("\t")[0] for line in told} == found


@pytest.mark.parametrize(("typed", "found"), COMPLETIONS)
def test_zsh_completes(folder, typed, found) -> None:
    """zsh completes in a terminal alone: tab twice lists what fits or types the rest, which control-X here shows."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb"}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)

    def until(wanted: set[str]) -> None:
        shown = ""
        while any(text not in shown for text in wanted):
            ready, _, _ = select.select([ours], [], [], 30)
            assert ready, f"{wanted} wanted, but shown: {shown}"
            shown += os.read(ours, 4096).decode(errors="replace")

    try:
        setup = 'autoload -U compinit; compinit -u -D; eval "$(cat script.zsh)"; setopt no_auto_menu'
        widget = 'show() { print -r -- "<$BUFFER>" }; zle -N show; bindkey "^X" show'
        os.write(ours, f"{setup}; {widget}; echo READ''Y\n".encode())
        until({"READY"})
        os.write(ours, f"{typed}\t\t\x18".encode())
        until(found)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


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
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        export_generator(load(write_run(tmp_path / "run"), "cpu").generator.network.g1, 32, tmp_path / "x", {})
