"""What every network is: a backbone and a number of classes, how it was made, and the context that it used."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.losses import pixel_cross_entropy

SMALLEST_SIDE = 32
"""Networks take images from this height and width up (in pixels)."""


@dataclass(frozen=True)
class Labelling:
    """What a network was trained to tell apart, and on images of which size.

    Attributes:
        classes: The names of the K classes.
        palette: Their K colours (red, green, blue), 0 to 255.
        short_edge: The length in pixels of the short edge that images were resized to before the network saw them; None
            for their own size.
        long_edge: For objects, the length in pixels that the long edge is at most given, whatever the short one's then
            is; None for no limit.
        category_ids: For objects, the number of each class in the annotations that the network was trained on; None for
            1 to K.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    short_edge: int | None = None
    long_edge: int | None = None
    category_ids: tuple[int, ...] | None = None

    def require_classes(self, classes: Sequence[str], data: str, trained: str) -> None:
        """Refuses data of other classes.

        Args:
            classes: Of the data.
            data: What the data is called, for the message.
            trained: What was trained on this labelling: "the network", or its run.

        Raises:
            InputError: Names the classes of both.
        """
        if tuple(classes) != self.classes:
            raise InputError(
                f"{data}: the data has the {len(classes)} classes {', '.join(classes)}; expected the "
                f"{len(self.classes)} that {trained} was trained on: {', '.join(self.classes)}"
            )


@dataclass(frozen=True)
class Options:
    """Options that go together, and are handed to the part that they are for as one.

    Where one is the default of an argument that makes a network, each of its fields is an option of
    `segweave.create_model`, of that name and with that default.
    """


