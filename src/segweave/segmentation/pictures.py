"""Pictures of segmentations, beyond those of `segweave.reports.pictures`."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from segweave.data.colours import Colour
from segweave.networks.losses import IGNORE_INDEX
from segweave.reports.explanation import Heading, heading_size
from segweave.reports.pictures import Mask, Picture, overlay


def segmentation_heading(image: Picture, mask: Mask, classes: Sequence[str], palette: Sequence[Colour]) -> Heading:
    """The top of a sheet of explanations: the image with the classes laid over it, and those that occur.

    Args:
        image: (H, W, 3).
        mask: (H, W), integers: the class of each pixel, or 255.
        classes: The names of the K classes.
        palette: Their colours.

    Raises:
        InputError: The mask holds a value that is neither a class nor 255.
    """
    size = heading_size(image)
    enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    enlarged_mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    return Heading(
        image=image,
        predicted=Image.fromarray(overlay(enlarged, enlarged_mask, palette)),
        caption="segmentation",
        legend=[(classes[k], palette[k]) for k in np.unique(mask).tolist() if k != IGNORE_INDEX],
    )
