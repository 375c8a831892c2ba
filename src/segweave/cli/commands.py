"""The commands of the program: what each is called, what it does in a line, how it is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segweave.cli.results import tell_check, tell_explain, tell_predict


@dataclass(frozen=True)
class Command:
    """A command: a Python function of the same name and arguments, which is imported when it is called for.

    Attributes:
        function: Where it is, "module:function".
        summary: What it does, in a line.
        examples: Commands as a user would type them.
        positional: The arguments that are given by position; the last may take several words.
        tell: Prints the result, where the function doesn't do so itself; it is given the arguments too.
    """

    function: str
    summary: str
    examples: tuple[str, ...]
    positional: tuple[str, ...] = ()
    tell: Callable[..., None] | None = None


COMMANDS: Mapping[str, Command] = {
    "demo": Command(
        "segweave.commands.demo:demo",
        "Train FCN and PAN on drawn images and compare them: minutes on two cores.",
        ("segweave demo", "segweave demo --out runs/second --seed 1"),
    ),
    "train": Command(
        "segweave.commands.train:train",
        "Train a network on a folder of images with masks or objects.",
        (
            "segweave train --data DIR --out RUN",
            "segweave train --data DIR --out RUN --model agln --crop-size 256 320",
            "segweave train --data DIR --out RUN --model mask_rcnn --options.neck fpt",
            "segweave train --config recipes/pan/voc2012.yaml --data DIR --out RUN",
            "segweave train --out RUN --resume",
        ),
    ),
    "evaluate": Command(
        "segweave.commands.evaluate:evaluate",
        "Evaluate a trained network on a split.",
        (
            "segweave evaluate RUN --data DIR",
            "segweave evaluate RUN --data DIR --scales 0.75 1.0 1.25 --flip",
            "segweave evaluate RUN --data DIR --split test --out figures.json",
        ),
        positional=("run",),
    ),
    "predict": Command(
        "segweave.commands.predict:predict",
        "Segment images, or find the objects in them.",
        (
            "segweave predict RUN photos/ --out predictions",
            'segweave predict RUN a.jpg "more/*.png" --out predictions --flip',
        ),
        positional=("run", "images"),
        tell=tell_predict,
    ),
    "explain": Command(
        "segweave.commands.explain:explain",
        "Draw the context that a trained network used for images.",
        (
            "segweave explain RUN photo.jpg --out context",
            "segweave explain RUN photo.jpg --out context --at 120 80",
        ),
        positional=("run", "images"),
        tell=tell_explain,
    ),
    "profile": Command(
        "segweave.commands.profile:profile",
        "Tell what networks cost: parameters, multiply-adds, memory, latency.",
        (
            "segweave profile fpn agln --size 480 480",
            "segweave profile mask_rcnn --options.neck fpt --num-classes 80",
            "segweave profile --paper fpt --table 1",
        ),
        positional=("models",),
    ),
    "models": Command(
        "segweave.commands.models:models",
        "List the networks, or the options of one.",
        ("segweave models", "segweave models pan"),
        positional=("name",),
    ),
    "datasets": Command(
        "segweave.commands.datasets:datasets",
        "List the data sets that have a name, and the folders that are understood.",
        ("segweave datasets",),
    ),
    "data check": Command(
        "segweave.commands.check:check",
        "Read every file of a folder of images with masks or objects, and name all that is wrong.",
        ("segweave data check DIR", "segweave data check DIR --contact-sheet sheet.png"),
        positional=("root",),
        tell=tell_check,
    ),
}
"""In the order in which they are shown. The words of a name follow each other on the command line."""
