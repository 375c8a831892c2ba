"""What every network for semantic segmentation is: images to logits, its own losses, and the context that it used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from segweave.errors import InputError
from segweave.networks.backbones import Backbone
from segweave.networks.losses import pixel_cross_entropy


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


class SegmentationNetwork(nn.Module, ABC):
    """A network for semantic segmentation: a backbone, the context of its paper, a head.

    Args:
        backbone: The source of the feature maps.
        num_classes: K, the number of classes.

    Attributes:
        default_output_stride: The stride that the network's paper gives its backbone.
        recipe: How `segweave.create_model` made it (name, backbone, options), so that it can be saved and made again.
        labelling: The classes that it was trained on; None before training.
    """

    default_output_stride: ClassVar[int] = 32
    recipe: dict[str, Any]
    labelling: Labelling | None = None

    def __init__(self, *, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Predicts the classes of all pixels.

        Args:
            images: (B, 3, H, W), normalised, H and W from 32 up.

        Returns:
            Logits (B, K, H, W).
        """

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms that the network's paper trains with, by name, already weighted: their sum is the training loss.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B, H, W), int64: classes in [0, K), or 255 for pixels that don't count.
        """
        return {"segmentation": pixel_cross_entropy(self(images), labels)}

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The context that the network used, by name, for pictures.

        Args:
            images: (B, 3, H, W), normalised.
            at: A pixel (x, y) of the images, x from the left and y from the top. Networks that have attention of
                single positions add maps of that pixel's own attention; the others ignore it.

        Returns:
            Maps (B, C, h, w) of floats; gates are maps of one pixel. Maps (B, 1, h, w) of integers are labels: equal
            ones belong together, as the positions of a region do. Maps (B, 1, h, w) of booleans mark single positions,
            as representative pixels are. Which names there are depends on whether `at` is given, not on the images.
        """
        return {}


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
