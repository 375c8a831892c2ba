"""`segment` for every kind of image in memory, `predict` for files, folders and patterns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

import segweave
from segweave.cli import main
from segweave.commands.predict import Prediction, predict, segment
from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.saving import save_model

CLASSES = ("road", "tree", "sky", "car", "sign")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200))


def picture(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """(H, W, 3): blobs of colour."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    """Random weights, but batch norm that knows the picture, so that the predictions vary."""
    torch.manual_seed(0)
    network = segweave.create_model("pan", num_classes=len(CLASSES), backbone="resnet18", decoder_channels=32)
    network.labelling = Labelling(CLASSES, PALETTE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what is seen
            module.reset_running_stats()
    with torch.no_grad():
        image = torch.from_numpy(picture()).permute(2, 0, 1)
        network(normalise(torch.stack([image, image.flip(-1)]), network.backbone.mean, network.backbone.std))
    return network.eval()


@pytest.fixture(scope="module")
def run(network: SegmentationNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(network, folder / "model")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures of two sizes, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture()).save(folder / "a.png")
    Image.fromarray(picture(33, 47)).save(folder / "b.bmp")
    (folder / "notes.txt").write_text("not an image")
    return folder


def assert_same(first: Prediction, second: Prediction) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_prediction_is_that_of_the_network(network: SegmentationNetwork) -> None:
    result = segment(network, picture(), probabilities=True)
    pixels = (picture() / 255 - np.array(network.backbone.mean)) / np.array(network.backbone.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0]
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, logits.softmax(dim=0).numpy(), atol=1e-3)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(axis=0))
    assert len(np.unique(result.mask)) > 1, "predictions of one class alone prove little"
    assert (result.mask.dtype, result.image.dtype, result.probabilities.dtype) == (np.uint8, np.uint8, np.float32)
    assert result.mask.shape == (40, 56)
    assert result.classes == CLASSES
    assert result.palette == PALETTE
    assert segment(network, picture()).probabilities is None


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"scales": [0.9, 1.0]}, {"window": (32, 32)}], ids=str)
def test_probabilities_sum_to_one(network: SegmentationNetwork, settings: dict[str, Any]) -> None:
    probabilities = segment(network, picture(), probabilities=True, **settings).probabilities
    assert probabilities is not None
    assert probabilities.shape == (len(CLASSES), 40, 56)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


RGB = picture()
ALPHA = np.arange(40 * 56, dtype=np.uint8).reshape(40, 56, 1)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        Image.fromarray(np.concatenate([RGB, ALPHA], axis=2)),
        np.concatenate([RGB, ALPHA], axis=2),
        RGB.astype(np.uint16) * 257,
        np.concatenate([RGB, ALPHA], axis=2).astype(np.uint16) * 257,
        np.asfortranarray(RGB),
        TENSOR,
        tv_tensors.Image(TENSOR),
        TENSOR.float() / 255,
        TENSOR.double() / 255,
    ],
    ids=["PIL RGB", "PIL RGBA", "RGBA", "uint16", "uint16 RGBA", "fortran", "uint8", "tv_tensor", "float", "double"],
)
def test_all_kinds_of_a_colour_image_give_one_prediction(network: SegmentationNetwork, image: Any) -> None:
    result = segment(network, image)
    np.testing.assert_array_equal(result.image, RGB)
    assert_same(result, segment(network, RGB))


GREY = RGB[..., 0]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        GREY,
        GREY.astype(np.uint16) * 257,
        TENSOR[:1].expand(3, -1, -1),
    ],
    ids=["L", "P", "I;16", "uint8", "uint16", "expanded tensor"],
)
def test_all_kinds_of_a_grey_image_give_one_prediction(network: SegmentationNetwork, image: Any) -> None:
    expected = np.stack([GREY] * 3, axis=2)
    result = segment(network, image)
    np.testing.assert_array_equal(result.image, expected)
    assert_same(result, segment(network, expected))


def test_sixteen_bits_are_rounded_alike_in_grey_and_colour(network: SegmentationNetwork) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (33, 47), dtype=np.uint16)
    assert_same(segment(network, np.stack([deep] * 3, axis=2)), segment(network, deep))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_files_are_read(network: SegmentationNetwork, tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name)
    assert_same(segment(network, tmp_path / name), segment(network, RGB))
    assert_same(segment(network, str(tmp_path / name)), segment(network, RGB))


def test_a_rotated_file_comes_out_upright(network: SegmentationNetwork, run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(RGB, -1)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        result = segment(network, image)
        np.testing.assert_array_equal(result.image, upright)
        assert result.mask.shape == (56, 40)
    [mask] = predict(run, tmp_path / "turned.png", out=tmp_path / "masks", device="cpu")
    assert Image.open(mask).size == (40, 56)


def test_a_prediction_does_not_share_its_image_with_the_caller(network: SegmentationNetwork) -> None:
    for image in (RGB.copy(), TENSOR.clone()):
        result = segment(network, image)
        image[:] = 0
        np.testing.assert_array_equal(result.image, RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), r"float32.*expected uint8 or uint16"),
        (RGB[None], r"\(1, 40, 56, 3\)"),
        (np.zeros((40, 56, 5), np.uint8), r"\(40, 56, 5\)"),
        (np.zeros((3, 40, 56), np.uint8), r"\(3, 40, 56\)"),
        (TENSOR[None], r"\(1, 3, 40, 56\)"),
        (TENSOR[:1], r"\(1, 40, 56\)"),
        (TENSOR.float(), "expected 0 to 1"),
        (TENSOR.float() / 255 - 0.5, "expected 0 to 1"),
        (torch.full((3, 40, 56), float("nan")), "expected 0 to 1"),
        (TENSOR.long() * 257, "expected uint8"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F"),
        ("nowhere.png", r"nowhere\.png: no such file"),
    ],
)
def test_what_is_no_image_is_named(network: SegmentationNetwork, image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segment(network, image)


def test_a_network_without_classes_is_refused() -> None:
    network = segweave.create_model("fcn", num_classes=2, backbone="resnet18")
    with pytest.raises(InputError, match=r"segweave\.load"):
        segment(network, RGB)


def test_pictures_of_a_prediction(network: SegmentationNetwork) -> None:
    result = segment(network, RGB)
    mask = result.mask_image()
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), result.mask)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array(PALETTE, np.uint8)[result.mask])
    assert result.overlay().height > 40  # the legend is set under it


def test_predict_writes_masks_overlays_and_probabilities(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "masks"
    written = predict(run, photos, out=out, probabilities=True, device="cpu")
    assert written == [out / "a.png", out / "b.png"]
    endings = (".png", "_overlay.jpg", "_probabilities.npy")
    assert {path.name for path in out.iterdir()} == {stem + ending for stem in "ab" for ending in endings}
    network = segweave.load(run)
    for path, source in zip(written, ("a.png", "b.bmp"), strict=True):
        mask = Image.open(path)
        expected = segment(network, photos / source, probabilities=True)
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
        assert mask.getpalette()[:15] == [value for colour in PALETTE for value in colour]
        probabilities = np.load(out / f"{path.stem}_probabilities.npy")
        assert probabilities.dtype == np.float16
        assert expected.probabilities is not None
        np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-3)
        assert Image.open(out / f"{path.stem}_overlay.jpg").format == "JPEG"


def test_overlays_can_be_left_out(run: Path, photos: Path, tmp_path: Path) -> None:
    predict(run, photos / "a.png", out=tmp_path / "masks", overlays=False, device="cpu")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.png"]


def test_images_are_given_as_files_folders_and_patterns(run: Path, photos: Path, tmp_path: Path) -> None:
    ways: list[Any] = [
        photos,
        [photos / "a.png", str(photos / "b.bmp")],
        f"{photos}/*.[bp]*",
        [photos, f"{photos}/*.png"],
    ]
    for number, images in enumerate(ways):
        out = tmp_path / str(number)
        written = predict(run, images, out=out, overlays=False, device="cpu")
        assert sorted(path.name for path in written) == ["a.png", "b.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(run: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / "a[1].png")
    [mask] = predict(run, photos / "a[1].png", out=tmp_path / "masks", overlays=False, device="cpu")
    assert mask.name == "a[1].png"


@pytest.mark.parametrize("existing", ["b.png", "b_overlay.jpg", "b_probabilities.npy"])
def test_existing_files_are_not_overwritten(run: Path, photos: Path, tmp_path: Path, existing: str) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    (out / existing).write_text("precious")
    ask: Callable[..., Any] = lambda **more: predict(run, photos, out=out, probabilities=True, device="cpu", **more)  # noqa: E731
    with pytest.raises(InputError, match=f"{existing}: exists already"):
        ask()
    assert [path.name for path in out.iterdir()] == [existing]
    assert (out / existing).read_text() == "precious"
    ask(overwrite=True)
    assert (out / existing).read_bytes() != b"precious"
    assert len(list(out.iterdir())) == 6


def test_only_files_that_are_written_are_in_the_way(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    (out / "a_overlay.jpg").write_text("precious")
    predict(run, photos / "a.png", out=out, overlays=False, device="cpu")
    assert (out / "a_overlay.jpg").read_text() == "precious"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("missing.png", r"missing\.png: no such file"),
        ("*.jpg", r"\*\.jpg: no such file or folder, and no file matches"),
        ([], "no images"),
        ("empty", "empty: no images in this folder"),
        ("notes.txt", r"notes\.txt: not an image"),
    ],
)
def test_what_cannot_be_found_or_read_is_named(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any, message: str
) -> None:
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        predict(run, images, out=tmp_path / "masks", device="cpu")
    assert not list((tmp_path / "masks").glob("*"))


def test_two_images_of_one_stem_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(photos / "a.jpg")
    with pytest.raises(InputError, match=r"a\.png and .*a\.jpg would both be written to"):
        predict(run, photos, out=tmp_path / "masks", device="cpu")
    assert not (tmp_path / "masks").exists()


def test_an_image_is_never_replaced_by_its_mask(run: Path, photos: Path) -> None:
    before = (photos / "a.png").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"a\.png: an image would be replaced"):
            predict(run, photos, out=photos, overwrite=overwrite, device="cpu")
    assert (photos / "a.png").read_bytes() == before


def test_an_image_is_never_replaced_by_an_overlay(run: Path, photos: Path) -> None:
    (photos / "a.png").unlink()
    for name in ("c.jpg", "c_overlay.jpg"):
        Image.fromarray(RGB).save(photos / name)
    before = (photos / "c_overlay.jpg").read_bytes()
    with pytest.raises(InputError, match=r"c_overlay\.jpg"):
        predict(run, photos, out=photos, overwrite=True, device="cpu")
    assert (photos / "c_overlay.jpg").read_bytes() == before


def test_command_line_takes_scales_and_flip(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    words = ["predict", str(run), str(photos / "a.png"), str(photos / "b.bmp"), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--scales", "0.9", "1.2", "--flip", "--probabilities"]) == 0
    assert "2 images written to" in capsys.readouterr().out
    expected = segment(segweave.load(run), RGB, scales=(0.9, 1.2), flip=True, probabilities=True)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), expected.mask)
    assert expected.probabilities is not None
    np.testing.assert_allclose(np.load(out / "a_probabilities.npy"), expected.probabilities, atol=1e-3)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("segweave: ")
    assert error.count("\n") == 1
