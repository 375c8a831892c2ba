"""Data sets and settings so small that a whole run takes seconds, and such runs, made once for all tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segweave import train

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
BOUNDS = ((0, 40), (0, 28), (10, 24), (10, 20))
"""Of the objects' left, top, width and height in pixels."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images to train on and five to validate on, 48x64, in three classes that their colours tell."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 5)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "masks").mkdir()
        for index in range(count):
            mask = np.kron(generator.integers(0, 3, (3, 4)), np.ones((16, 16), int)).astype(np.uint8)
            noise = generator.integers(-30, 30, (48, 64, 3))
            image = (COLOURS[mask].astype(int) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    (root / "dataset.yaml").write_text("classes: [red, green, blue]\n")
    return root


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """A small network and few steps."""
    return {
        "model": "pan",
        "backbone": "test_resnet",
        "options": {"decoder_channels": 16},
        "epochs": 4,
        "batch_size": 4,
        "crop_size": (32, 48),
        "learning_rate": 0.02,
        "workers": 0,
        "validate_every": 1,
        "device": "cpu",
    }


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as words of the command line."""
    words: list[str] = []
    for name, value in settings.items():
        if name == "options":
            for option, option_value in value.items():
                words += [f"--options.{option}", str(option_value)]
        else:
            values = value if isinstance(value, tuple) else (value,)
            shown = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
            words += [f"--{name.replace('_', '-')}", *shown]
    return words


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images to train on and five to validate on, 48x64, with coloured boxes of two categories (3 and 7) and one
    image without objects in each split."""
    root = tmp_path_factory.mktemp("coco")
    generator = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 5)):
        (root / split / "images").mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            picture = generator.integers(0, 60, (48, 64, 3)).astype(np.uint8)
            images.append({"id": 10 * index, "file_name": f"{index}.png", "width": 64, "height": 48})
            for _ in range(0 if index == 1 else 2):
                left, top, width, height = (int(generator.integers(*bounds)) for bounds in BOUNDS)
                category = int(generator.integers(2))
                picture[top : top + height, left : left + width] = COLOURS[category]
                corners = [left, top, left + width, top, left + width, top + height, left, top + height]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 10 * index,
                        "category_id": (3, 7)[category],
                        "bbox": [left, top, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                        "segmentation": [corners],
                    }
                )
            Image.fromarray(picture).save(root / split / "images" / f"{index}.png")
        categories = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "instances.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def boxes_folder(tmp_path_factory: pytest.TempPathFactory, coco_folder: Path) -> Path:
    """The same images and objects, which have boxes but no masks."""
    root = tmp_path_factory.mktemp("boxes") / "data"
    shutil.copytree(coco_folder, root)
    for file in root.glob("*/instances.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def detection_settings() -> dict[str, Any]:
    """A small detector and few steps. Having seen so little it is sure of nothing: what it is least sure of counts."""
    return {
        "model": "mask_rcnn",
        "backbone": "test_resnet",
        "options": {"channels": 16, "rois_per_image": 16, "head_channels": 32, "score_threshold": 0.0},
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 0.01,
        "workers": 0,
        "validate_every": 1,
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def segmentation_run(tmp_path_factory: pytest.TempPathFactory, folder: Path, settings: dict[str, Any]) -> Path:
    """A whole run of `settings` on `folder`, to read from; who changes it copies it first."""
    out = tmp_path_factory.mktemp("runs") / "segmentation"
    train(folder, out=out, **settings)
    return out


@pytest.fixture(scope="session")
def detection_run(
    tmp_path_factory: pytest.TempPathFactory, coco_folder: Path, detection_settings: dict[str, Any]
) -> Path:
    """A whole run of `detection_settings` on `coco_folder`, to read from; who changes it copies it first."""
    out = tmp_path_factory.mktemp("runs") / "detection"
    train(coco_folder, out=out, **detection_settings)
    return out


def weights(run: Path) -> bytes:
    """The file of a run's best weights."""
    return (run / "model" / "model.safetensors").read_bytes()
