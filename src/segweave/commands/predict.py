"""Predictions: `segment` for one image in memory, `predict` (the function behind `segweave predict`) for files and
folders. Objects are in `segweave.detection.prediction`."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segweave.data.images import ImageLike, list_images, read_image, to_array
from segweave.data.transforms import normalise
from segweave.detection.prediction import PREDICTIONS_FILE, predict_objects
from segweave.devices import choose_device
from segweave.errors import InputError
from segweave.files import written_whole
from segweave.models import Network
from segweave.networks.network import DetectionNetwork, evaluating
from segweave.reports.pictures import overlay, palette_png, with_legend
from segweave.saving import load
from segweave.segmentation.inference import Inference


@dataclass(frozen=True)
class Prediction:
    """What a network sees in an image.

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
    palette: Sequence[tuple[int, int, int]]

    def mask_image(self) -> Image.Image:
        """The mask as a palette image: its values are the classes, its colours the palette's."""
        return palette_png(self.mask, self.palette)

    def overlay(self) -> Image.Image:
        """The image with the classes laid over it, and a legend of those that occur."""
        return with_legend(overlay(self.image, self.mask, self.palette), self.mask, self.classes, self.palette)


@torch.inference_mode()
def segment(
    network: Network,
    image: ImageLike,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    probabilities: bool = False,
) -> Prediction:
    """Segments one image.

    Args:
        network: From `segweave.load`.
        image: A file's path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, or a tensor (3,
            H, W) of uint8, or of floats in [0, 1].
        scales: Factors by which the image is also seen larger and smaller; the probabilities are averaged.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window, for large images.
        probabilities: Whether the result has them.

    Raises:
        InputError: The image can't be read, or the network finds objects, or was never trained on named classes.
    """
    labelling = network.labelling
    if labelling is None:
        raise InputError("the network has no classes: expected one from segweave.load")
    if isinstance(network, DetectionNetwork):
        raise InputError(f"a {network.recipe['model']} finds objects: expected segweave.detect in place of segment")
    picture = to_array(image)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].to(device)
    inference = Inference(tuple(scales), flip, window, labelling.short_edge)
    with evaluating(network):
        scores = inference(network, normalise(pixels, network.backbone.mean, network.backbone.std))[0]
    return Prediction(
        image=picture,
        mask=scores.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        probabilities=scores.softmax(dim=0).cpu().numpy() if probabilities else None,
        classes=labelling.classes,
        palette=labelling.palette,
    )


def predict(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    probabilities: bool = False,
    overlays: bool = True,
    score: float = 0.5,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Predicts what is in image files.

    A network for pixels writes a mask for each, NAME.png, and with the legend beside the image NAME_overlay.jpg. A
    detector draws the objects on each, NAME.png, and writes them all to OUT/predictions.json in COCO's format.

    Args:
        run: A run folder.
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        scales: Factors by which the images are also seen larger and smaller.
        flip: Whether each scale is also seen mirrored.
        window: Height and width in pixels of a sliding window, for large images.
        probabilities: Whether to write NAME_probabilities.npy, (K, H, W), float16, too.
        overlays: Whether to write the overlays.
        score: The least score of an object that a detector draws and writes; it finds none below its own
            `score_threshold`.
        device: auto, cpu, cuda or mps.
        overwrite: Whether files may be replaced.

    Returns:
        The masks' or the pictures' files.

    Raises:
        InputError: The run has no model, an argument isn't for its kind of network, an image can't be found or read, or
            a file exists already.
    """
    network = load(run, device=choose_device(device))
    if not 0 <= score <= 1:
        raise InputError(f"score {score}: expected 0 to 1")
    if isinstance(network, DetectionNetwork):
        if tuple(scales) != (1.0,) or flip or window is not None or probabilities or not overlays:
            raise InputError(
                f"{os.fspath(run)}: a {network.recipe['model']} finds objects: expected no scales, flip, window, "
                "probabilities or overlays"
            )
        targets = checked_targets(images, out, [_beside], overwrite=overwrite)
        predict_objects(network, targets, Path(out), score=score)
        return list(targets)
    companions: list[Callable[[Path], Path]] = []
    if overlays:
        companions.append(_overlay_path)
    if probabilities:
        companions.append(_probabilities_path)
    targets = checked_targets(images, out, companions, overwrite=overwrite)
    for target, source in targets.items():
        prediction = segment(network, source, scales=scales, flip=flip, window=window, probabilities=probabilities)
        with written_whole(target) as unfinished:
            prediction.mask_image().save(unfinished, format="PNG")
        if overlays:
            with written_whole(_overlay_path(target)) as unfinished:
                prediction.overlay().save(unfinished, format="JPEG", quality=92)
        if prediction.probabilities is not None:
            with written_whole(_probabilities_path(target)) as unfinished, unfinished.open("wb") as file:
                np.save(file, prediction.probabilities.astype(np.float16))
    return list(targets)


def checked_targets(
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    companions: Sequence[Callable[[Path], Path]] = (),
    *,
    overwrite: bool = False,
) -> dict[Path, Path]:
    """Where the picture made of each image file goes; finds what stands in the way before anything is written.

    Args:
        images: Image files, folders of them, or patterns such as "photos/*.jpg".
        out: The folder to write to.
        companions: Each gives the path of another file that is written beside a picture.
        overwrite: Whether files may be replaced; an image that is read never is.

    Returns:
        The image file of each picture's file, OUT/NAME.png.

    Raises:
        InputError: An image can't be found or read, or a file exists already.
    """
    targets = _targets(images, Path(out))
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(_require_readable, targets.values()):
            pass
    written = [*targets, *(companion(target) for companion in companions for target in targets)]
    _require_free(written, {file.resolve() for file in targets.values()}, overwrite)
    return targets


def _require_readable(file: Path) -> None:
    read_image(file)


def _beside(picture: Path) -> Path:
    return picture.with_name(PREDICTIONS_FILE)


def _overlay_path(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}_overlay.jpg")


def _probabilities_path(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}_probabilities.npy")


def _require_free(written: Sequence[Path], sources: set[Path], overwrite: bool) -> None:
    """Refuses to replace an image that is read, and without leave any file."""
    for path in written:
        if path.resolve() in sources:
            raise InputError(f"{path}: an image would be replaced: expected another --out")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already: expected --overwrite to replace it, or another --out")


def _targets(images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], out: Path) -> dict[Path, Path]:
    """The image of each OUT/NAME.png; two images of one name, which would share it, are refused."""
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    files = list(dict.fromkeys(file for one in given for file in _files(os.fspath(one))))
    if not files:
        raise InputError(f"no images: expected files, folders or patterns, got {', '.join(map(str, given)) or 'none'}")
    targets: dict[Path, Path] = {}
    for file in files:
        target = out / f"{file.stem}.png"
        if target in targets:
            raise InputError(
                f"{file} and {targets[target]} would both be written to {target}: expected different names"
            )
        targets[target] = file
    return targets


def _files(given: str) -> Iterator[Path]:
    path = Path(given)
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise InputError(f"{path}: no images in this folder")
        yield from found
    elif path.exists():
        yield path
    else:
        matches = sorted(Path(match) for match in glob.glob(given, recursive=True))
        if not matches:
            raise InputError(f"{given}: no such file or folder, and no file matches it as a pattern")
        yield from (match for match in matches if match.is_file())
