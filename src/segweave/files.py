"""Writing files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segweave.errors import InputError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary file beside `path` to write to, and puts it in the place of `path` once it is complete.

    A process that is killed, or a disk that is full, leaves what was there before.

    Raises:
        InputError: The file can't be written; the message gives the cause.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}-{os.getpid()}")
        unfinished.touch()
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
