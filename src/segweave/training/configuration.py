"""The settings of a training run: typed, from flags or a YAML recipe, and the choices made for what they leave open."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from segweave.detection.choices import ObjectSizes, anchor_sizes, detections_per_image
from segweave.devices import choose_device
from segweave.errors import InputError, plain_message
from segweave.models import DETECTION_NETWORKS, SEGMENTATION_NETWORKS, check_options
from segweave.saving import widths_of

LARGEST_CROP = {"cpu": 320, "cuda": 512}
"""Pixels a side. 512 is the crop of PAN's ablations (Section 4.1); on a CPU a run should take minutes, not days."""

LONGEST_SHORT_EDGE = {"cpu": 240, "cuda": 1024}
"""Pixels. Larger images are resized before anything else, so that a crop shows more than a corner of them."""

LONGEST_SHORT_EDGE_OF_OBJECTS = {"cpu": 320, "cuda": 800}
"""Pixels. A detector sees whole images: FPT's have a short edge of 800 (Section 4.1)."""

LONG_EDGE_SHARE = 5 / 3
"""Of the short edge, or what typical images need, scaled up, if that is more: about MS-COCO's usual 1333 to 800. FPT's
is 1000 to 800 (its recipes say so)."""

OPTIMISER_STEPS = {"cpu": 2000, "cuda": 20_000}
"""How long a run is if its epochs aren't given."""

DETECTOR_OPTIONS = {
    "cpu": {"channels": 64, "head_channels": 256, "rois_per_image": 128},
    "cuda": {"channels": 256, "head_channels": 1024, "rois_per_image": 512},
}
"""On a CPU heads of the papers' width and number of boxes would take most of a step's time; with a quarter of each, a
step takes a tenth of it."""

PROPOSALS_OF_A_DETECTION = 4
"""At least, in evaluation, where an image may hold many objects: 1,000 are enough for 250."""

OPTIMISER_STEPS_OF_OBJECTS = {"cpu": 800, "cuda": 20_000}
"""The same for a detector, whose steps take longer."""

VALIDATIONS = 20
"""At most about so many times a run is validated and saved, if `validate_every` isn't given."""


