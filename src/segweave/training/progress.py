"""Progress of training and of evaluation."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import Progress

from segweave.progress import progress_bar
from segweave.results import per_cent
from segweave.training.steps import EvaluationSteps

SHOWN_EVERY = 10
"""Steps between two losses on the progress bar: to read one, the GPU must have finished."""


class TrainingProgress(Callback):
    """One bar for the whole run: epoch, loss, the last score, time left. Where there is no terminal, a line for each
    validation.

    Args:
        console: Where it is drawn.
        deciding: The name of the figure that the bar shows; lines begin with it and have the other logged ones too.
    """

    def __init__(self, console: Console, deciding: str) -> None:
        self.console = console
        self.deciding = deciding
        self._progress: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self._progress = progress_bar(
            self.console,
            "step",
            before="epoch {task.fields[epoch]}",
            after="loss {task.fields[loss]}  {task.fields[score]}",
        )
        steps, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 1)
        # of a resumed run Lightning knows the steps that are done, but not yet the epoch
        steps_of_optimizer = -(-steps // int(trainer.accumulate_grad_batches))
        done = trainer.global_step // max(steps_of_optimizer, 1) * steps
        self._task = self._progress.add_task("", total=steps * epochs, completed=done, epoch="", loss="-", score="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None:
            loss = trainer.callback_metrics.get("train/loss") if batch_idx % SHOWN_EVERY == 0 else None
            shown: dict[str, Any] = {} if loss is None else {"loss": f"{float(loss):.3f}"}
            self._progress.update(
                self._task, advance=1, epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}", **shown
            )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, EvaluationSteps)
        if trainer.sanity_checking or not trainer.is_global_zero or pl_module.result is None:
            return
        figures = sorted(pl_module.result.logged(), key=lambda figure: figure.name != self.deciding)
        shown = [f"{figure.label} {per_cent(figure.total, 1)}" for figure in figures]
        if self._progress is not None:
            self._progress.update(self._task, score=shown[0])
            return
        loss = trainer.callback_metrics.get("train/loss")
        self.console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}"
            f"  loss {float('nan') if loss is None else float(loss):.3f}  {'  '.join(shown)}"
        )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class EvaluationProgress(Callback):
    """A bar for an evaluation, on a terminal.

    Args:
        console: Where it is drawn.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self._progress = progress_bar(self.console, "image", before="evaluating")
        # each process sees an image a step
        self._task = self._progress.add_task("", total=sum(int(count) for count in trainer.num_val_batches))
        self._progress.start()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
