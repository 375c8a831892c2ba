"""What a detector computes for any image: the cost of the rest depends on what it finds."""

from torch import Tensor, nn

from segweave.models import Network
from segweave.networks.augmented_head import AdaptiveFeaturePooling
from segweave.networks.rcnn import BOX_SIZE, MASK_SIZE, FasterRCNN


def countable(network: Network) -> nn.Module:
    """A network whose cost is the same for all images of a size: (B, 3, H, W) to anything.

    Args:
        network: From `segweave.create_model`; in training or not.

    Returns:
        A network for pixels itself. Of a detector the backbone, the pyramid, the region proposals, the box head for as
        many boxes as there are proposals at most in evaluation, and the mask head for as many detections. Pooling and
        choosing boxes are left out: they have neither convolutions nor matrix products.
    """
    return FixedBoxes(network) if isinstance(network, FasterRCNN) else network


class FixedBoxes(nn.Module):
    """A detector's layers for as many boxes as it looks at in evaluation at most, whatever the image.

    Args:
        network: Whose layers are run.
    """

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.network = network
        self.proposals = network.test_proposals[1]
        self.detections = min(network.detections_per_image, self.proposals)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what the layers give."""
        levels = self.network.levels(images)
        logits, offsets = self.network.rpn.head(list(levels.values()))
        heads = self.network.roi_heads
        boxes = self._pooled(heads.box_roi_pool, len(images) * self.proposals, BOX_SIZE, images)
        outputs = [*logits, *offsets, *heads.box_predictor(heads.box_head(boxes))]
        if heads.has_mask():
            masks = self._pooled(heads.mask_roi_pool, len(images) * self.detections, MASK_SIZE, images)
            outputs.append(heads.mask_predictor(heads.mask_head(masks)))
        return outputs

    def _pooled(self, pool: nn.Module, count: int, size: int, images: Tensor) -> Tensor:
        """As large as what is pooled for that many boxes."""
        levels = (len(pool.strides),) if isinstance(pool, AdaptiveFeaturePooling) else ()
        return images.new_zeros(count, *levels, self.network.neck.channels, size, size)
