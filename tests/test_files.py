"""Files and folders that appear whole: who may read them, and which name an error has."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastliver.files import new_folder, write_file


@pytest.fixture(params=[0o002, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A group that shares its files, and one whose files are not the others'."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="no umask")
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    write_file(tmp_path / "sub" / "file", "text")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("text")
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("sub", "sub/file", "folder", "folder/file")
    }
    usual, usual_folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"sub": usual_folder, "sub/file": usual, "folder": usual_folder, "folder/file": usual}


def test_an_error_names_what_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken" / "by").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        write_file(tmp_path / "taken", "text")
    assert caught.value.filename == str(tmp_path / "taken")
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "new") as folder:
        (folder / "missing" / "file").write_text("text")
    assert caught.value.filename == str(tmp_path / "new" / "missing" / "file")
    # Somebody else's file keeps its name.
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "new"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.skipif(os.name != "posix", reason="no such modes")
def test_a_folder_that_may_be_written_but_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads all the same: the answer stands in."""
    opened = os.open

    def refused(path: object, flags: int, *mode: int) -> int:
        if path == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    write_file(tmp_path / "mine" / "file", "text")
    assert (tmp_path / "mine" / "file").read_text() == "text"
