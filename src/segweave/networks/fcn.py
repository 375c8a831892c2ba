"""FCN: fully convolutional network on a dilated backbone, the baseline without context.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, in the dilated form in
which PAN (Table 1, "ResNet101", output stride 16), AGLN (Table VIII, output stride 8) and RANet compare with it: the
last map, a 3x3 convolution, logits, and bilinear upsampling.
"""

from typing import ClassVar

from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.layers import ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork


class FCN(SegmentationNetwork):
    """Fully convolutional network.

    Args:
        backbone: The source of the feature maps; the last is used.
        num_classes: K.
        head_channels: Width of the 3x3 convolution; a quarter of the backbone's last map if not given.
        dropout: Probability with which the head's input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 8

    def __init__(
        self, *, backbone: Backbone, num_classes: int, head_channels: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        in_channels = backbone.channels[-1]
        self.head = FullyConvolutionalHead(in_channels, head_channels or in_channels // 4, num_classes, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self.head(self.backbone(images)[-1]), images)


class FullyConvolutionalHead(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution to the logits; maps of one size in and out."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__(
            ConvNormAct(in_channels, channels, 3),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, kernel_size=1),
        )
