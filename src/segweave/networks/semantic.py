"""What every network for semantic segmentation is: images to logits, its own losses, and the context that it used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from segweave.backbones import Backbone
from segweave.losses import pixel_cross_entropy


@dataclass(frozen=True)
class Labelling:
    """What a network was trained to tell apart, and on images of which size.

    Attributes:
        classes: The names of the K classes.
        palette: Their K colours (red, green, blue), 0 to 255.
        short_edge: The length in pixels of the short edge that images were resized to before the network saw them; None
            for their own size.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    short_edge: int | None = None


class SemanticNetwork(nn.Module, ABC):
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

    def explain(self, images: Tensor) -> dict[str, Tensor]:
        """The context that the network used, by name, for pictures: maps (B, C, h, w); gates are maps of one pixel."""
        return {}
