"""The folder of a run: what it holds, when it may be written to, and how a run in it is taken up again."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.saving import require_model
from segweave.training.configuration import RunConfiguration, configuration_of, configure, read_settings

RUN_FILES = ("config.yaml", "metrics.csv", "tensorboard", "checkpoints", "model", "report.html")
"""What a run folder holds; `overwrite` removes these and nothing else."""

FREE_ON_RESUME = ("device", "workers")
"""What may differ when a run is resumed: where it runs, not what it computes."""


def require_free(run: Path, overwrite: bool) -> None:
    """Refuses a folder that holds anything, unless it is a run and `overwrite` allows to replace it.

    Raises:
        InputError: Says what is in the way.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: expected a folder, or nothing, where the run is to be written")
    if not run.is_dir() or not any(run.iterdir()):
        return
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run}: holds files that are not a run's: expected an empty or new folder")
    if not overwrite:
        raise InputError(
            f"{run}: holds a run already: expected --resume to continue it, --overwrite to replace it, or another --out"
        )


def require_other_run(init_from: str, run: Path) -> None:
    """Refuses to start from what isn't a trained network, or from the run that is to be replaced.

    Raises:
        InputError: Says which.
    """
    folder = require_model(init_from)
    if run.resolve() in (folder.resolve(), folder.resolve().parent):
        raise InputError(f"init_from {init_from}: is the run that would be replaced: expected another --out")


def start(run: Path, configuration: RunConfiguration) -> None:
    """Writes config.yaml, and removes what is left of a run that is replaced."""
    with written_whole(run / "config.yaml") as unfinished:
        unfinished.write_text(configuration.to_yaml())
    for name in RUN_FILES:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        elif name != "config.yaml":
            path.unlink(missing_ok=True)


def resumed_configuration(run: Path, given: Mapping[str, object]) -> RunConfiguration:
    """The configuration of the run in a folder, with what may differ as it is given.

    Raises:
        InputError: There is no run, or a setting is given that isn't the run's.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: nothing to resume: expected the folder of a run (it has no config.yaml)")
    configuration = configuration_of(read_settings(path))
    wanted = configure({"data": configuration.data, "model": configuration.model, **given})
    for name in given:
        before, now = getattr(configuration, name), getattr(wanted, name)
        if name == "options":  # to which the run has added what it chose
            now = {option: list(value) if isinstance(value, tuple) else value for option, value in now.items()}
            before = {option: before.get(option) for option in now}
        if before != now and name not in FREE_ON_RESUME:
            raise InputError(
                f"{path}: the run has {name} {before!r}, not {now!r}: expected the same to resume it, or another --out"
            )
    device = choose_device(wanted.device if "device" in given else configuration.device)
    workers = wanted.workers if "workers" in given and wanted.workers is not None else configuration.workers
    return dataclasses.replace(configuration, device=device, workers=workers)
