"""A slice store that several processes write: a part for each patient, joined by whoever finds all of them there.

While it is being made, `<store>.parts` stands beside the store's place: `store.json` says what the parts are made with,
`patients/<name>` is a store of one patient's slices, `failed/<name>.txt` says why a patient has none. Each of these is
there whole or not at all, and so is the joined store, in the patients' order, whoever wrote which. Locks aren't
needed: of two processes that join the same parts, one gives its store the name and the other finds it taken.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastliver.data.intensity import IntensityRule
from fastliver.data.store import SliceStore, StoreWriter
from fastliver.errors import InputError
from fastliver.files import new_folder, read_json, remove_folder, write_file, write_json


class StoreParts:
    """The parts of a store.

    Args:
        store: where the store will be.
        names: its patients, in order, each fit for a file.
        size: side of the slices in pixels.
        rule: how grey values became [-1, 1]; its modality is the store's.
        made_with: what decides how the slices look; becomes fields of `store.json`.

    Attributes:
        folder: where the parts lie until they are joined.
        record: the file in it that says what they are made with.
    """

    def __init__(
        self, store: Path, names: Sequence[str], size: int, rule: IntensityRule, made_with: dict[str, Any]
    ) -> None:
        self.store, self.names, self.size, self.rule, self.made_with = store, names, size, rule, made_with
        self.folder = store.parent / f"{store.name}.parts"
        self.record = self.folder / "store.json"

    def part(self, name: str) -> Path:
        """Where a patient's part is, once it is there."""
        return self.folder / "patients" / name

    def reason(self, name: str) -> Path:
        """The file that says why a patient has no part."""
        return self.folder / "failed" / f"{name}.txt"

    def joined(self) -> SliceStore | None:
        """The store itself, or None while it isn't there.

        Raises:
            InputError: when something else stands in its place.
        """
        if not self.store.exists():
            return None
        found = SliceStore.open(self.store)
        for name, value in self.made_with.items():
            if found.meta.get(name) != value:
                raise InputError(
                    f"{self.store}: exists already, made with {name} {found.meta.get(name)}, not {value}; choose "
                    "another place, or delete it"
                )
        return found

    def begin(self, names: Sequence[str]) -> None:
        """Note what the parts are made with, and forget that these patients failed before: they are tried again.

        Raises:
            InputError: when parts are there that were made with something else.
        """
        if self.record.exists():
            try:
                before = dict(read_json(self.record))
            except (ValueError, TypeError) as error:
                raise InputError(f"{self.record}: no valid JSON object ({error}); delete {self.folder}") from error
            for name, value in self.made_with.items():
                if before.get(name) != value:
                    raise InputError(
                        f"{self.folder}: holds parts made with {name} {before.get(name)}, not {value}; delete it, or "
                        "choose another place for the store"
                    )
        for name in names:
            self.reason(name).unlink(missing_ok=True)
        write_json(self.record, self.made_with)

    @contextmanager
    def write(self, name: str, labelled: bool) -> Iterator[StoreWriter]:
        """Yield what writes a patient's part, which is there when the block ends."""
        with new_folder(self.part(name)) as folder:
            writer = StoreWriter(folder, self.rule.modality, self.size, self.rule, labelled)
            yield writer
            writer.finish()

    def fail(self, name: str, reason: str) -> None:
        """Note why a patient will have no part."""
        write_file(self.reason(name), reason)

    def missing(self) -> list[str]:
        """The patients who have no part and haven't failed."""
        return [name for name in self.names if not self.part(name).exists() and not self.reason(name).exists()]

    def join(self, replace: bool = False) -> bool:
        """Make the store of the parts, none of which is missing, and take them away.

        Args:
            replace: take the place of a store that is there; else that one stays.

        Returns:
            Whether the store is there; not where every patient has failed.

        Raises:
            InputError: when something else stands in its place; the parts stay.
        """
        if replace or self.joined() is None:
            try:
                self._join(replace)
            except (InputError, OSError):
                # Another process has joined the parts meanwhile, and may have taken them away.
                if replace or self.joined() is None:
                    raise
        self.discard()
        return self.store.exists()

    def _join(self, replace: bool) -> None:
        failed = [name for name in self.names if not self.part(name).exists()]
        if len(failed) == len(self.names):
            return
        parts = [SliceStore.open(self.part(name)) for name in self.names if name not in failed]
        with new_folder(self.store, replace) as folder:
            labelled = all(part.labelled for part in parts)
            writer = StoreWriter(folder, self.rule.modality, self.size, self.rule, labelled)
            for part in parts:
                writer.add(part.images, part.labels, part.meta["studies"][0], [asdict(entry) for entry in part.entries])
            skipped = [f"{name}: {self.reason(name).read_text(encoding='utf-8')}" for name in failed]
            writer.finish(**self.made_with, skipped=skipped, notes=[])

    def discard(self) -> None:
        """Take the parts away."""
        remove_folder(self.folder)
