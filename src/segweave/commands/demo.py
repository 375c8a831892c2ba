"""`demo`, the function behind `segweave demo`: two networks, one with context and one without, on the embedded data
set."""

import os
from pathlib import Path
from typing import Any

from segweave.errors import InputError
from segweave.files import written_whole

SETTINGS: dict[str, Any] = {
    "backbone": "resnet18",
    "epochs": 5,
    "batch_size": 8,
    "short_edge": 96,
    "crop_size": (96, 120),
    "scale_range": (0.75, 1.5),
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "warmup_steps": 30,
    "validate_every": 2,
    "options": {"output_stride": 16},
    "workers": 2,
}
"""The same for both: PAN's paper compares with a dilated ResNet at output stride 16 too (Table 1)."""


def demo(*, out: str | os.PathLike[str] = "runs/demo", seed: int = 0, overwrite: bool = False) -> dict[str, float]:
    """Trains FCN and PAN with the same backbone and budget on `shapes`, predicts, and prints how they compare.

    Args:
        out: The folder to write both runs to.
        seed: Of the weights, the order and the augmentation.
        overwrite: Whether an earlier demo's runs may be replaced.

    Returns:
        The mean IoU of each, in [0, 1].

    Raises:
        InputError: The folder holds something already.
    """
    from rich.console import Console
    from rich.table import Table

    from segweave.commands.train import train
    from segweave.saving import load
    from segweave.task import PredictionOptions
    from segweave.tasks import task_of_data

    folder = Path(out)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise InputError(
            f"{folder}: holds files already: expected --overwrite to replace an earlier demo, or another --out"
        )
    console = Console()
    figures: dict[str, dict[str, Any]] = {}
    for model in ("fcn", "pan"):
        console.rule(model.upper())
        result = train("shapes", out=folder / model, model=model, seed=seed, overwrite=overwrite, **SETTINGS)
        figures[model] = {figure.key: figure.value for figure in result.figures}
    picture, task = folder / "prediction.png", task_of_data("shapes")
    image = task.open("shapes", split="val")[0].image.permute(1, 2, 0).numpy()  # (H, W, 3)
    with written_whole(picture) as unfinished:
        task.predict(load(folder / "pan"), image, PredictionOptions()).overlay().save(unfinished, format="PNG")

    console.rule("what context is worth")
    table = Table("class", *(f"{model.upper()} IoU" for model in figures), box=None)
    for name in figures["pan"]["class_iou"]:
        table.add_row(name, *(f"{100 * each['class_iou'][name]:.1f} %" for each in figures.values()))
    table.add_section()
    means = {model: each["mean_iou"] for model, each in figures.items()}
    table.add_row("mean", *(f"{100 * mean:.1f} %" for mean in means.values()), style="bold")
    console.print(table)
    console.print(f"a prediction: {picture}\nreport: {folder / 'pan' / 'report.html'}", soft_wrap=True, highlight=False)
    return means
