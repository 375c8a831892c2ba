"""Settings: types, values, what is chosen for any task, and the files that hold them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from segweave import InputError, train
from segweave.training.configuration import (
    MOST_EPOCHS,
    Choices,
    RunConfiguration,
    configuration_of,
    configure,
    read_settings,
    resolve,
)
from segweave.training.settings import RunSettings
from segweave.training.steps import poly_schedule

CHOICES = Choices(
    batch_size=8,
    steps=2000,
    short_edge=0,
    scale_range=(0.5, 2.0),
    optimizer="sgd",
    learning_rate=lambda optimizer, batch_size: batch_size / 100,
    crop_size=(32, 48),
    options={"output_stride": 8, "attention": "fpa"},
)
"""As a task might make them."""

NEEDED = (
    *("model", "backbone", "epochs", "batch_size", "short_edge", "scale_range", "optimizer", "learning_rate"),
    *("validate_every", "precision", "workers"),
)
"""What a run can't be without."""


def resolved(images: int = 400, **settings: Any) -> RunConfiguration:
    """Of a run with such settings, on the CPU."""
    return resolve(configure({"data": "shapes", "model": "pan", "device": "cpu", **settings}), CHOICES, images=images)


def test_settings_as_given_and_as_resolved_are_two_classes() -> None:
    given = configure({"data": "shapes", "model": "pan"})
    assert type(given) is RunSettings
    assert all(getattr(given, name) is None for name in NEEDED if name != "model")
    chosen = resolved()
    assert type(chosen) is RunConfiguration
    assert None not in [getattr(chosen, name) for name in NEEDED]
    required = {field.name for field in dataclasses.fields(RunConfiguration) if field.default is dataclasses.MISSING}
    assert {"data", *NEEDED} <= required
    for name in NEEDED:
        with pytest.raises(InputError, match=name):
            configuration_of({**yaml.safe_load(chosen.to_yaml()), name: None})


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "crop_size": (64, 96),
        "options": {"kernel_sizes": [3, 3, 3]},
        "ema": 0.9,
        "freeze_backbone": True,
        "short_edges": (269, 369),
    }
    configuration = resolved(**given)
    assert {name: getattr(configuration, name) for name in given if name != "options"}.items() <= given.items()
    (tmp_path / "config.yaml").write_text(configuration.to_yaml())
    written = read_settings(tmp_path / "config.yaml")
    assert configuration_of(written) == configuration
    again = resolve(configure(written), CHOICES, images=7)  # as --config does
    assert again == configuration


