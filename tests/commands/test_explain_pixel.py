"""`explain --at`: where a chosen pixel's own context comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import segweave
from segweave.commands.explain import explain
from segweave.errors import InputError
from segweave.networks.network import DetectionNetwork, Labelling
from segweave.reports.explanation import MARGIN
from segweave.reports.map_rows import WIDE
from segweave.saving import save_model
from tests.commands.explaining import MakeRun
from tests.networks.detection_samples import narrow
from tests.pictures import picture


@pytest.mark.parametrize(
    ("short_edge", "at", "expected"),
    [
        (None, (50, 7), (50, 7)),
        (None, (63, 47), (63, 47)),
        (96, (0, 0), (1, 1)),
        (96, (50, 7), (101, 15)),
        (96, (63, 47), (127, 95)),
        (36, (0, 0), (0, 0)),
        (36, (50, 7), (37, 5)),
        (36, (63, 47), (47, 35)),
    ],
    ids=str,
)
def test_a_chosen_pixel_is_the_one_that_the_network_is_given(
    pointing: MakeRun,
    photos: Path,
    tmp_path: Path,
    short_edge: int | None,
    at: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    run = pointing(short_edge=short_edge)
    explain(run, photos / "a.png", out=tmp_path / "sheets", at=at, maps=True, device="cpu")
    pointed = np.load(tmp_path / "sheets" / "a.npz")["pointed"]
    height = short_edge or 48
    assert pointed.shape == (1, height, height * 64 // 48)
    assert np.argwhere(pointed).tolist() == [[0, expected[1], expected[0]]]


def test_a_chosen_pixel_is_of_the_upright_image(pointing: MakeRun, tmp_path: Path) -> None:
    run, exif = pointing(), Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: 64x48 as stored, 48x64 upright
    Image.fromarray(picture(48, 64)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(InputError, match=r"a\.jpg: at x=60, y=10: .*48x64$"):
        explain(run, tmp_path / "a.jpg", out=tmp_path / "sheets", at=(60, 10), device="cpu")
    explain(run, tmp_path / "a.jpg", out=tmp_path / "sheets", at=(10, 60), maps=True, device="cpu")
    pointed = np.load(tmp_path / "sheets" / "a.npz")["pointed"]
    assert np.argwhere(pointed).tolist() == [[0, 60, 10]]


@pytest.mark.parametrize("at", [(47, 5), (5, 33), (-1, 5), (5, -1), (200, 200)], ids=str)
def test_a_pixel_outside_one_of_the_images_is_found_before_anything_is_written(
    pointing: MakeRun, photos: Path, tmp_path: Path, at: tuple[int, int]
) -> None:
    images = [photos / "b.bmp"] if min(at) < 0 else [photos / "a.png", photos / "b.bmp"]
    message = (
        rf"at x={at[0]}, y={at[1]}: expected x from 0 to \d+ and y from 0 to \d+, a pixel of this image of \d+x\d+$"
    )
    file = r"a\.png" if max(at) == 200 else r"b\.bmp"
    with pytest.raises(InputError, match=f"{file}: {message}"):
        explain(pointing(), images, out=tmp_path / "sheets", at=at, device="cpu")
    assert not (tmp_path / "sheets").exists()
    explain(pointing(), images, out=tmp_path / "sheets", at=(46, 32), device="cpu")


def test_names_that_exist_with_a_pixel_are_known_with_it(pointing: MakeRun, photos: Path, tmp_path: Path) -> None:
    run, out = pointing(), tmp_path / "sheets"
    choice: dict[str, Any] = {"images": photos / "a.png", "out": out, "maps": True, "device": "cpu"}
    with pytest.raises(InputError, match=r"^names pointed: expected some of regions, bright; with at pointed too$"):
        explain(run, names=["pointed"], **choice)
    with pytest.raises(InputError, match=r"^names no: expected some of regions, bright, pointed$"):
        explain(run, names=["no"], at=(1, 2), **choice)
    assert not out.exists()
    explain(run, names=["pointed", "regions"], at=(1, 2), **choice)
    assert list(np.load(out / "a.npz")) == ["pointed", "regions"]
    explain(run, at=(1, 2), overwrite=True, **choice)
    assert list(np.load(out / "a.npz")) == ["regions", "bright", "pointed"]


def test_the_chosen_pixel_is_ringed_on_the_image_and_on_its_own_map(
    pointing: MakeRun, photos: Path, tmp_path: Path
) -> None:
    run = pointing()

    def sheet(out: str, names: list[str], at: tuple[int, int] | None) -> NDArray[Any]:
        [path] = explain(run, photos / "a.png", out=tmp_path / out, names=names, at=at, device="cpu")
        return np.asarray(Image.open(path)).astype(int)[:, :900]  # without the notes

    without = sheet("without", ["regions"], None)
    general, own = sheet("general", ["regions"], (60, 5)), sheet("own", ["pointed"], (60, 5))
    heading = 450
    changed = np.argwhere((general != without).any(axis=-1))
    assert len(changed) > 100
    assert changed[:, 0].max() < heading
    assert np.ptp(changed, axis=0).max() < 22
    left = MARGIN + WIDE + 12  # of the map alone, which is black but for the ring and what is in it
    top = heading + np.flatnonzero(own[heading:, left + 5].max(axis=-1) < 10).min()
    ring = np.argwhere(own[top : top + WIDE * 48 // 64, left : left + WIDE].min(axis=-1) > 240)
    assert ring.mean(axis=0) == pytest.approx((WIDE / 64 * 5.5, WIDE / 64 * 60.5), abs=1)


@pytest.mark.parametrize(
    ("model", "count"),
    [("ocnet", 1), ("ranet", 1), ("fpt", 4 + 3 + 2 + 1), ("pan", 1 + 3), ("agln", 1 + 2 + 3)],
    ids=lambda value: str(value),
)
def test_what_networks_tell_of_a_single_pixel_is_drawn(
    make_run: MakeRun, photos: Path, tmp_path: Path, model: str, count: int
) -> None:
    draws_what_there_is_of_a_pixel(make_run(model), photos, tmp_path, count)


@pytest.mark.parametrize(("neck", "count"), [("fpn", 4 + 3 + 2 + 1), ("fpt", 4 + 3 + 2 + 1)])
def test_a_detector_draws_its_pyramid_and_what_it_tells_of_a_single_pixel(
    photos: Path, tmp_path: Path, neck: str, count: int
) -> None:
    network: DetectionNetwork = segweave.create_model(
        "mask_rcnn", num_classes=1, backbone="test_resnet", **narrow(neck=neck)
    )
    network.labelling = Labelling(("nucleus",), ((200, 0, 0),), category_ids=(1,))
    save_model(network, tmp_path / "run" / "model")
    draws_what_there_is_of_a_pixel(tmp_path / "run", photos, tmp_path, count)


def draws_what_there_is_of_a_pixel(run: Path, photos: Path, tmp_path: Path, count: int) -> None:
    """Holds sheets with a pixel against those without: as many maps as `count` are added, of one channel each."""
    explain(run, photos, out=tmp_path / "with", at=(46, 32), maps=True, device="cpu")
    explain(run, photos, out=tmp_path / "without", maps=True, device="cpu")
    for name in ("a", "b"):
        with_pixel, without = (dict(np.load(tmp_path / out / f"{name}.npz")) for out in ("with", "without"))
        added = set(with_pixel) - set(without)
        assert len(added) == count
        for looked_at in (with_pixel[one] for one in added):
            assert looked_at.shape[0] == 1
            assert looked_at.min() >= 0
            assert looked_at.max() > 0
        assert Image.open(tmp_path / "with" / f"{name}.png").height > 300


@pytest.mark.parametrize("model", ["pspnet", "deeplabv3", "ufp"])
def test_a_network_without_attention_of_single_pixels_refuses_one(
    make_run: MakeRun, photos: Path, tmp_path: Path, model: str
) -> None:
    with pytest.raises(InputError, match=f"^at x=1, y=2: {model}.* has no attention of single pixels: expected no at"):
        explain(make_run(model), photos, out=tmp_path / "sheets", at=(1, 2), device="cpu")
    assert not (tmp_path / "sheets").exists()


def test_a_network_that_explains_single_pixels_only_needs_one(pointing: MakeRun, photos: Path, tmp_path: Path) -> None:
    run = pointing(general=False)
    with pytest.raises(InputError, match="pointing with general=False explains single pixels only: expected at"):
        explain(run, photos, out=tmp_path / "sheets", device="cpu")
    assert not (tmp_path / "sheets").exists()
    assert len(explain(run, photos, out=tmp_path / "sheets", at=(1, 2), device="cpu")) == 2


def test_no_image_is_decoded_where_one_has_no_such_pixel(
    pointing: MakeRun, photos: Path, tmp_path: Path, decoded: list[str]
) -> None:
    with pytest.raises(InputError, match=r"b\.bmp: at x=50, y=40"):
        explain(pointing(), photos, out=tmp_path / "sheets", at=(50, 40), device="cpu")
    assert decoded == []
