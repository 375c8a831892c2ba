"""The classes of an image's pixels: `segment` for one image in memory, and what `segweave predict` writes for files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.data.images import ImageLike, to_array
from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.networks.network import Labelling, SegmentationNetwork, evaluating, required_labelling
from segweave.reports.explanation import Heading
from segweave.reports.pictures import overlay, palette_png, with_legend
from segweave.saving import network_of
from segweave.segmentation.inference import Inference
from segweave.segmentation.pictures import segmentation_heading
from segweave.task import EvaluationOptions, Prediction, PredictionOptions, Predictor, in_a_line


@dataclass(frozen=True, repr=False)
class SegmentationPrediction(Prediction):
    """The class that a network sees at each pixel of an image.

    Attributes:
        image: (H, W, 3), uint8: the image as the network was given it, upright and in RGB.
        mask: (H, W), uint8: the class of each pixel.
        probabilities: (K, H, W), float32: of each class at each pixel, or None if they weren't asked for.
        classes: The names of the K classes.
        palette: Their colours.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None
    classes: Sequence[str]
    palette: Sequence[Colour]

    def __repr__(self) -> str:
        height, width = self.mask.shape
        numbers, counts = np.unique(self.mask, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shares = in_a_line([f"{self.classes[numbers[k]]} {counts[k] / self.mask.size:.1%}" for k in order])
        with_probabilities = ", with probabilities" if self.probabilities is not None else ""
        return f"<SegmentationPrediction of {width}x{height} pixels: {shares}{with_probabilities}>"

    def mask_image(self) -> Image.Image:
        """The mask as a palette image: its values are the classes, its colours the palette's."""
        return palette_png(self.mask, self.palette)

    def overlay(self) -> Image.Image:
        """The image with the classes laid over it, and a legend of those that occur."""
        return with_legend(overlay(self.image, self.mask, self.palette), self.mask, self.classes, self.palette)

    def heading(self) -> Heading:
        return segmentation_heading(self.image, self.mask, self.classes, self.palette)


def segment(
    model: str | os.PathLike[str] | Network,
    image: ImageLike,
    *,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    window: tuple[int, int] | None = None,
    coarse: bool = False,
    probabilities: bool = False,
) -> SegmentationPrediction:
    """Segments one image.

    Args:
        model: A run folder, or a network from `segweave.load`.
        image: A file's path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, or a tensor (3,
            H, W) of uint8, or of floats in [0, 1].
        scales: Factors by which the image is also seen larger and smaller; the probabilities are averaged. None for
            its own size.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window, for large images.
        coarse: Whether the network's coarse logits are taken, those that its context is made from (RANet, Table 4).
        probabilities: Whether the result has them.

    Raises:
        InputError: The image can't be read, or the network finds objects, or was never trained on named classes.
    """
    network = network_of(model)
    options = PredictionOptions(
        scales=scales, flip=flip or None, window=window, coarse=coarse or None, probabilities=probabilities or None
    )
    if not isinstance(network, SegmentationNetwork):
        raise InputError(f"a {network.recipe['model']} finds objects: expected segweave.detect in place of segment")
    return predict_classes(network, to_array(image), options)


@torch.inference_mode()
def predict_classes(
    network: SegmentationNetwork, image: NDArray[np.uint8], options: PredictionOptions
) -> SegmentationPrediction:
    """Segments an image.

    Args:
        network: Trained on named classes.
        image: (H, W, 3), RGB.
        options: How the network is run, and whether the result has probabilities.
    """
    labelling = required_labelling(network)
    inference = inference_of(options, labelling)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    logits = network.coarse_logits if options.coarse else network
    with evaluating(network):
        scores = inference(logits, normalise(pixels, network.backbone.mean, network.backbone.std))[0]
    return SegmentationPrediction(
        image=image,
        mask=scores.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        probabilities=scores.softmax(dim=0).cpu().numpy() if options.probabilities else None,
        classes=labelling.classes,
        palette=labelling.palette,
    )


def inference_of(options: EvaluationOptions | PredictionOptions, labelling: Labelling) -> Inference:
    """How a network is run over an image, as options say.

    Raises:
        InputError: A value can't be used.
    """
    if isinstance(options, EvaluationOptions):
        return Inference(
            options.scales,
            bool(options.flip),
            options.window,
            labelling.short_edge,
            options.random_views or 0,
            options.scale_range,
            options.seed,
        )
    return Inference(options.scales, bool(options.flip), options.window, labelling.short_edge)


class SegmentationPredictor(Predictor):
    """Writes a mask for each image, NAME.png, and, unless told otherwise, with a legend over the image
    NAME_overlay.jpg.

    Args:
        network: Trained on named classes.
        options: How the network is run, and what is written.
    """

    def __init__(self, network: SegmentationNetwork, options: PredictionOptions) -> None:
        inference_of(options, required_labelling(network))  # what can't be used is refused before anything is read
        self.network = network
        self.options = options
        self.overlays = options.overlays is not False

    def companions(self, picture: Path) -> list[Path]:
        overlays = [_overlay_path(picture)] if self.overlays else []
        return [*overlays, *([_probabilities_path(picture)] if self.options.probabilities else [])]

    def write(self, picture: Path, source: Path, image: NDArray[np.uint8]) -> None:
        prediction = predict_classes(self.network, image, self.options)
        with written_whole(picture) as unfinished:
            prediction.mask_image().save(unfinished, format="PNG")
        if self.overlays:
            with written_whole(_overlay_path(picture)) as unfinished:
                prediction.overlay().save(unfinished, format="JPEG", quality=92)
        if prediction.probabilities is not None:
            with written_whole(_probabilities_path(picture)) as unfinished, unfinished.open("wb") as file:
                np.save(file, prediction.probabilities.astype(np.float16))

    def finish(self) -> None:
        """Nothing: each image's files say all."""


def _overlay_path(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}_overlay.jpg")


def _probabilities_path(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}_probabilities.npy")
