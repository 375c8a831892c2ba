"""The nearest right word to a wrong one."""

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str:
    """What is said of an unknown word: the known one nearest to it, or all of them if none is near.

    Args:
        word: As given.
        known: The words that would have been right.
    """
    as_written = {each.lower(): each for each in reversed(known)}
    close = difflib.get_close_matches(word.lower(), as_written, n=1, cutoff=0.6)
    return f"did you mean {as_written[close[0]]}?" if close else f"expected one of {', '.join(known)}"


def known_and_nearest(word: str, known: Sequence[str]) -> str:
    """The same where all known words are always told: few values of a choice, or names that users of Python look up.

    Args:
        word: As given.
        known: The words that would have been right.
    """
    said, all_known = nearest(word, known), f"expected one of {', '.join(known)}"
    return all_known if said == all_known else f"{all_known}; {said}"
