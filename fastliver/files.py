"""Writing files so that a reader sees the old content or the new one, never half of either."""

import errno
import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastliver.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

ABANDONED_SECONDS = 24 * 3600

LOCK = "lock"
"""In a folder that one process may have for itself; see `sole_owner`."""


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; Windows can't open folders and needs no such step."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes | str) -> None:
    """Write `content` to a temporary name beside `path`, fsync it, and rename it into place."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    _make_folder(path.parent)
    temporary = _beside(path)
    try:
        # Not by tempfile, whose files are nobody else's to read whatever the umask says.
        with _naming(path, temporary), open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; see `write_file`."""
    write_file(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError name `path`, or what will lie in it, where it names the temporary, or nothing as write() does."""
    try:
        yield
    except OSError as error:
        named = temporary if error.filename is None else Path(os.fsdecode(error.filename))
        if named.is_relative_to(temporary):
            error.filename = str(path / named.relative_to(temporary))
        raise


def _beside(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, so that a power cut leaves them."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        with suppress(OSError):  # of a folder that may be written to but not read
            _sync_folder(one.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary folders for `path` that a killed process left; a day old, nobody is writing them any more."""
    for folder in path.parent.glob(f".{path.name}.*"):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there; nobody sees half of it under its name."""
    if not path.exists():
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    with suppress(FileNotFoundError):  # another process was faster
        os.replace(path, aside / path.name)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its name when the block ends without an exception.

    What stood at `path` is replaced, or with `replace` off stays, and an OSError is raised. The files in the folder are
    synced first, so that the name never points at data that a power cut can still lose.
    """
    _make_folder(path.parent)
    _remove_abandoned(path)
    temporary = _beside(path)
    try:
        with _naming(path, temporary):
            temporary.mkdir()
            yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
        if replace:
            remove_folder(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Let no other process have `folder`, which is made if need be, until the block ends or this process does.

    Where the file system has no locks nothing keeps two apart.

    Raises:
        InputError: when another process has it.
    """
    _make_folder(folder)
    with open(folder / LOCK, "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder}: another process is at work there; wait for it or stop it, or choose another name"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
        try:
            yield
        finally:
            if all(item.name == LOCK for item in folder.iterdir()):  # nothing came of it
                shutil.rmtree(folder, ignore_errors=True)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write a compressed .npz; see `write_file`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())
