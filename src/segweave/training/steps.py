"""What every training has in common, whatever the network predicts: loss, optimiser, schedule, chance."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from segweave.data.loading import TrainingOrder, seed_of
from segweave.errors import TrainingError
from segweave.training.configuration import RunConfiguration

STEP_FACTOR = 0.1
"""What the learning rate is multiplied by at each milestone (FPT, Section 4.1: from 0.05 to 0.005)."""


class TrainingSteps(lightning.LightningModule):
    """A base of the Lightning modules that train.

    Attributes:
        configuration: Resolved (see `segweave.training.configuration.resolve`).
    """

    configuration: RunConfiguration

    def loader_of(self, samples: Any, dataset: Sized, collate: Callable[[Any], Any] | None = None) -> "DataLoader[Any]":
        """The loader of this process's share of every training batch.

        Args:
            samples: Asked for (epoch, index).
            dataset: Which they are of.
            collate: Samples to a batch; None for torch's own.
        """
        settings = self.configuration
        assert settings.batch_size is not None
        assert settings.workers is not None
        order = TrainingOrder(
            len(dataset),
            settings.batch_size,
            seed=settings.seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        return DataLoader(
            samples,
            batch_size=order.share,
            sampler=order,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            pin_memory=settings.device == "cuda",
            collate_fn=collate,
        )

    def total_of(self, losses: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """The sum of a step's losses, which are logged.

        Args:
            losses: By name, weighted.
            names: Of the batch's images.

        Raises:
            TrainingError: The sum is not finite.
        """
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            raise TrainingError(self._diverged(losses, names))
        shares = {f"train/{name}": loss for name, loss in losses.items()} if len(losses) > 1 else {}
        self.log("train/loss", total, prog_bar=True, batch_size=len(names))
        self.log_dict(shares, batch_size=len(names))
        return total

    def _diverged(self, losses: Mapping[str, Tensor], names: Sequence[str]) -> str:
        terms = ", ".join(f"{name} {loss.item()}" for name, loss in losses.items())
        checkpoint = getattr(self.trainer.checkpoint_callbacks[-1], "best_model_path", "") or "none yet"
        return (
            f"the loss is not finite at step {self.global_step} ({terms}; batch: {', '.join(names)}; "
            f"last good checkpoint: {checkpoint}): "
            "expected finite; a lower learning rate, warm-up steps or clipped gradients may help"
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # what is drawn in a step depends on the step alone, so that a resumed run draws what an unbroken one does
        torch.manual_seed(seed_of(self.configuration.seed, self.current_epoch, batch_idx, self.global_rank))

    def configure_optimizers(self) -> Any:
        settings = self.configuration
        assert settings.learning_rate is not None
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                trained,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )
        steps = int(self.trainer.estimated_stepping_batches)
        if settings.milestones is None:
            factor = poly_schedule(steps, settings.power, settings.warmup_steps)
        else:
            factor = step_schedule(steps, settings.milestones, settings.warmup_steps)
        schedule = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
