"""A SliceStore from studies: built once for the same files and settings, and then taken again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from fastliver.data.intensity import IntensityRule
from fastliver.data.pipeline import Pipeline, PreparedStudy, Road
from fastliver.data.store import FORMAT, SliceStore, StoreWriter, study_records
from fastliver.data.study import Study
from fastliver.errors import InputError
from fastliver.files import new_folder, remove_folder
from fastliver.words import counted

MOST_NAMED = 10
"""Patients that a note names; it counts the others."""


def inputs_hash(studies: Iterable[Study], rule: IntensityRule, size: int, skip_bad: bool) -> str:
    """A digest of what a store depends on: the files by name, size and time of change, and the settings."""
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(rule), size, skip_bad]).encode())
    for study in studies:
        digest.update(json.dumps([study.patient, study.labelled, study.options]).encode())
        for path in study.paths:
            status = path.stat()
            digest.update(json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


def build_store(
    studies: Sequence[Study],
    rule: IntensityRule,
    size: int,
    folder: Path,
    skip_bad: bool = False,
    on_study: Callable[[int, int, int], None] = lambda done, total, slices: None,
    road: Road = "auto",
) -> SliceStore:
    """The store of these studies under `folder`: the one built before if nothing has changed since, else a new one.

    Args:
        studies: of one modality, all labelled or none.
        rule: how grey values become [-1, 1].
        size: side of the stored slices in pixels.
        folder: stores live here, each named by modality and the digest of its inputs.
        skip_bad: leave out what can't be read, and list it in `store.json` under "skipped".
        on_study: called with the studies done, their number and the slices written; not for a store that was there.
        road: how DICOM is read; what a store holds doesn't depend on it.

    Raises:
        InputError: from reading a study.
    """
    key = inputs_hash(studies, rule, size, skip_bad)
    path = folder / f"{rule.modality.lower()}-{size}-{key[:12]}"
    if path.exists():
        store = SliceStore.open(path)
        if store.meta.get("hash") == key:
            return store
        remove_folder(path)
    skipped: list[str] = []
    notes: list[str] = []
    shown: dict[str, bool] = {}
    content = hashlib.sha256()
    pipeline = Pipeline(rule, size, road)
    with (
        _unless_built(path),
        new_folder(path, replace=False) as temporary,
        closing(pipeline.prepare(studies)) as prepared,
    ):
        writer = StoreWriter(temporary, rule.modality, size, rule, studies[0].labelled)
        for number, outcome in enumerate(prepared):
            content.update(_digest(studies[number]))
            skipped += studies[number].skipped
            notes += studies[number].notes
            if isinstance(outcome, PreparedStudy):
                _add_study(writer, outcome)
                skipped += outcome.skipped
                notes += outcome.notes
                patient = studies[number].patient
                shown[patient] = shown.get(patient, False) or bool(outcome.labels.any())
            elif skip_bad:
                skipped.append(str(outcome))
            else:
                raise outcome
            on_study(number + 1, len(studies), len(writer.entries))
        if not writer.entries:
            raise InputError(
                f"{studies[0].series}: none of the {len(studies)} studies could be read; the first: {skipped[0]}"
            )
        notes += _note_without_liver(studies[0], shown)
        writer.finish(hash=key, content=content.hexdigest(), skipped=skipped, notes=notes)
    return SliceStore.open(path)


def _digest(study: Study) -> bytes:
    """SHA-256 of what a study is made of, wherever its files lie and whatever reads them."""
    digest = hashlib.sha256(json.dumps([study.patient, study.labelled, study.options]).encode())
    for path in study.paths:
        with suppress(OSError), path.open("rb") as file:  # what can't be read is told by whoever needs it
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def _note_without_liver(study: Study, shown: dict[str, bool]) -> list[str]:
    """A note where labelled patients show no liver; their slices look like any background to whoever learns.

    Args:
        study: one of them, for what its label's liver is.
        shown: whether each patient's labels show liver.
    """
    without = [patient for patient, liver in shown.items() if not liver]
    if not without or not study.labelled:
        return []
    named = ", ".join(without[:MOST_NAMED]) + (", ..." if len(without) > MOST_NAMED else "")
    return [
        f"{len(without)} of {counted(len(shown), 'labelled patient')} without liver in the label: {named}; nothing is "
        f"learned from them: {study.check_labels}"
    ]


@contextmanager
def _unless_built(path: Path) -> Iterator[None]:
    """Let a failure to give a store its name pass where another run has built the same one meanwhile."""
    try:
        yield
    except OSError:
        if not path.exists():
            raise


def _add_study(writer: StoreWriter, prepared: PreparedStudy) -> None:
    records = study_records(prepared.study, prepared, prepared.shape, prepared.fit, prepared.numbers)
    writer.add(prepared.images, prepared.labels, *records)
