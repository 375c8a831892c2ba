"""What the settings of a training run are: typed, from flags or a YAML recipe, each checked by itself.

Nothing heavy is imported here, so that the command line can show them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from segweave.errors import InputError

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["32", "bf16-mixed", "16-mixed"]
Device = Literal["auto", "cpu", "cuda", "mps"]

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a training run as they are given. What is None is chosen when the data is known, printed, and
    written to config.yaml (see `segweave.training.configuration.RunConfiguration`).

    Attributes:
        data: A folder with SPLIT/images and either SPLIT/masks or SPLIT/instances.json, or the name of a data set
            ("shapes", "camvid").
        root: The folder of a data set that is given by name.
        train_split: The split to train on.
        val_split: The split that is validated on, and by which the best weights are chosen.
        check: Whether every file of the data is read and checked before the first step.
        model: The network; `segweave models` lists them. If it isn't given, pan for masks of classes, mask_rcnn for
            objects with masks, faster_rcnn for objects without.
        backbone: A timm model: resnet18, resnet50, resnet101s, convnext_tiny, ...
        pretrained: Whether the backbone starts from timm's weights (needs a network) or from random ones.
        freeze_backbone: Whether the backbone stays as it starts: it isn't trained, and its batch norm keeps its
            statistics. Of use with `pretrained`, or with `init_from`.
        freeze_batch_norm: Whether the backbone's batch norm keeps its statistics and factors while the rest of it is
            trained, as detectors do whose batches are small. Of use with `pretrained`, or with `init_from`.
        init_from: A run whose weights the network starts from, as far as they fit; what doesn't is told.
        options: The network's own options, such as output_stride; `segweave models MODEL` lists them.
        epochs: Passes over the training split.
        batch_size: Images a step, over all processes.
        crop_size: Height and width in pixels of the training crops. Of objects the images are seen whole.
        short_edge: Length in pixels of the short edge to which images are resized first, in training and evaluation; 0
            for their own size. If it isn't given but `short_edges` is, evaluation takes the middle one of these, of two
            in the middle the longer.
        short_edges: Lengths in pixels. Each training image is resized to a short edge that is drawn from these, before
            the random scale; `short_edge` is for evaluation alone then. If they aren't given, it is for both.
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
        clip_gradient: Largest norm of the gradient; no limit if it isn't given.
        ema: Decay of the moving average of the weights that is validated and saved, such as 0.999; the weights
            themselves are if it isn't given.
        early_stopping: Validations without a better score (mean IoU, or AP) after which the run stops; it goes to the
            end if this isn't given.
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
    model: str | None = None
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
    optimizer: Optimizer | None = None
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
    precision: Precision | None = None
    device: Device = "auto"
    devices: int = 1
    sync_batch_norm: bool = False
    workers: int | None = None
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "devices", "early_stopping", "validate_every"):
            _require(name, getattr(self, name), "1 or more", lambda value: value >= 1)
        _require("seed", self.seed, "a whole number below 2^63", lambda value: value < 2**63)
        for name in ("seed", "warmup_steps", "workers", "power", "momentum", "weight_decay"):
            _require(name, getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("learning_rate", "clip_gradient"):
            _require(name, getattr(self, name), "a number above 0", lambda value: value > 0)
        for name in ("flip_probability", "brightness", "ema"):
            _require(name, getattr(self, name), "a number from 0 to 1", lambda value: 0 <= value <= 1)
        _require("crop_size", self.crop_size, "a height and a width from 32 up", lambda value: min(value) >= 32)
        _require("short_edge", self.short_edge, "0 (own size), or 32 or more", lambda value: value == 0 or value >= 32)
        _require("long_edge", self.long_edge, "0 (no limit), or 32 or more", lambda value: value == 0 or value >= 32)
        _require(
            "milestones",
            self.milestones,
            "shares of the run, rising, from 0 to 1",
            lambda value: list(value) == sorted(value) and all(0 <= share <= 1 for share in value),
        )
        _require(
            "short_edges",
            self.short_edges,
            "one or more lengths, each 32 or more",
            lambda value: len(value) > 0 and min(value) >= 32,
        )
        _require(
            "scale_range",
            self.scale_range,
            "two factors, 0 < smallest <= largest",
            lambda value: 0 < value[0] <= value[1],
        )
        if self.batch_size is not None and self.batch_size % self.devices:
            raise InputError(f"batch_size {self.batch_size}: expected a multiple of devices ({self.devices})")

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


def _require(name: str, value: Value | None, expected: str, holds: Callable[[Value], bool]) -> None:
    if value is not None and not holds(value):
        shown = list(value) if isinstance(value, tuple) else value
        raise InputError(f"{name} {shown}: expected {expected}")
