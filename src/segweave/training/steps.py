"""The steps of a training run, whatever its network predicts: loss, optimiser, schedule, chance, validation."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Never, TypeVar

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from segweave.data.loading import TrainingOrder, seed_of
from segweave.errors import TrainingError
from segweave.results import Result
from segweave.task import Evaluator, Lessons
from segweave.training.configuration import RunConfiguration

ResultT = TypeVar("ResultT", bound=Result)

STEP_FACTOR = 0.1
"""What the learning rate is multiplied by at each milestone (FPT, Section 4.1: from 0.05 to 0.005)."""


class EvaluationSteps(lightning.LightningModule, Generic[ResultT]):
    """Runs an evaluator over its split, and logs the figures that are followed through training.

    Args:
        evaluator: Of the network.
        workers: Processes that load the images.

    Attributes:
        network: The evaluator's.
        result: Of the last validation; None before.
    """

    def __init__(self, evaluator: Evaluator[Never, ResultT], workers: int) -> None:
        super().__init__()
        self.network = evaluator.network
        self.evaluator: Evaluator[Any, ResultT] = evaluator
        self.workers = workers
        self.result: ResultT | None = None

    def val_dataloader(self) -> Any:
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        return self.evaluator.loader(rank=rank, processes=processes, workers=self.workers)

    def on_validation_epoch_start(self) -> None:
        self.evaluator.start()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluator.add(batch)

    def on_validation_epoch_end(self) -> None:
        self.result = self.evaluator.result(self._gather)
        self.log_dict({f"val/{each.name}": each.total for each in self.result.logged()}, rank_zero_only=True)

    def _gather(self, value: object) -> list[object]:
        if self.trainer.world_size == 1:
            return [value]
        gathered: list[object] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, value)
        return gathered


class TrainingSteps(EvaluationSteps[ResultT]):
    """Trains a network with the sum of its own losses; validates with the evaluator that it is given.

    Args:
        lessons: What the network is trained on.
        evaluator: Of the same network on the validation split.
        configuration: Of the run.
    """

    def __init__(
        self, lessons: Lessons[Never], evaluator: Evaluator[Never, ResultT], configuration: RunConfiguration
    ) -> None:
        super().__init__(evaluator, configuration.workers)
        self.lessons: Lessons[Any] = lessons
        self.configuration = configuration

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # what is drawn in a step depends on the step alone, so that a resumed run draws what an unbroken one does
        torch.manual_seed(seed_of(self.configuration.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses, names = self.lessons.losses(batch), self.lessons.names(batch)
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            raise TrainingError(self._diverged(losses, names))
        self.log("train/loss", total, prog_bar=True, batch_size=len(names))
        if len(losses) > 1:
            self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, batch_size=len(names))
        return total

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.configuration
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
        else:
            optimizer = torch.optim.SGD(trained, lr=rate, momentum=settings.momentum, weight_decay=decay)
        steps = int(self.trainer.estimated_stepping_batches)
        if settings.milestones is None:
            factor = poly_schedule(steps, settings.power, settings.warmup_steps)
        else:
            factor = step_schedule(steps, settings.milestones, settings.warmup_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step", "frequency": 1},
        }

    def train_dataloader(self) -> DataLoader[object]:
        settings = self.configuration
        order = TrainingOrder(
            self.lessons.length,
            settings.batch_size,
            seed=settings.seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        return DataLoader(
            self.lessons.samples,
            batch_size=order.share,
            sampler=order,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            pin_memory=settings.device == "cuda",
            collate_fn=self.lessons.collate,
        )

    def _diverged(self, losses: Mapping[str, Tensor], names: Sequence[str]) -> str:
        terms = ", ".join(f"{name} {loss.item()}" for name, loss in losses.items())
        checkpoint = getattr(self.trainer.checkpoint_callbacks[-1], "best_model_path", "") or "none yet"
        return (
            f"the loss is not finite at step {self.global_step} ({terms}; batch: {', '.join(names)}; "
            f"last good checkpoint: {checkpoint}): "
            "expected finite; a lower learning rate, warm-up steps or clipped gradients may help"
        )


def poly_schedule(steps: int, power: float, warmup_steps: int = 0) -> Callable[[int], float]:
    """The factor of the learning rate at each step: (1 - step / steps)^power (PAN, Section 4).

    Args:
        steps: Of the whole run.
        power: PAN's is 0.9.
        warmup_steps: Over so many steps, the factor also rises linearly from near 0.
    """
    return lambda step: _rise(step, warmup_steps) * max(1 - step / max(steps, 1), 0.0) ** power


def step_schedule(steps: int, milestones: Sequence[float], warmup_steps: int = 0) -> Callable[[int], float]:
    """The factor of the learning rate at each step: a tenth of what it was at each milestone (FPT, Section 4.1).

    Args:
        steps: Of the whole run.
        milestones: Shares of the run, rising: FPT's are 0.8 for detection (80k of 100k steps) and 0.75 for instance
            segmentation (120k of 160k).
        warmup_steps: Over so many steps, the factor also rises linearly from near 0.
    """
    passed = [round(share * steps) for share in milestones]
    return lambda step: _rise(step, warmup_steps) * STEP_FACTOR ** bisect_right(passed, step)


def _rise(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
