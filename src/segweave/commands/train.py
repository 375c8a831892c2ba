"""`train`, the function behind `segweave train`: a run from its settings to its report."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segweave.errors import InputError
from segweave.training.settings import RunSettings

if TYPE_CHECKING:
    from segweave.results import Result
else:  # importing torch would take seconds of the command line's help
    Result = Any


def train(
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Result:
    """Trains a network, evaluates the best weights, and writes the run folder with its report.

    Args:
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set.
        out: The run folder.
        config: A YAML file of settings (a recipe, or a run's config.yaml); what is given beside it goes before it.
        resume: Whether to continue the run that is in `out`, with its own settings, from its last checkpoint.
        overwrite: Whether to replace a run that is in `out`.
        settings: Fields of `segweave.training.settings.RunSettings`; what isn't given is chosen and printed.

    Returns:
        The best weights' result on the validation split.

    Raises:
        InputError: Something given can't be used; nothing has been written then.
        TrainingError: The loss is no longer finite, or memory is short.
    """
    from segweave.devices import choose_device, require_processes
    from segweave.models import check_options
    from segweave.saving import initialise_from
    from segweave.tasks import task_of_data, task_of_model
    from segweave.training import folder, messages, run
    from segweave.training.configuration import configure, kind_of, read_settings, resolve
    from segweave.training.trainer import is_first_process

    place = Path(out)
    given = {**({"data": data} if data is not None else {}), **settings}
    for name in ("data", "root", "init_from"):
        if given.get(name) is not None:
            given[name] = _absolute(given[name])
    asked: RunSettings
    if resume:
        if overwrite or config is not None:
            raise InputError("resume continues a run with its own settings: expected no overwrite and no config")
        asked = configuration = folder.resumed_configuration(place, given)
    else:
        if is_first_process():
            folder.require_free(place, overwrite)
        asked = configure({**(read_settings(config) if config is not None else {}), **given})
        if asked.init_from is not None:
            folder.require_other_run(asked.init_from, place)
    require_processes(asked.devices, asked.device)

    task = task_of_data(asked.data, None if asked.model is None else task_of_model(asked.model).name)
    if asked.model is not None:
        check_options(asked.model, asked.options)
    splits = run.open_splits(task, asked, place if resume else None)
    checks = run.checked(task, splits) if asked.check and is_first_process() else []
    if not resume:
        model = asked.model or task.default_model(splits.train)
        check_options(model, asked.options)
        named = dataclasses.replace(asked, model=model)
        choices = task.choose(named, splits.train, kind_of(choose_device(asked.device)))
        configuration = resolve(named, choices, images=len(splits.train))

    last = place / "checkpoints" / "last.ckpt"
    continued = resume and last.exists()
    network = run.create_network(task, configuration, splits.train, continued=continued)
    not_taken = None
    if configuration.init_from is not None and not continued:
        not_taken = initialise_from(network, configuration.init_from)
    run.freeze(network, configuration)
    lightning = run.prepare(task, network, configuration, splits, place)
    if is_first_process():
        if not resume:
            folder.start(place, configuration)
        messages.print_start(asked, configuration, splits, checks, network)
        messages.print_initialised(configuration, network, not_taken)
    lightning.fit(last if continued else None)
    result: Result = run.finish(task, configuration, splits.val, place)
    return result


def _absolute(place: str | os.PathLike[str]) -> str:
    """A folder's full path, so that config.yaml means the same wherever it is read; a data set's name as it is."""
    return str(Path(place).resolve()) if Path(place).is_dir() else str(place)
