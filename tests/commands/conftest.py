"""Tiny trained networks, and tiny folders of images and masks, of the twelve classes of `shapes`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageFile

import segweave
from segweave.data.transforms import normalise
from segweave.models import NETWORKS
from segweave.networks.network import DetectionNetwork, Labelling, SegmentationNetwork
from segweave.saving import save_model
from segweave.segmentation.shapes import ShapesSegmentationDataset
from tests.commands.explaining import CLASSES, OPTIONS, PALETTE, MakeRun, Pointing
from tests.networks.detection_samples import narrow
from tests.pictures import picture

SIZES = ((64, 80), (64, 80), (50, 70), (64, 80), (80, 64), (64, 80), (33, 47))
LABELLING = Labelling(tuple(ShapesSegmentationDataset.classes), tuple(ShapesSegmentationDataset.palette))


def acquainted(network: SegmentationNetwork) -> SegmentationNetwork:
    """A network with random weights, but batch norm that knows the images, so that the predictions vary."""
    network.labelling = LABELLING
    images = torch.stack([ShapesSegmentationDataset("val", size=(64, 80))[index].image for index in range(4)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what is seen
            module.reset_running_stats()
    with torch.no_grad():
        network(normalise(images, network.backbone.mean, network.backbone.std))
    return network.eval()


def make_network() -> SegmentationNetwork:
    torch.manual_seed(0)
    classes = len(LABELLING.classes)
    return acquainted(segweave.create_model("pan", num_classes=classes, backbone="resnet18", decoder_channels=32))


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
def ranet() -> SegmentationNetwork:
    """A network that makes its context from a coarse segmentation, from which its own differs."""
    torch.manual_seed(0)
    classes = len(LABELLING.classes)
    return acquainted(
        segweave.create_model("ranet", num_classes=classes, backbone="test_resnet", channels=16, representatives=2)
    )


@pytest.fixture
def detector() -> DetectionNetwork:
    """A detector of the categories of `coco_folder`, with random weights; each test gets its own."""
    torch.manual_seed(0)
    network: DetectionNetwork = segweave.create_model("mask_rcnn", num_classes=2, backbone="test_resnet", **narrow())
    network.labelling = Labelling(("red", "green"), ((200, 40, 40), (40, 200, 40)), category_ids=(3, 7))
    network.eval()
    return network


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(model: str, short_edge: int | None = None, **options: Any) -> Path:
        network = segweave.create_model(
            model, num_classes=len(CLASSES), backbone="test_resnet", **OPTIONS.get(model, {}), **options
        )
        network.labelling = Labelling(CLASSES, PALETTE, short_edge)
        folder = tmp_path_factory.mktemp(model)
        save_model(network, folder / "model")
        return folder

    return make


@pytest.fixture
def pointing(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Makes runs of the network that points at pixels."""
    monkeypatch.setitem(NETWORKS, "pointing", Pointing)
    return lambda **arguments: make_run("pointing", **arguments)


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of several sizes."""
    return write_folder(tmp_path_factory.mktemp("folder"), SIZES)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two sizes."""
    return write_folder(tmp_path_factory.mktemp("small"), SIZES[1:3])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures of two sizes, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(48, 64)).save(folder / "a.png")
    Image.fromarray(picture(33, 47)).save(folder / "b.bmp")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose pixels are decoded, one for each time."""
    names: list[str] = []
    prepare = ImageFile.ImageFile.load_prepare

    def note(image: ImageFile.ImageFile) -> None:  # which Pillow does once, before it decodes what it has opened
        names.append(Path(os.fsdecode(image.filename)).name)
        prepare(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", note)
    return names
