"""The layout of a run folder: what training writes and what reporting reads."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastliver.errors import InputError
from fastliver.files import read_json, write_json

PACE = ("seconds", "step_seconds", "images_per_second", "memory_gib")
"""What a line of metrics.jsonl says about speed and memory; besides these, job, step and epoch it holds losses."""


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        maker = "report --feature-network" if path.name.startswith("features-") else "train --resume"
        raise InputError(
            f"{path}: no valid JSON object ({error}); delete it, and python -m fastliver.{maker} makes it again"
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `runs/<name>/`.

    `results/` holds what the tables and figures are made from: one JSON file a result, and beside it an .npz with the
    few images that the figures show. A report needs nothing outside the folder; docs/run-folder.md describes it.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def stores(self) -> Path:
        """Where the slice stores of this run and its neighbours lie; a link to a run has those beside the link."""
        return Path(os.path.abspath(self.root)).parent / "stores"

    @property
    def config(self) -> Path:
        """The settings; where they are, a run was begun."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """What the run was computed with: machine and versions."""
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        """Losses and speed, a line of JSON for each logged step."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same for TensorBoard."""
        return self.root / "tensorboard"

    def profile(self, job: str) -> Path:
        """The trace of the steps of a training that `--profile` names."""
        return self.root / "profile" / f"{job}.json"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def checkpoints(self, job: str) -> Path:
        """Where the checkpoints of one training, such as `essnet` or `unet-essnet-714-seed0`, lie."""
        return self.root / "checkpoints" / job

    def synthetic(self, job: str) -> Path:
        """The SliceStore of synthetic MR made by `job`: `essnet`'s own, another network's beside it."""
        return self.root / ("synthetic" if job == "essnet" else f"synthetic-{job}")

    def read_environment(self) -> dict[str, Any]:
        """What the run was computed with; empty where that wasn't noted. Raises InputError where it is damaged."""
        return _read_object(self.environment) if self.environment.exists() else {}

    def result(self, name: str) -> Path:
        """The JSON file of one result."""
        return self.root / "results" / f"{name}.json"

    def arrays(self, name: str) -> Path:
        """The arrays that the figures of one result show."""
        return self.root / "results" / f"{name}.npz"

    def write_result(self, name: str, value: dict[str, Any]) -> None:
        """Write one result; see `files.write_json`."""
        write_json(self.result(name), value)

    def read_result(self, name: str) -> dict[str, Any] | None:
        """The result, or None while it has not been written; raises InputError where it is damaged."""
        path = self.result(name)
        return _read_object(path) if path.exists() else None

    def read_results(self, prefix: str) -> list[dict[str, Any]]:
        """All results whose name starts with `prefix`, in order of name; raises InputError where one is damaged."""
        return [_read_object(path) for path in sorted((self.root / "results").glob(f"{prefix}*.json"))]

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line cut off by a kill is left out.

        Raises:
            InputError: where another line is damaged.
        """
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise InputError(f"{self.metrics}: line {number} is no JSON ({error}); delete the line") from error
        return found

    @staticmethod
    def open(root: Path) -> "RunFolder":
        """The folder of a run that was started before; raises InputError where there is none."""
        folder = RunFolder(root)
        if not folder.config.exists():
            raise InputError(f"{root}: no run here (config.yaml is missing); name a folder that a training run wrote")
        return folder
