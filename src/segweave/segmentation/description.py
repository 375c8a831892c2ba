"""What a user says about a data set: the keys of dataset.yaml, or the arguments that override them."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segweave.data.colours import Colour
from segweave.errors import InputError
from segweave.networks.losses import IGNORE_INDEX

_KEYS = ("classes", "palette", "ignore_index")


class Description(NamedTuple):
    """What dataset.yaml and the arguments say together."""

    classes: list[str] | None
    """The names of the K classes; None: neither they nor a palette were given."""
    palette: list[Colour] | None
    """The colours of the classes, and perhaps of further values, all of them in `ignore_index`."""
    ignore_index: tuple[int, ...]
    """The values of the masks that count nowhere, 255 among them, sorted."""


def describe(root: Path, classes: Any, palette: Any, ignore_index: Any) -> Description:
    """Reads ROOT/dataset.yaml, if there is one, and checks it; an argument that is not None takes its key's place.

    Raises:
        InputError: A key or a value is wrong; the message names the file and the key, or the argument.
    """
    file = root / "dataset.yaml"
    given = {"classes": classes, "palette": palette, "ignore_index": ignore_index}
    written = _read_yaml(file)
    where = {key: f"{file}: {key}" if given[key] is None else key for key in _KEYS}
    value = {key: written.get(key) if given[key] is None else given[key] for key in _KEYS}

    ignored = _parse_ignore_index(value["ignore_index"], where["ignore_index"])
    colours = _parse_palette(value["palette"], where["palette"])
    names = _parse_classes(value["classes"], where["classes"])
    if colours is None:
        return Description(names, None, ignored)
    if names is None:
        count = len(colours)
        while count - 1 in ignored:
            count -= 1
        names = [f"class {index}" for index in range(count)]
    if len(colours) < len(names) or not set(range(len(names), len(colours))) <= set(ignored):
        raise InputError(f"{where['palette']}: {len(colours)} colours: expected {len(names)}, one for each class")
    return Description(names, colours, ignored)


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected the keys {', '.join(_KEYS)}, not {content!r}")
    if unknown := [str(key) for key in content if key not in _KEYS]:
        raise InputError(f"{file}: unknown key {', '.join(unknown)}: expected {', '.join(_KEYS)}")
    return content


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parse_classes(value: Any, where: str) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= IGNORE_INDEX:
        raise InputError(f"{where}: {value!r}: expected a list of 1 to {IGNORE_INDEX} names")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: {name!r}: expected a name (in quotes, if it reads as a number, yes or no)")
    if repeated := [name for name, count in Counter(value).items() if count > 1]:
        raise InputError(f"{where}: {repeated[0]!r} occurs more than once: expected each name once")
    return list(value)


def _parse_palette(value: Any, where: str) -> list[Colour] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: {value!r}: expected a list of colours [red, green, blue]")
    for colour in value:
        if (
            not isinstance(colour, list | tuple)
            or len(colour) != 3
            or not all(_is_integer(channel) and 0 <= channel <= 255 for channel in colour)
        ):
            raise InputError(f"{where}: {colour!r}: expected [red, green, blue], each from 0 to 255")
    return [(red, green, blue) for red, green, blue in value]


def _parse_ignore_index(value: Any, where: str) -> tuple[int, ...]:
    values = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    for each in values:
        if not _is_integer(each):
            raise InputError(f"{where}: {each!r}: expected an integer or a list of integers")
    return tuple(sorted({*values, IGNORE_INDEX}))