class Network(nn.Module, ABC):
    """A network for dense prediction: a backbone, the context of its paper, a head.

    A class that takes finished parts has a class method `build` beside its constructor, which makes them from a
    backbone, the number of classes and options.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, the number of classes.

    Attributes:
        tasks: What it is for, as `segweave.list_models` calls it: "semantic", "detection", "instance".
        default_output_stride: The stride that the network's paper gives its backbone.
        most_classes: The largest K that the network can have; None for no limit.
        former_names: What parameters were once called, so that weights saved then still load: regular expressions for
            the beginning of a name, each with its replacement, applied in this order.
        recipe: How `segweave.create_model` made it (name, backbone, options), so that it can be saved and made again.
        labelling: The classes that it was trained on, and the size of images in evaluation; None before training.
    """

    tasks: ClassVar[tuple[str, ...]] = ()
    default_output_stride: ClassVar[int] = 32
    most_classes: ClassVar[int | None] = None
    former_names: ClassVar[Mapping[str, str]] = {}
    recipe: dict[str, Any]
    labelling: Labelling | None = None

    def __init__(self, *, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.register_load_state_dict_pre_hook(_rename_former)  # type: ignore[no-untyped-call]  # torch's

    @classmethod
    def current_name(cls, name: str) -> str:
        """What a parameter or a buffer is called now, given what it is or once was called."""
        for former, current in cls.former_names.items():
            name = re.sub(f"^{former}", current, name)
        return name

    @abstractmethod
    def prepared(self, image: Tensor) -> Tensor:
        """An image as the network sees it in evaluation: what `explain` takes.

        Args:
            image: (3, H, W), float32 in [0, 1].

        Returns:
            (1, 3, h, w), normalised, resized as `labelling` says.
        """

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The context that the network used, by name, for pictures.

        Args:
            images: (B, 3, H, W), normalised.
            at: A pixel (x, y) of the images, x from the left and y from the top. Networks whose context differs from
                pixel to pixel add maps of where that pixel's own came from; the others ignore it.

        Returns:
            Maps (B, C, h, w) of floats; gates are maps of one pixel. Maps (B, 1, h, w) of integers are labels: equal
            ones belong together, as the positions of a region do. Maps (B, 1, h, w) of booleans mark single positions,
            as representative pixels are. Which names there are depends on whether `at` is given, not on the images.

        Raises:
            InputError: The images have no such pixel.
        """
        return {}

    def countable(self) -> nn.Module:
        """What is counted as the network's cost: modules of its own that cost the same for all images of a size.

        Returns:
            A module that takes (B, 3, H, W): the network itself, unless it does more where it finds more.
        """
        return self


def required_labelling(network: Network) -> Labelling:
    """What a network was trained to tell apart.

    Raises:
        InputError: It wasn't trained on named classes.
    """
    if network.labelling is None:
        raise InputError("the network has no classes: expected one from segweave.load")
    return network.labelling


class SegmentationNetwork(Network):
    """A network for semantic segmentation.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, the number of classes.
    """

    tasks: ClassVar[tuple[str, ...]] = ("semantic",)
    most_classes: ClassVar[int | None] = 255  # which itself means "ignore" in a mask

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Predicts the classes of all pixels.

        Args:
            images: (B, 3, H, W), normalised, H and W from 32 up.

        Returns:
            Logits (B, K, H, W).
        """

    def coarse_logits(self, images: Tensor) -> Tensor:
        """The segmentation that a network makes its context from, before it refines it with this context.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            Logits (B, K, H, W).

        Raises:
            InputError: The network has none.
        """
        raise InputError(
            f"{type(self).__name__} has no coarse segmentation: its context comes from features alone; "
            "expected a RANet, whose regions come from one"
        )

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms that the network's paper trains with, by name, already weighted: their sum is the training loss.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B, H, W), int64: classes in [0, K), or 255 for pixels that don't count.
        """
        return {"segmentation": pixel_cross_entropy(self(images), labels)}

    def prepared(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (1, 3, h, w), no side below 32 pixels; see `Network.prepared`."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (self.backbone.mean, self.backbone.std))
        short_edge = self.labelling.short_edge if self.labelling is not None else None
        return resized(((image - mean) / std)[None], short_edge)


class DetectionNetwork(Network):
    """A network that detects objects.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, the number of classes, without the background.
        detections_per_image: How many objects it finds in an image at most.

    Attributes:
        has_masks: Whether it finds masks beside boxes.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    has_masks: ClassVar[bool] = False

    def __init__(self, *, backbone: Backbone, num_classes: int, detections_per_image: int = 100) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.detections_per_image = detections_per_image

    @abstractmethod
    def forward(
        self, images: list[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training computes the losses, in evaluation detects objects.

        Args:
            images: (3, H, W) each, float32 in [0, 1], of any sizes from 32 up. In evaluation they are resized as
                `labelling` says, in training not.
            targets: In training, for each image `boxes` (N, 4), float32, XYXY in pixels, of some width and height,
                `labels` (N,), int64, 1 to K, and for masks `masks` (N, H, W), uint8. N may be 0. Groups of objects
                (`iscrowd`) aren't told apart: they should be left out. In evaluation targets don't matter.

        Returns:
            In training the losses by name, already weighted: their sum is the training loss. In evaluation for each
            image `boxes` (N, 4), XYXY in its own pixels, `labels` (N,), 1 to K, `scores` (N,), falling, and for masks
            `masks` (N, 1, H, W) in [0, 1].

        Raises:
            InputError: In training, an object has no area, or its label is none of 1 to K.
        """

    @abstractmethod
    def find(self, images: list[Tensor], *, score: float = 0.0) -> list[dict[str, Tensor]]:
        """Detects objects, in evaluation mode, as `forward` does, in a fraction of the memory where images are large.

        Args:
            images: (3, H, W) each, float32 in [0, 1], of any sizes from 32 up.
            score: Objects of lower scores are left out before their masks are made.

        Returns:
            What `forward` gives, but `masks` are bool: whether they are above a half.
        """


def resized(images: Tensor, short_edge: int | None, scale: float = 1.0) -> Tensor:
    """Images as they are seen in evaluation, no side below 32 pixels: (B, 3, H, W) -> (B, 3, h, w).

    Args:
        images: Normalised.
        short_edge: The length that their short edge is brought to first; None for their own size.
        scale: A factor for the size that they then have.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if short_edge is not None:
        scale *= short_edge / shorter
    scale = max(scale, SMALLEST_SIDE / shorter)
    size = (round(height * scale), round(width * scale))
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _rename_former(network: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before weights are loaded: gives those of former names their current ones, where `prefix` leads to the network in
    what is loaded as a whole."""
    assert isinstance(network, Network)
    for name in [name for name in weights if name.startswith(prefix)]:
        weights[prefix + network.current_name(name.removeprefix(prefix))] = weights.pop(name)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Holds a network in evaluation mode; each module's own mode is put back afterwards, whatever happens.

    (`train()` would put the same mode back everywhere, in frozen parts too.)
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def position_of(pixel: tuple[int, int], images: Tensor, features: Tensor) -> tuple[int, int]:
    """The row and the column of a map's position that the middle of a pixel (x, y) of the images lies in.

    Raises:
        InputError: The images have no such pixel.
    """
    x, y = pixel
    image_height, image_width = images.shape[-2:]
    if not (0 <= x < image_width and 0 <= y < image_height):
        raise InputError(f"at ({x}, {y}): expected a pixel (x, y) of images of {image_width} x {image_height} pixels")
    height, width = features.shape[-2:]
    return (2 * y + 1) * height // (2 * image_height), (2 * x + 1) * width // (2 * image_width)
