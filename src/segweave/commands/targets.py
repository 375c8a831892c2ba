"""Which image files a command is to read, and where the picture made of each goes."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segweave.data.images import image_size, list_images
from segweave.errors import InputError


def checked_targets(
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    companions: Callable[[Path], Sequence[Path]] | None = None,
    *,
    overwrite: bool = False,
) -> dict[Path, Path]:
    """Where the picture made of each image file goes; finds what stands in the way before anything is written.

    Args:
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        companions: Gives the paths of the other files that are written for a picture.
        overwrite: Whether files may be replaced; an image that is read never is.

    Returns:
        The image file of each picture's file, OUT/NAME.png.

    Raises:
        InputError: An image can't be found, a file isn't an image, or a file exists already.
    """
    targets = _targets(images, Path(out))
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(image_size, targets.values()):  # the header alone: an image is decoded once, when it is used
            pass
    beside = [] if companions is None else [path for target in targets for path in companions(target)]
    written = [*targets, *dict.fromkeys(beside)]
    _require_free(written, {file.resolve() for file in targets.values()}, overwrite)
    return targets


def _require_free(written: Sequence[Path], sources: set[Path], overwrite: bool) -> None:
    """Refuses to replace an image that is read, and without leave any file."""
    for path in written:
        if path.resolve() in sources:
            raise InputError(f"{path}: an image would be replaced: expected another --out")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already: expected --overwrite to replace it, or another --out")


def _targets(images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], out: Path) -> dict[Path, Path]:
    """The image of each OUT/NAME.png; two images of one name, which would share it, are refused."""
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    files = list(dict.fromkeys(file for one in given for file in _files(os.fspath(one))))
    if not files:
        raise InputError(f"no images: expected files, folders or patterns, got {', '.join(map(str, given)) or 'none'}")
    targets: dict[Path, Path] = {}
    for file in files:
        target = out / f"{file.stem}.png"
        if target in targets:
            raise InputError(
                f"{file} and {targets[target]} would both be written to {target}: expected different names"
            )
        targets[target] = file
    return targets


def _files(given: str) -> Iterator[Path]:
    path = Path(given)
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise InputError(f"{path}: no images in this folder")
        yield from found
    elif path.exists():
        yield path
    else:
        matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
        if not matches:
            raise InputError(f"{given}: no such file or folder, and no file matches it as a pattern")
        yield from (match for match in matches if match.is_file())
