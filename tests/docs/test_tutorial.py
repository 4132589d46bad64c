"""The tutorial, executed: every sh block in order, as a reader would type it, with smaller networks."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

REPOSITORY = Path(__file__).parents[2]
SMALLER = (
    "--device=cpu --image-size=32 --essnet-channels=4 --essnet-blocks=1 --essnet-epochs=1 --unet-channels=4 "
    "--unet-epochs=1"
)
TRAIN = "python -m fastliver.train "


def blocks() -> list[str]:
    """The tutorial's commands; what trains is made to take seconds."""
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{re.escape(TRAIN)}", f"{TRAIN}{SMALLER} ", block, flags=re.MULTILINE) for block in found]


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')  # a link would leave the venv
    python.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths,
                   "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONUTF8": "1"}  # fmt: skip
    printed = ""
    for block in blocks():
        command = ["bash", "-e", "-o", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        printed += done.stdout

    assert json.loads((home / "runs/tutorial/results/data.json").read_text())["split"]["test_patients"] == ["MR_10"]
    images = sorted((home / "synthetic/CT_1/mr").glob("*.dcm"))
    sources = sorted((home / "runs/phantom/Train_Sets/CT/1/DICOM_anon").glob("*.dcm"))
    assert len(images) == len(sources) == 40
    assert "SYNTHETIC MR IMAGE" in printed
    assert pydicom.dcmread(images[0]).StudyInstanceUID == pydicom.dcmread(sources[0]).StudyInstanceUID
    assert "SEG SCT 10200004 Liver" in printed
    referred = pydicom.dcmread(home / "liver.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence
    mr = (home / "runs/phantom/Train_Sets/MR/10/T2SPIR/DICOM_anon").glob("*.dcm")
    assert {item.ReferencedSOPInstanceUID for item in referred} == {pydicom.dcmread(p).SOPInstanceUID for p in mr}
    assert len(list((home / "Dataset501_SyntheticMR/imagesTr").glob("*.nii.gz"))) == 4
    rows = list(csv.DictReader((home / "scores.csv").read_text().splitlines()))
    assert {row["patient"] for row in rows} == {"1", "2", "3", "5", "8", "10"}
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    assert "</html>" in (home / "runs/tutorial/report.html").read_text(encoding="utf-8")
