"""What an evaluation gives: one list of figures, from which log, files, tables, progress and reports are made."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure of a result: a share of 1, NaN where it isn't defined.

    Attributes:
        key: What files call it: "mean_iou".
        title: What people call it: "mIoU".
        value: Of all classes together, or of each by its name.
        group: What it is a figure of, where a result has the same figures of several things: "box", "mask".
        logged: Whether it is followed through training: in metrics.csv, on the progress display, at the head of the
            report.
    """

    key: str
    title: str
    value: float | Mapping[str, float]
    group: str = ""
    logged: bool = False

    @property
    def name(self) -> str:
        """By which the log knows it: "box_ap"."""
        return f"{self.group}_{self.key}" if self.group else self.key

    @property
    def label(self) -> str:
        """As it stands alone in a text: "box AP"."""
        return f"{self.group} {self.title}" if self.group else self.title

    @property
    def total(self) -> float:
        """Its value, if it is of all classes together; NaN else."""
        return float("nan") if isinstance(self.value, Mapping) else self.value


class Result(ABC):
    """How well a split was predicted.

    Attributes:
        image_scores: How well each image was, by its name, from 0 to 1; NaN for one that has no score.
        predictions: What was predicted, in the form that the field exchanges it in; empty where it isn't kept.
    """

    image_scores: Mapping[str, float]
    predictions: Sequence[Mapping[str, object]] = ()

    @property
    @abstractmethod
    def figures(self) -> list[Figure]:
        """All figures, in the order in which they are shown."""

    @property
    def note(self) -> str:
        """A sentence about how the figures are counted; empty if there is nothing to tell."""
        return ""

    def details(self) -> dict[str, object]:
        """What a file of the figures has beside them, such as the confusion matrix."""
        return {}

    def logged(self) -> list[Figure]:
        """The figures that are followed through training."""
        return [figure for figure in self.figures if figure.logged]

    def to_json(self) -> dict[str, object]:
        """The figures as JSON has them: by key, within their group if they have one; null for what is undefined."""
        content: dict[str, object] = {}
        groups: dict[str, dict[str, object]] = {"": content}
        for figure in self.figures:
            if figure.group not in groups:
                content[figure.group] = groups[figure.group] = {}
            if isinstance(figure.value, Mapping):
                groups[figure.group][figure.key] = {name: defined(value) for name, value in figure.value.items()}
            else:
                groups[figure.group][figure.key] = defined(figure.value)
        return {**content, **self.details()}


def defined(value: float) -> float | None:
    """A figure as JSON and reports have it: None, not NaN, where it is undefined."""
    return None if math.isnan(value) else value


def per_cent(value: float, digits: int = 2) -> str:
    """A share as people read it: "48.33 %"; a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def worst_and_best(scores: Mapping[str, float], count: int) -> tuple[list[str], list[str]]:
    """The names of the `count` images with the lowest scores and the `count` with the highest, no image in both.

    Images without a score (NaN) are left out.
    """
    ranked = sorted((score, name) for name, score in scores.items() if not math.isnan(score))
    names = [name for _, name in ranked]
    worst = names[: min(count, (len(names) + 1) // 2)]
    best = names[len(worst) :][-count:][::-1]
    return worst, best
