"""Values of known types: what is taken, and one line about what isn't."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

from segweave.errors import InputError
from segweave.typed_values import of_type


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Settings of all kinds."""

    name: str
    steps: int | None = None
    pace: float = 1.0
    back: bool = False
    size: tuple[int, int] | None = None
    edges: tuple[float, ...] = ()
    stride: int | tuple[int, int] = 1
    kind: Literal["slow", "fast"] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise InputError("steps 0: expected 1 or more")


def walk(**values: object) -> Walk:
    return of_type(TypeAdapter(Walk), {"name": "home", **values})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": "12"}, 12),
        ({"steps": 12.0}, 12),
        ({"steps": None}, None),
        ({"pace": "1e-2"}, 0.01),
        ({"pace": 3}, 3.0),
        ({"back": "true"}, True),
        ({"back": False}, False),
        ({"size": [3, 4]}, (3, 4)),
        ({"size": ["3", "4"]}, (3, 4)),
        ({"edges": [1, "2.5"]}, (1.0, 2.5)),
        ({"edges": []}, ()),
        ({"stride": [3, 4]}, (3, 4)),
        ({"stride": "5"}, 5),
        ({"kind": "fast"}, "fast"),
        ({"options": {"a": [1, True], "b": "2", "c": False}}, {"a": [1, True], "b": "2", "c": False}),
    ],
)
def test_what_is_taken(given: dict[str, object], expected: object) -> None:
    (name,) = given
    value = getattr(walk(**given), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": "many"}, "steps many: expected a whole number"),
        ({"steps": 2.5}, "steps 2.5: expected a whole number"),
        ({"steps": "1e3"}, "steps 1e3: expected a whole number"),
        ({"steps": float("nan")}, "steps nan: expected a finite number"),
        ({"steps": [3]}, "steps [3]: expected a whole number"),
        ({"pace": "fast"}, "pace fast: expected a number"),
        ({"pace": None}, "pace None: expected a number"),
        ({"back": "maybe"}, "back maybe: expected true or false"),
        ({"back": 2}, "back 2: expected true or false"),
        ({"size": 3}, "size 3: expected a list of values"),
        ({"size": "3 4"}, "size 3 4: expected a list of values"),
        ({"size": [3]}, "size [3]: expected 2 values, not 1"),
        ({"size": [3, 4, 5]}, "size [3, 4, 5]: expected 2 values, not 3"),
        ({"size": [3, "b"]}, "size b: expected a whole number"),
        ({"edges": [1, "b"]}, "edges b: expected a number"),
        ({"stride": "b"}, "stride b: expected a whole number or a list of values"),
        ({"stride": [3, "b"]}, "stride b: expected a whole number"),
        ({"kind": "swift"}, "kind swift: expected one of 'slow', 'fast'"),
        ({"options": 3}, "options 3: expected names with values"),
        ({"name": 3}, "name 3: expected text"),
        ({"steps": 0}, "steps 0: expected 1 or more"),
    ],
)
def test_what_is_refused(given: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError) as raised:
        walk(**given)
    assert str(raised.value) == expected


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"^name is missing$"):
        of_type(TypeAdapter(Walk), {"steps": 3})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": True}, "steps True: expected a whole number"),
        ({"pace": False}, "pace False: expected a number"),
        ({"edges": [0.5, True]}, "edges True: expected a number"),
        ({"stride": True}, "stride True: expected a whole number"),
    ],
)
def test_true_and_false_are_no_numbers(given: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError) as raised:
        walk(**given)
    assert str(raised.value) == expected


def test_two_that_are_equally_wrong_are_not_taken_for_one() -> None:
    with pytest.raises(InputError) as raised:
        walk(steps="a", pace="a")
    assert str(raised.value) == "steps a: expected a whole number"


def test_a_value_of_its_own_is_called_as_told() -> None:
    assert of_type(TypeAdapter(tuple[int, ...]), ["1", 2], "strides") == (1, 2)
    for value, expected in (
        ("b", "strides b: expected a whole number or a list of values"),
        (True, "strides True: expected a whole number"),
        ([1, 2.5], "strides 2.5: expected a whole number"),
    ):
        with pytest.raises(InputError) as raised:
            of_type(TypeAdapter[int | tuple[int, ...]](int | tuple[int, ...]), value, "strides")
        assert str(raised.value) == expected
