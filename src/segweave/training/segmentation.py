"""The Lightning module that trains a network for semantic segmentation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from segweave.data.dataset import SegmentationDataset
from segweave.data.loading import LabelledImage, TrainingOrder, TrainingSamples
from segweave.data.transforms import seed_of, training_transform
from segweave.errors import TrainingError
from segweave.evaluation.evaluator import SegmentationEvaluator
from segweave.evaluation.inference import Inference
from segweave.networks.semantic import SemanticNetwork
from segweave.training.configuration import RunConfiguration


class SegmentationTraining(SegmentationEvaluator):
    """Trains a network with the sum of its own losses; validates as `SegmentationEvaluator` does.

    Args:
        network: Is trained; with `freeze_backbone`, all of it but the backbone, which is frozen for good.
        configuration: Resolved (see `segweave.training.configuration.resolve`).
        train: The split to train on.
        val: The split to validate on.
    """

    def __init__(
        self,
        network: SemanticNetwork,
        configuration: RunConfiguration,
        *,
        train: SegmentationDataset,
        val: SegmentationDataset,
    ) -> None:
        super().__init__(network, train.classes, Inference(short_edge=configuration.short_edge or None))
        if configuration.freeze_backbone:
            network.backbone.freeze()
        self.configuration = configuration
        self.train_dataset = train
        self.val_dataset = val
        self.compute_losses: Callable[[Tensor, Tensor], dict[str, Tensor]] = network.losses
        if configuration.compile:
            self.compute_losses = torch.compile(network.losses)

    def training_step(self, batch: LabelledImage, batch_idx: int) -> Tensor:
        losses = self.compute_losses(batch.image.contiguous(memory_format=torch.channels_last), batch.mask)
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            raise TrainingError(self._diverged(losses, batch.name))
        self.log("train/loss", total, prog_bar=True)
        if len(losses) > 1:
            self.log_dict({f"train/{name}": loss for name, loss in losses.items()})
        return total

    def _diverged(self, losses: dict[str, Tensor], names: Sequence[str]) -> str:
        terms = ", ".join(f"{name} {loss.item()}" for name, loss in losses.items())
        checkpoint = getattr(self.trainer.checkpoint_callbacks[-1], "best_model_path", "") or "none yet"
        return (
            f"the loss is not finite at step {self.global_step} ({terms}; batch: {', '.join(names)}; "
            f"last good checkpoint: {checkpoint}): "
            "expected finite; a lower learning rate, warm-up steps or clipped gradients may help"
        )

    def on_train_batch_start(self, batch: LabelledImage, batch_idx: int) -> None:
        # dropout depends on the step alone, so that a resumed run drops what an unbroken one does
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
        schedule = LambdaLR(optimizer, poly_schedule(steps, settings.power, settings.warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[LabelledImage]:
        settings = self.configuration
        assert settings.crop_size is not None
        assert settings.batch_size is not None
        assert settings.workers is not None
        transform = training_transform(
            crop_size=settings.crop_size,
            mean=self.network.backbone.mean,
            std=self.network.backbone.std,
            scale_range=settings.scale_range,
            flip_probability=settings.flip_probability,
            brightness=settings.brightness,
            short_edges=settings.training_short_edges,
        )
        order = TrainingOrder(
            len(self.train_dataset),
            settings.batch_size,
            seed=settings.seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        return DataLoader(
            TrainingSamples(self.train_dataset, transform, seed=settings.seed),
            batch_size=order.share,
            sampler=order,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            pin_memory=settings.device == "cuda",
        )

    def val_dataloader(self) -> DataLoader[LabelledImage]:
        assert self.configuration.workers is not None
        return self.val_loader(self.val_dataset, self.trainer, self.configuration.workers)


def poly_schedule(steps: int, power: float, warmup_steps: int = 0) -> Callable[[int], float]:
    """The factor of the learning rate at each step: (1 - step / steps)^power (PAN, Section 4).

    Args:
        steps: Of the whole run.
        power: PAN's is 0.9.
        warmup_steps: Over so many steps, the factor also rises linearly from near 0.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return rise * max(1 - step / max(steps, 1), 0.0) ** power

    return factor
