"""The command of docs/chaos.md that counts what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def test_counts_patients_slices_and_liver(phantom: Path, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "chaos.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^python - <<'END'\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "CHAOS_Train_Sets").symlink_to(phantom.parent)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^(CT|MR): (\d+) patients, (\d+) slices, (\d+) with liver$", out, re.MULTILINE)

    def with_liver(masks: str, liver: range) -> int:
        grey = (Image.open(path).convert("L").getcolors() for path in phantom.glob(masks))
        return sum(any(value in liver for _, value in colours) for colours in grey)

    ct = with_liver("CT/*/Ground/*.png", range(1, 256))
    mr = with_liver("MR/*/T2SPIR/Ground/*.png", range(56, 71))
    assert found == [("CT", "2", "20", str(ct)), ("MR", "3", "24", str(mr))]
    assert 0 < ct < 20
    assert 0 < mr < 24
