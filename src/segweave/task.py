"""What a run does that depends on what its network predicts: classes of pixels, or objects."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segweave.training.configuration import RunConfiguration
from segweave.training.steps import TrainingSteps


@dataclass(frozen=True)
class FinishedRun:
    """What the report of a run tells beside the figures.

    Attributes:
        folder: The run folder.
        configuration: The run's settings.
        metrics: The rows of metrics.csv.
        versions: Of what the run was made with.
    """

    folder: Path
    configuration: RunConfiguration
    metrics: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """How long the run has trained."""
        return float(self.metrics[-1]["seconds"]) if self.metrics else 0.0


class Task(ABC):
    """One for pixels and one for objects.

    Attributes:
        name: As `segweave.data.open_dataset` calls it.
    """

    name: Literal["semantic", "instance"]

    @abstractmethod
    def figures(self, configuration: RunConfiguration) -> Mapping[str, str]:
        """The figures of a validation that are shown, and what they are called. The best weights are those with the
        greatest first one."""

    @abstractmethod
    def describe(self, check: Any) -> list[str]:
        """Lines about a split of the data, given its check."""

    @abstractmethod
    def known_data(self, train: Any) -> dict[str, Any]:
        """What `segweave.training.configuration.resolve` is told of the training split."""

    @abstractmethod
    def training(self, network: Any, configuration: RunConfiguration, *, train: Any, val: Any) -> TrainingSteps:
        """The Lightning module of the run."""

    @abstractmethod
    def evaluate(self, network: Any, configuration: RunConfiguration, val: Any) -> Any:
        """The result of the best weights, in all processes of the run."""

    @abstractmethod
    def report(self, finished: FinishedRun, network: Any, val: Any, result: Any) -> str:
        """Writes report.html.

        Returns:
            The result in a line.
        """
