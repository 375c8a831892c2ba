"""Lightning's trainer as every run uses it, and an evaluation with it."""

import logging
import warnings
from typing import Any, Never, TypeVar

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console

from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.results import Result
from segweave.task import Evaluator
from segweave.training.progress import EvaluationProgress
from segweave.training.steps import EvaluationSteps

ResultT = TypeVar("ResultT", bound=Result)


def is_first_process() -> bool:
    """Whether this is the process that prints and writes for all that share a run."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def create_trainer(device: str, devices: int, **options: Any) -> lightning.Trainer:
    """Lightning's trainer on a device that `choose_device` gave, without Lightning's own messages.

    Raises:
        InputError: The machine has not so many devices.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*torch.utils.data.DataLoader.*")
    try:
        return lightning.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"{devices} devices of kind {device}: {' '.join(str(error).split())}") from error


def run_evaluator(
    evaluator: Evaluator[Never, ResultT], *, device: str = "auto", devices: int = 1, workers: int = 2
) -> ResultT:
    """Runs an evaluator over its split.

    Args:
        evaluator: Of a network on a split.
        device: auto, cpu, cuda or mps.
        devices: Processes that share the split.
        workers: Processes that load the images, for each of them.

    Returns:
        The result, the same in every process.
    """
    progress = EvaluationProgress(Console(stderr=True))
    trainer = create_trainer(
        choose_device(device), devices, logger=False, enable_checkpointing=False, callbacks=[progress]
    )
    steps = EvaluationSteps(evaluator, workers)
    trainer.validate(steps, verbose=False)
    assert steps.result is not None
    return steps.result
