"""The answer to an unknown word."""

import pytest

from segweave.nearest import nearest

MODELS = ["pan", "agln", "ranet", "faster_rcnn", "mask_rcnn"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("rannet", "ranet"), ("mask-rcnn", "mask_rcnn"), ("fasterrcnn", "faster_rcnn"), ("pam", "pan"), ("PAN", "pan")],
)
def test_one_that_is_near_is_proposed_alone(word: str, expected: str) -> None:
    assert nearest(word, MODELS) == f"did you mean {expected}?"


@pytest.mark.parametrize("word", ["", "bisenet", "segformer"])
def test_without_one_that_is_near_all_are_listed_in_their_order(word: str) -> None:
    assert nearest(word, MODELS) == "expected one of pan, agln, ranet, faster_rcnn, mask_rcnn"


def test_the_nearest_of_several() -> None:
    assert nearest("short_edge", ["short_edges", "long_edge", "shorter_edge"]) == "did you mean short_edges?"
    assert nearest("crosswalk", ["sky", "Cross Walk"]) == "did you mean Cross Walk?"
