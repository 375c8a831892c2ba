"""What happens around the steps of a run: progress, metrics.csv, checkpoints, the saved model."""

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.saving import save_model


class SynchronisedBatchNorm(TorchSyncBatchNorm):
    """Takes the statistics of batch norm over all processes, and leaves the activations that timm has in one module
    with it, which torch's own conversion would drop."""

    def apply(self, model: nn.Module) -> nn.Module:
        synchronised: nn.Module = convert_sync_batchnorm(model)
        return synchronised

    def revert(self, model: nn.Module) -> nn.Module:
        """Nothing is to be done: a run loads the network that it saved."""
        return model


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads one without unpickling anything but tensors and plain
    values."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with written_whole(Path(path)) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            except RuntimeError as error:  # what torch's writer makes of a full disk
                raise InputError(f"{path}: can't be written: {error} (the checkpoint before it is kept)") from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # whatever torch says of a damaged file
            raise InputError(
                f"{path}: expected a checkpoint of this run: {' '.join(str(error).split())[:200]}"
            ) from error
        return checkpoint


class MetricsFile(Callback):
    """Writes metrics.csv: a row for each validation, with the training losses averaged since the row before.

    A resumed run keeps the rows up to the checkpoint that it continues from.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._losses: dict[str, list[torch.Tensor]] = {}
        self._seconds_before = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.monotonic()
        self.rows = [row for row in read_metrics(self.path) if int(row["step"]) <= trainer.global_step]
        self._seconds_before = float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/"):
                self._losses.setdefault(name, []).append(value.detach())  # a number would wait for the GPU

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        validated = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "seconds": round(self._seconds_before + time.monotonic() - self._started, 1),
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                **{name: float(torch.stack(values).mean()) for name, values in self._losses.items()},
                **validated,
            }
        )
        self._losses = {}
        self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with written_whole(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights: what is validated and saved.

    Lightning's own, except that the averaged weights stay in place until the end of the validation, so that they are
    what `BestModel` saves, and that weights which don't change stay the same to the bit.

    Args:
        decay: Share of the average that each step leaves, in [0, 1].
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=exponential_average(decay))

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Too early: `on_validation_end` comes after the figures are known."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def exponential_average(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The step of the average that torch's `AveragedModel` calls for each tensor: (average, current, steps) -> the new
    average.

    Args:
        decay: Share of the average that is left.
    """

    def update(average: Tensor, current: Tensor, steps: Tensor) -> Tensor:
        mixed = (decay * average + (1 - decay) * current).to(average.dtype)
        return torch.where(average == current, average, mixed)  # rounding would move the weights of a frozen backbone

    return update


class ValidationSchedule(Callback):
    """Validates every so many epochs, and after the last.

    Args:
        every: Epochs between two validations.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        validate = epoch % self.every == 0 or epoch == trainer.max_epochs
        trainer.check_val_every_n_epoch = (
            epoch if validate else epoch + 1
        )  # Lightning validates if this divides the epoch


class Patience(EarlyStopping):
    """Stops the run after so many validations in a row without a better one.

    Lightning's own, asked after validations only; a run that had stopped and is resumed stays stopped.

    Args:
        validations: How many.
        figure: The figure that tells which is better, the greater the better.
    """

    def __init__(self, validations: int, figure: str) -> None:
        super().__init__(figure, mode="max", patience=validations, check_on_train_epoch_end=False, check_finite=False)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class BestModel(Callback):
    """Saves the network to the run's folder `model` whenever a validation is the best so far.

    Args:
        network: Of the run.
        folder: RUN/model.
        figure: The figure that tells which is the best; NaN, of a split without objects, counts as 0.
    """

    def __init__(self, network: Network, folder: Path, figure: str) -> None:
        self.network = network
        self.folder = folder
        self.figure = figure
        self.best = -1.0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        score = float(trainer.callback_metrics[self.figure].nan_to_num())
        if not trainer.sanity_checking and score > self.best:
            self.best = score
            if trainer.is_global_zero:
                save_model(self.network, self.folder)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