@dataclass(frozen=True)
class RunConfiguration:
    """The settings of a training run. What is None is chosen when the data is known (see `resolve`), printed, and
    written to config.yaml.

    Attributes:
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set
            ("shapes", "camvid").
        root: The folder of a data set that is given by name.
        train_split: The split to train on.
        val_split: The split that is validated on, and by which the best weights are chosen.
        check: Whether every file of the data is read and checked before the first step.
        model: The network: fcn, fpn, pspnet, deeplabv3, ocnet, ufp, pan, agln, ranet or fpt for pixels; faster_rcnn or
            mask_rcnn for objects.
        backbone: A timm model: resnet18, resnet50, resnet101s, convnext_tiny, ...
        pretrained: Whether the backbone starts from timm's weights (needs a network) or from random ones.
        freeze_backbone: Whether the backbone stays as it starts: it isn't trained, and its batch norm keeps its
            statistics. Of use with `pretrained`, or with `init_from`.
        freeze_batch_norm: Whether the backbone's batch norm keeps its statistics and factors while the rest of it is
            trained, as detectors do whose batches are small. Of use with `pretrained`, or with `init_from`.
        init_from: A run whose weights the network starts from, as far as they fit; what doesn't is told.
        options: The network's own options, such as output_stride (see `segweave models`).
        epochs: Passes over the training split.
        batch_size: Images a step, over all processes.
        crop_size: Height and width in pixels of the training crops; None for objects, whose images are seen whole.
        short_edge: Length in pixels of the short edge to which images are resized first, in training and evaluation; 0
            for their own size. If it isn't given but `short_edges` is, evaluation takes the middle one of these, of two
            in the middle the longer.
        short_edges: Lengths in pixels. Each training image is resized to a short edge that is drawn from these, before
            the random scale; `short_edge` is for evaluation alone then. None for `short_edge` in training too.
        long_edge: For objects, the largest length in pixels of the long edge: an image whose long edge would get longer
            is made smaller; 0 for no limit.
        scale_range: Images are scaled by a random factor between these two.
        flip_probability: Of mirroring an image left to right; 0 where left and right differ in meaning.
        brightness: Images are brightened or darkened by up to this share.
        optimizer: sgd with momentum, or adamw. If it isn't given, sgd as in the papers, but for a detector from random
            weights (neither `pretrained` nor `init_from`) adamw, which gets on sooner.
        learning_rate: At the start (after the warm-up); decays as (1 - step / steps)^power.
        momentum: Of sgd.
        weight_decay: Of the optimiser.
        power: Of the poly schedule; 0 keeps the learning rate constant.
        milestones: In place of the poly schedule: shares of the run, rising, after each of which the learning rate is a
            tenth of what it was.
        warmup_steps: Steps over which the learning rate rises from 0.
        accumulate: Batches whose gradients are added up before each step.
        clip_gradient: Largest norm of the gradient; None for no limit.
        ema: Decay of the moving average of the weights that is validated and saved, such as 0.999; None for none.
        early_stopping: Validations without a better score (mean IoU, or AP) after which the run stops; None for never.
        validate_every: Epochs between two validations; each also saves a checkpoint.
        precision: 32, bf16-mixed or 16-mixed.
        device: auto, cpu, cuda or mps.
        devices: Processes (one GPU each).
        sync_batch_norm: Whether batch norm takes its statistics over all processes (GPUs only).
        workers: Processes that load the data; 0 to load it in the training process.
        compile: Whether the network is compiled (torch.compile).
        seed: Of the initial weights, the order, the augmentation and dropout.
    """

    data: str
    root: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    check: bool = True
    model: str = "pan"
    backbone: str | None = None
    pretrained: bool = False
    freeze_backbone: bool = False
    freeze_batch_norm: bool = False
    init_from: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int | None = None
    crop_size: tuple[int, int] | None = None
    short_edge: int | None = None
    short_edges: tuple[int, ...] | None = None
    long_edge: int | None = None
    scale_range: tuple[float, float] | None = None
    flip_probability: float = 0.5
    brightness: float = 0.2
    optimizer: Literal["sgd", "adamw"] | None = None
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    milestones: tuple[float, ...] | None = None
    warmup_steps: int = 0
    accumulate: int = 1
    clip_gradient: float | None = None
    ema: float | None = None
    early_stopping: int | None = None
    validate_every: int | None = None
    precision: Literal["32", "bf16-mixed", "16-mixed"] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    sync_batch_norm: bool = False
    workers: int | None = None
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        known = [*SEGMENTATION_NETWORKS, *DETECTION_NETWORKS]
        if self.model not in known:
            raise InputError(f"unknown model {self.model!r}: expected one of {', '.join(known)}")
        check_options(self.model, self.options)
        for name in ("epochs", "batch_size", "accumulate", "devices", "early_stopping", "validate_every"):
            self._require(name, getattr(self, name), "1 or more", lambda value: value >= 1)
        self._require("seed", self.seed, "a whole number below 2^63", lambda value: value < 2**63)
        for name in ("seed", "warmup_steps", "workers", "power", "momentum", "weight_decay"):
            self._require(name, getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("learning_rate", "clip_gradient"):
            self._require(name, getattr(self, name), "a number above 0", lambda value: value > 0)
        for name in ("flip_probability", "brightness", "ema"):
            self._require(name, getattr(self, name), "a number from 0 to 1", lambda value: 0 <= value <= 1)
        self._require("crop_size", self.crop_size, "a height and a width from 32 up", lambda value: min(value) >= 32)
        self._require(
            "short_edge", self.short_edge, "0 (own size), or 32 or more", lambda value: value == 0 or value >= 32
        )
        self._require(
            "long_edge", self.long_edge, "0 (no limit), or 32 or more", lambda value: value == 0 or value >= 32
        )
        self._require(
            "milestones",
            self.milestones,
            "shares of the run, rising, from 0 to 1",
            lambda value: list(value) == sorted(value) and all(0 <= share <= 1 for share in value),
        )
        self._require(
            "short_edges",
            self.short_edges,
            "one or more lengths, each 32 or more",
            lambda value: len(value) > 0 and min(value) >= 32,
        )
        self._require(
            "scale_range",
            self.scale_range,
            "two factors, 0 < smallest <= largest",
            lambda value: 0 < value[0] <= value[1],
        )
        if self.batch_size is not None and self.batch_size % self.devices:
            raise InputError(f"batch_size {self.batch_size}: expected a multiple of devices ({self.devices})")
        if self.detects and self.crop_size is not None:
            raise InputError(
                f"crop_size {list(self.crop_size)}: {self.model} sees whole images: expected short_edge and long_edge"
            )
        if self.detects and self.compile:
            raise InputError(f"compile: not for {self.model}, whose shapes change with what it finds: expected none")
        if not self.detects and self.long_edge is not None:
            raise InputError(f"long_edge {self.long_edge}: for objects alone: expected none with {self.model}")

    @staticmethod
    def _require(name: str, value: Any, expected: str, holds: Any) -> None:
        if value is not None and not holds(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise InputError(f"{name} {shown}: expected {expected}")

    @property
    def detects(self) -> bool:
        """Whether the network finds objects; else it labels pixels."""
        return self.model in DETECTION_NETWORKS

    @property
    def starts_trained(self) -> bool:
        """Whether the backbone, at least, starts from trained weights."""
        return self.pretrained or self.init_from is not None

    @property
    def training_short_edges(self) -> tuple[int, ...] | None:
        """The lengths in pixels of which each training image's short edge gets one; None for its own."""
        if self.short_edges is not None:
            return self.short_edges
        return (self.short_edge,) if self.short_edge else None

    def to_yaml(self) -> str:
        """The settings as YAML, which `read_settings` reads back."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }
        return yaml.safe_dump(settings, sort_keys=False)


def configure(settings: Mapping[str, Any]) -> RunConfiguration:
    """Checks the types and values of settings.

    Args:
        settings: Fields of `RunConfiguration` by name; strings are converted as on the command line.

    Raises:
        InputError: A setting is unknown or missing, or its value can't be used.
    """
    known = [f.name for f in dataclasses.fields(RunConfiguration)]
    for name in settings:
        if name not in known:
            raise InputError(f"unknown setting {name!r}: expected one of {', '.join(known)}")
    if not settings.get("data"):
        raise InputError("data is missing: expected a folder, or the name of a data set")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfiguration)
    try:
        parsed = parser.parse_object({name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()})
    except (ArgumentError, TypeError, ValueError) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(plain_message(error)) from error
    return RunConfiguration(**parsed.as_dict())


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a recipe, or the config.yaml of a run.

    Raises:
        InputError: The file is missing or isn't a YAML mapping.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a YAML file of settings: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a mapping of settings to values")
    return settings


def resolve(
    configuration: RunConfiguration, *, images: int, image_size: tuple[int, int], objects: ObjectSizes | None = None
) -> RunConfiguration:
    """Chooses what the settings leave open.

    Args:
        configuration: Of the run.
        images: How many the training split has.
        image_size: (height, width) in pixels that is typical of them.
        objects: Of the training split; None for networks that label pixels.

    Returns:
        The configuration with no None where a value is needed.
    """
    device = choose_device(configuration.device)
    kind = "cuda" if device == "cuda" else "cpu"
    of_task = _chosen_for_pixels if objects is None else partial(_chosen_for_objects, objects=objects)
    usual_batch, steps, chosen = of_task(configuration, image_size, kind)
    batch_size = configuration.batch_size
    if batch_size is None:
        batch_size = max(usual_batch // configuration.devices, 1) * configuration.devices
    steps_per_epoch = max(images // (min(batch_size, images) * configuration.accumulate), 1)
    epochs = configuration.epochs or max(-(-steps // steps_per_epoch), 1)
    optimizer = configuration.optimizer or chosen["optimizer"]
    chosen |= {
        "backbone": {"cpu": "resnet18", "cuda": "resnet50"}[kind],
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": _learning_rate(configuration, optimizer, batch_size),
        "validate_every": -(-epochs // VALIDATIONS),
        "precision": _precision(device),
        "workers": 2 if kind == "cpu" else 8,
    }
    still_open: dict[str, Any] = {name: value for name, value in chosen.items() if getattr(configuration, name) is None}
    options = {**chosen.get("options", {}), **configuration.options}
    return dataclasses.replace(configuration, **{**still_open, "device": device, "options": options})


Choice = tuple[int, int, dict[str, Any]]
"""Images a step, steps of the run, and settings by name."""


def _chosen_for_pixels(configuration: RunConfiguration, image_size: tuple[int, int], kind: str) -> Choice:
    short_edge = configuration.short_edge
    if short_edge is None:
        short_edge = _short_edge(configuration, image_size, LONGEST_SHORT_EDGE[kind])
    crop_size = _crop_size(dataclasses.replace(configuration, short_edge=short_edge), image_size, kind)
    scale_range = (0.5, 2.0)  # PAN, Section 4
    chosen = {"short_edge": short_edge, "crop_size": crop_size, "scale_range": scale_range, "optimizer": "sgd"}
    return {"cpu": 8, "cuda": 16}[kind], OPTIMISER_STEPS[kind], chosen


def _chosen_for_objects(
    configuration: RunConfiguration, image_size: tuple[int, int], kind: str, *, objects: ObjectSizes
) -> Choice:
    """What whole images of one short edge need; anchors and the limit on detections follow the objects."""
    short_edge = configuration.short_edge
    if short_edge is None:
        limit = LONGEST_SHORT_EDGE_OF_OBJECTS[kind]
        short_edge = _short_edge(configuration, image_size, limit) or max(min(image_size), 32)
    long_edge, scale_range = configuration.long_edge, configuration.scale_range or (0.8, 1.25)
    if long_edge is None:
        shape = max(LONG_EDGE_SHARE, max(image_size) / min(image_size) * max(scale_range[1], 1.0))
        long_edge = round(shape * max(configuration.short_edges or (short_edge,)))
    limit_on_detections = detections_per_image(objects)
    options: dict[str, Any] = {**DETECTOR_OPTIONS[kind], "detections_per_image": limit_on_detections}
    if configuration.init_from is not None:
        options |= widths_of(configuration.init_from)
    if (proposals := PROPOSALS_OF_A_DETECTION * limit_on_detections) > 1000:
        options["test_proposals"] = (proposals, proposals)
    if (sizes := anchor_sizes(objects, short_edge, long_edge)) is not None:
        options["anchor_sizes"] = sizes
    chosen = {
        "short_edge": short_edge,
        "long_edge": long_edge,
        "scale_range": scale_range,
        "optimizer": "sgd" if configuration.starts_trained else "adamw",
        "options": options,
    }
    return {"cpu": 4, "cuda": 8}[kind], OPTIMISER_STEPS_OF_OBJECTS[kind], chosen


def _short_edge(configuration: RunConfiguration, image_size: tuple[int, int], longest: int) -> int:
    """The middle one of those that are trained on; without them, what large images are made smaller to."""
    if configuration.short_edges is not None:
        return _middle(configuration.short_edges)
    return longest if min(image_size) > longest else 0


def _crop_size(configuration: RunConfiguration, image_size: tuple[int, int], kind: str) -> tuple[int, int]:
    """That of a typical image as training resizes it, as far as the largest crop."""
    edges = configuration.training_short_edges
    scale = _middle(edges) / min(image_size) if edges is not None else 1.0
    height, width = (max(min(round(side * scale), LARGEST_CROP[kind]), 32) for side in image_size)
    return height, width


def _middle(lengths: tuple[int, ...]) -> int:
    return sorted(lengths)[len(lengths) // 2]


def _learning_rate(configuration: RunConfiguration, optimizer: str, batch_size: int) -> float:
    """PAN's 4e-3 at batch size 16 for trained weights, in proportion to the batch; from random ones ten times that. For
    objects MS-COCO's usual 0.02 at batch size 16; from random weights twice that."""
    trained = configuration.starts_trained
    if optimizer == "adamw":
        return 1e-4 if trained else 1e-3
    if configuration.detects:
        return round(0.02 * batch_size / 16 * (1 if trained else 2), 6)
    return round(4e-3 * batch_size / 16 * (1 if trained else 10), 6)


def _precision(device: str) -> str:
    if device != "cuda":
        return "32"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
