"""Pictures for the tests of what reads image files."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(height: int = 40, width: int = 56, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3): blobs of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
