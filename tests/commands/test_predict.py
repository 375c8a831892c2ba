"""`predict` for files, folders and patterns: what is written, and what is refused before anything is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import segweave
from segweave.cli import main
from segweave.commands.predict import predict
from segweave.data.transforms import normalise
from segweave.detection.pictures import Objects, draw_detections
from segweave.detection.prediction import detect
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork, SegmentationNetwork
from segweave.saving import save_model
from segweave.segmentation.prediction import segment
from segweave.segmentation.shapes import ShapesSegmentationDataset
from tests.commands.coarse import coarse_by_hand
from tests.pictures import picture

RGB = picture(48, 64)


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
        palette = [value for colour in ShapesSegmentationDataset.palette for value in colour]
        assert (mask.getpalette() or [])[: len(palette)] == palette
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


def test_a_rotated_file_is_predicted_upright(run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    [mask] = predict(run, tmp_path / "turned.png", out=tmp_path / "masks", device="cpu")
    assert Image.open(mask).size == (48, 64)


def test_each_image_is_decoded_once(run: Path, photos: Path, tmp_path: Path, decoded: list[str]) -> None:
    predict(run, photos, out=tmp_path / "masks", probabilities=True, device="cpu")
    assert sorted(decoded) == ["a.png", "b.bmp"]


def test_no_image_is_decoded_where_something_is_in_the_way(
    run: Path, photos: Path, tmp_path: Path, decoded: list[str]
) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "b.png").write_text("precious")
    with pytest.raises(InputError, match=r"b\.png: exists already"):
        predict(run, photos, out=tmp_path / "masks", device="cpu")
    assert decoded == []


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_all_other_images_are_predicted_where_one_is_broken(run: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(photos / "c.png")
    truncate(photos / "a.png")
    out = tmp_path / "masks"
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image: .*; the other 2 images are in .*masks$"):
        predict(run, photos, out=out, overlays=False, device="cpu")
    assert {path.name for path in out.iterdir()} == {"b.png", "c.png"}
    np.testing.assert_array_equal(np.asarray(Image.open(out / "c.png")), segment(run, RGB).mask)
    truncate(photos / "c.png")
    with pytest.raises(InputError, match=r"a\.png: .* \(and 1 more\); the other image is in "):
        predict(run, photos, out=out, overlays=False, overwrite=True, device="cpu")
    (photos / "b.bmp").unlink()
    with pytest.raises(InputError, match=r"a\.png: .* \(and 1 more\)$"):
        predict(run, photos, out=out, overlays=False, overwrite=True, device="cpu")


def test_objects_of_all_readable_images_are_written_where_one_is_broken(
    detector: DetectionNetwork, photos: Path, tmp_path: Path
) -> None:
    truncate(photos / "a.png")
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        predict(detector, photos, out=tmp_path / "found", device="cpu")
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["b.bmp"]
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"b.png", "predictions.json"}


@pytest.fixture
def surely(detector: DetectionNetwork, monkeypatch: pytest.MonkeyPatch) -> DetectionNetwork:
    """A detector that finds three objects, of scores 0.9, 0.3 and 0.1."""
    boxes = torch.tensor([[2.0, 3.0, 20.0, 22.0], [22.0, 4.0, 40.0, 30.0], [5.0, 24.0, 20.0, 31.0]])
    scores = torch.tensor([0.9, 0.3, 0.1])

    def find(images: list[Tensor], *, score: float = 0.0) -> list[dict[str, Tensor]]:
        kept = scores >= score
        return [{"boxes": boxes[kept], "labels": torch.tensor([1, 2, 1])[kept], "scores": scores[kept]} for _ in images]

    monkeypatch.setattr(detector, "find", find)
    return detector


@pytest.mark.parametrize(("score", "found"), [(None, 1), (0.5, 1), (0.2, 2), (0.0, 3), (0.95, 0)])
def test_what_is_drawn_is_what_is_written(
    surely: DetectionNetwork, photos: Path, tmp_path: Path, score: float | None, found: int
) -> None:
    [drawn] = predict(surely, photos / "a.png", out=tmp_path / "found", score=score, device="cpu")
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    annotations = content["annotations"]
    assert [one["score"] for one in annotations] == pytest.approx([0.9, 0.3, 0.1][:found])
    assert [one["category_id"] for one in annotations] == [3, 7, 3][:found]
    assert content["categories"] == [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
    boxes = np.array([one["bbox"] for one in annotations]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([{3: 1, 7: 2}[one["category_id"]] for one in annotations], np.int64)
    objects = Objects(boxes, labels, np.array([one["score"] for one in annotations]))
    assert surely.labelling is not None
    expected = draw_detections(RGB, objects, surely.labelling.classes, surely.labelling.palette)
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), np.asarray(expected))


def test_command_line_takes_a_score(detector: DetectionNetwork, photos: Path, tmp_path: Path) -> None:
    save_model(detector, tmp_path / "run" / "model")
    expected = detect(detector, RGB, score=0.2)
    assert len(expected.scores) > 0
    assert expected.scores.max() < 0.5, "with the default nothing would be told"
    words = [
        "predict",
        str(tmp_path / "run"),
        str(photos / "a.png"),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "found"),
    ]
    assert main([*words, "--score", "0.2"]) == 0
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert [one["score"] for one in content["annotations"]] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    drawn = np.asarray(Image.open(tmp_path / "found" / "a.png"))
    np.testing.assert_array_equal(drawn, np.asarray(expected.overlay()))


@pytest.mark.parametrize("score", [-0.1, 1.5])
def test_what_is_no_score_is_refused(detector: DetectionNetwork, photos: Path, tmp_path: Path, score: float) -> None:
    with pytest.raises(InputError, match=f"score {score}: expected 0 to 1"):
        predict(detector, photos, out=tmp_path / "found", score=score, device="cpu")
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"flip": False}, "flip"),
        ({"scales": (0.5, 1.0), "window": (64, 64)}, "scales and no window"),
        ({"coarse": True}, "coarse"),
        ({"probabilities": True, "overlays": False}, "probabilities and no overlays"),
    ],
    ids=str,
)
def test_options_for_pixels_are_refused_by_name_for_a_detector(
    detector: DetectionNetwork, photos: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=f"^the network: a mask_rcnn finds objects: expected no {named}$"):
        predict(detector, photos, out=tmp_path / "found", device="cpu", **options)
    assert not (tmp_path / "found").exists()


def test_options_for_objects_are_refused_by_name_for_pixels(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{run}: a pan labels pixels: expected no score$"):
        predict(run, photos, out=tmp_path / "masks", score=0.2, device="cpu")
    assert not (tmp_path / "masks").exists()


def test_the_coarse_segmentation_is_the_one_that_the_context_is_made_from(
    ranet: SegmentationNetwork, photos: Path, tmp_path: Path
) -> None:
    [fine] = predict(ranet, photos / "a.png", out=tmp_path / "fine", overlays=False, device="cpu")
    [coarse] = predict(ranet, photos / "a.png", out=tmp_path / "coarse", coarse=True, overlays=False, device="cpu")
    pixels = torch.from_numpy(RGB).permute(2, 0, 1)[None]
    scores = coarse_by_hand(ranet, normalise(pixels, ranet.backbone.mean, ranet.backbone.std))
    np.testing.assert_array_equal(np.asarray(Image.open(coarse)), scores.argmax(dim=1)[0].numpy())
    np.testing.assert_array_equal(segment(ranet, RGB, coarse=True).mask, np.asarray(Image.open(coarse)))
    assert (np.asarray(Image.open(coarse)) != np.asarray(Image.open(fine))).any()
    save_model(ranet, tmp_path / "run" / "model")
    out = tmp_path / "cli"
    words = ["predict", str(tmp_path / "run"), str(photos / "a.png"), "--out", str(out), "--device", "cpu", "--coarse"]
    assert main(words) == 0
    assert (out / "a.png").read_bytes() == coarse.read_bytes()


def test_a_network_without_a_coarse_segmentation_is_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PAN has no coarse segmentation: .* expected a RANet"):
        predict(run, photos, out=tmp_path / "masks", coarse=True, device="cpu")
    assert not (tmp_path / "masks").exists()
