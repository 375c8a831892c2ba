"""A tiny trained run and a tiny folder of images and masks, of the twelve classes of `shapes`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import segweave
from segweave.data.transforms import normalise
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.saving import save_model
from segweave.segmentation.shapes import ShapesSegmentationDataset

SIZES = ((64, 80), (64, 80), (50, 70), (64, 80), (80, 64), (64, 80), (33, 47))


def make_network() -> SegmentationNetwork:
    """Random weights, but batch norm that knows the images, so that the predictions vary."""
    torch.manual_seed(0)
    network = segweave.create_model(
        "pan", num_classes=len(ShapesSegmentationDataset.classes), backbone="resnet18", decoder_channels=32
    )
    network.labelling = Labelling(tuple(ShapesSegmentationDataset.classes), tuple(ShapesSegmentationDataset.palette))
    images = torch.stack([ShapesSegmentationDataset("val", size=(64, 80))[index].image for index in range(4)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what is seen
            module.reset_running_stats()
    with torch.no_grad():
        network(normalise(images, network.backbone.mean, network.backbone.std))
    return network.eval()


def write_folder(root: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Drawings and their masks in ROOT/val, and the classes' names in ROOT/dataset.yaml."""
    for kind in ("images", "masks"):
        (root / "val" / kind).mkdir(parents=True)
    for index, size in enumerate(sizes):
        image, mask = ShapesSegmentationDataset("val", size=size, length=len(sizes))[index]
        mask[:3] = 255
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "val" / "images" / f"{index}.png")
        Image.fromarray(mask.numpy().astype(np.uint8)).save(root / "val" / "masks" / f"{index}.png")
    (root / "dataset.yaml").write_text(yaml.safe_dump({"classes": list(ShapesSegmentationDataset.classes)}))
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose network has random weights."""
    folder = tmp_path_factory.mktemp("run")
    save_model(make_network(), folder / "model")
    return folder


@pytest.fixture(scope="session")
def constant_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose network sees class 0 everywhere."""
    network = make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    folder = tmp_path_factory.mktemp("constant")
    save_model(network, folder / "model")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of several sizes."""
    return write_folder(tmp_path_factory.mktemp("folder"), SIZES)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two sizes."""
    return write_folder(tmp_path_factory.mktemp("small"), SIZES[1:3])
