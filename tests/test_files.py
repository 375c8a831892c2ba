"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from segweave.errors import InputError
from segweave.files import written_whole


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with written_whole(path) as unfinished:
        assert unfinished.parent == path.parent  # one file system, so that it can be moved at once
        assert not path.exists()
        unfinished.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def break_off(path: Path, error: BaseException) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_breaks_off(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(type(error)):
        break_off(path, error)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_when_there_was_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        break_off(tmp_path / "a.txt", RuntimeError())
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("before", "after"):
        with written_whole(path) as unfinished:
            unfinished.write_text(text)
    assert path.read_text() == "after"


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.txt: can't be written: No space left on device$"):
        break_off(tmp_path / "a.txt", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.txt: can't be written"), written_whole(tmp_path / "file" / "a.txt"):
        pass
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(InputError, match="folder: can't be written: Is a directory"),
        written_whole(tmp_path / "folder"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