def test_config_yaml_of_older_runs_is_read() -> None:
    written = yaml.safe_load(resolved(short_edge=240).to_yaml())
    older = {name: value for name, value in written.items() if name not in ("freeze_backbone", "short_edges")}
    assert len(older) == len(written) - 2
    assert configuration_of(older) == configuration_of(written)
    assert not configuration_of(older).freeze_backbone
    assert configuration_of(older).training_short_edges == (240,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data is missing"),
        ({"data": "shapes", "epoch": 3}, r"unknown setting 'epoch': did you mean epochs\?"),
        ({"data": "shapes", "lot": 3}, "unknown setting 'lot': expected one of data, root"),
        ({"data": "shapes", "epochs": 0}, "epochs 0: expected 1 or more"),
        ({"data": "shapes", "epochs": "many"}, "epochs many: expected a whole number"),
        ({"data": "shapes", "epochs": 2.5}, "epochs 2.5: expected a whole number"),
        ({"data": "shapes", "crop_size": [64]}, r"crop_size \[64\]: expected 2 values, not 1$"),
        ({"data": "shapes", "crop_size": []}, r"crop_size \[\]: expected 2 values, not 0$"),
        ({"data": "shapes", "crop_size": [64, 64, 64]}, r"crop_size \[64, 64, 64\]: expected 2 values, not 3$"),
        ({"data": "shapes", "crop_size": [64, 16]}, r"crop_size \[64, 16\]: expected a height and a width from 32 up"),
        ({"data": "shapes", "optimizer": "lion"}, "optimizer lion: expected one of 'sgd', 'adamw'"),
        ({"data": "shapes", "learning_rate": 0}, "learning_rate 0.0: expected a number above 0"),
        ({"data": "shapes", "learning_rate": float("nan")}, "learning_rate nan: expected a number above 0"),
        ({"data": "shapes", "ema": 1.5}, "ema 1.5: expected a number from 0 to 1"),
        ({"data": "shapes", "scale_range": [2.0, 0.5]}, r"scale_range \[2.0, 0.5\]: expected two factors"),
        ({"data": "shapes", "short_edges": []}, r"short_edges \[\]: expected one or more lengths, each 32 or more"),
        ({"data": "shapes", "short_edges": [269, 0]}, r"short_edges \[269, 0\]: expected one or more lengths"),
        ({"data": "shapes", "short_edges": 269}, "short_edges 269: expected a list of values"),
        ({"data": "shapes", "short_edges": [269, "long"]}, "short_edges .*long: expected a whole number"),
        ({"data": "shapes", "freeze_backbone": "perhaps"}, "freeze_backbone perhaps: expected true or false"),
        ({"data": "shapes", "batch_size": 5, "devices": 2}, "batch_size 5: expected a multiple of devices"),
    ],
)
def test_unusable_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mask-rcnn"}, r"unknown model 'mask-rcnn': did you mean mask_rcnn\?"),
        ({"model": "yolo"}, "unknown model 'yolo': expected one of fcn, fpn"),
        ({"options": {"width": 3}}, "unknown option 'width' of model 'pan': expected one of output_stride"),
        ({"model": "fcn", "options": {"width": 3}}, "unknown option 'width' of model 'fcn': expected one of"),
    ],
)
def test_networks_and_options_that_there_are_not(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train("shapes", out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_unusable_files(tmp_path: Path) -> None:
    for text, message in (("a: [", "expected YAML"), ("- a", "expected a mapping")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(InputError, match=rf"x\.yaml: {message}"):
            read_settings(tmp_path / "x.yaml")
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_settings(tmp_path / "none.yaml")


def test_what_is_left_open_is_chosen() -> None:
    chosen = resolved(images=400)
    assert (chosen.backbone, chosen.precision, chosen.workers, chosen.device) == ("resnet18", "32", 2, "cpu")
    assert (chosen.batch_size, chosen.learning_rate, chosen.crop_size) == (8, 0.08, (32, 48))
    assert chosen.epochs == 40  # 2,000 steps of 8 images
    assert chosen.validate_every == 2
    assert resolved(accumulate=5).epochs == MOST_EPOCHS == 200
    assert resolved(images=4000, accumulate=5).epochs == 20
    assert resolved(batch_size=16).learning_rate == 0.16


def test_what_is_given_is_kept() -> None:
    given: dict[str, Any] = {
        "epochs": 300,
        "crop_size": (64, 64),
        "short_edge": 0,
        "learning_rate": 1.0,
        "scale_range": (1.0, 1.0),
    }
    chosen = resolved(images=10, options={"attention": "se"}, validate_every=7, **given)
    assert {name: getattr(chosen, name) for name in given} == given
    assert chosen.validate_every == 7
    assert chosen.options == {"output_stride": 8, "attention": "se"}


def test_few_images_are_not_learnt_by_heart() -> None:
    assert resolved(images=24).epochs <= MOST_EPOCHS  # 2,000 steps would be 667
    assert resolved(images=1).epochs == MOST_EPOCHS
    assert resolved(images=24, epochs=667).epochs == 667


def test_without_several_short_edges_training_has_that_of_evaluation() -> None:
    for short_edge, expected in ((0, None), (96, (96,)), (None, None)):
        assert configure({"data": "shapes", "short_edge": short_edge}).training_short_edges == expected


def test_poly_schedule() -> None:
    factor = poly_schedule(100, 0.9)
    for step in (0, 1, 50, 99):
        assert factor(step) == pytest.approx((1 - step / 100) ** 0.9, abs=1e-12)
    assert factor(100) == 0
    warm = poly_schedule(100, 0.9, warmup_steps=4)
    assert warm(0) == pytest.approx(0.25)
    assert warm(1) == pytest.approx(0.5 * 0.99**0.9)
    assert warm(50) == factor(50)
