"""`explain`: a sheet for each image, of the maps that the network itself gives for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import segweave
from segweave.commands.explain import explain
from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.models import NETWORKS
from segweave.networks.backbones import Backbone
from segweave.networks.layers import resize_to
from segweave.networks.network import Labelling, SegmentationNetwork
from segweave.reports.explanation import MARGIN
from segweave.reports.map_rows import WIDE
from segweave.saving import save_model
from tests.pictures import picture

CLASSES = ("road", "tree", "sky")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
OPTIONS: dict[str, dict[str, Any]] = {
    "fcn": {},
    "fpn": {"channels": 16, "head_channels": 16},
    "pspnet": {},
    "deeplabv3": {"context_channels": 16},
    "ocnet": {"channels": 16, "key_channels": 8},
    "ranet": {"channels": 16, "representatives": 2},
    "ufp": {"channels": 8, "head_channels": 16},
    "fpt": {"channels": 8, "head_channels": 16},
    "pan": {"decoder_channels": 16},
    "agln": {"channels": 16, "head_channels": 16, "descriptors": 4},
}
EXPLAINING = ("pspnet", "deeplabv3", "ocnet", "ufp", "pan", "agln", "ranet", "fpt")
PAN_NAMES = ["attention", "gate_res4", "gate_res3", "gate_res2"]

MakeRun = Callable[..., Path]


class Pointing(SegmentationNetwork):
    """Its maps are of its images' own size, and tell which pixel it was given.

    Args:
        general: Whether there are maps where no pixel is chosen.
    """

    def __init__(self, *, backbone: Backbone, num_classes: int, general: bool = True) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.general = general
        self.head = nn.Conv2d(3, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        brightness = images.mean(dim=1, keepdim=True)
        explained = {"regions": (4 * brightness).round().long(), "bright": brightness > 0} if self.general else {}
        if at is not None:
            explained["pointed"] = torch.zeros_like(brightness)
            explained["pointed"][..., at[1], at[0]] = 1
        return explained


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(model: str, short_edge: int | None = None, **options: Any) -> Path:
        network = segweave.create_model(
            model, num_classes=len(CLASSES), backbone="test_resnet", **OPTIONS.get(model, {}), **options
        )
        network.labelling = Labelling(CLASSES, PALETTE, short_edge)
        folder = tmp_path_factory.mktemp(model)
        save_model(network, folder / "model")
        return folder

    return make


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Path:
    return make_run("pan")


@pytest.fixture
def pointing(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Makes runs of the network that points at pixels."""
    monkeypatch.setitem(NETWORKS, "pointing", Pointing)
    return lambda **arguments: make_run("pointing", **arguments)


@pytest.mark.parametrize("model", EXPLAINING)
def test_every_network_that_explains_gets_sheets_and_its_own_maps(
    make_run: MakeRun, photos: Path, tmp_path: Path, model: str
) -> None:
    run = make_run(model)
    out = tmp_path / "new" / "sheets"
    written = explain(run, photos, out=out, maps=True, device="cpu")
    assert written == [out / "a.png", out / "b.png"]
    assert {path.name for path in out.iterdir()} == {"a.png", "a.npz", "b.png", "b.npz"}
    network = segweave.load(run)
    for sheet, source in zip(written, ("a.png", "b.bmp"), strict=True):
        assert Image.open(sheet).format == "PNG"
        pixels = torch.from_numpy(np.array(Image.open(photos / source))).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = network.explain(normalise(pixels, network.backbone.mean, network.backbone.std))
        maps = np.load(sheet.with_suffix(".npz"))
        assert list(maps) == list(expected)
        for name, values in expected.items():
            assert maps[name].dtype == values.numpy().dtype
            np.testing.assert_allclose(maps[name], values[0].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_image_is_seen_as_in_evaluation(make_run: MakeRun, photos: Path, tmp_path: Path) -> None:
    run = make_run("pan", short_edge=96)
    explain(run, photos / "a.png", out=tmp_path / "sheets", maps=True, device="cpu")
    network = segweave.load(run)
    pixels = torch.from_numpy(picture(48, 64)).permute(2, 0, 1)[None]
    seen = resize_to(normalise(pixels, network.backbone.mean, network.backbone.std), (96, 128))
    with torch.no_grad():
        expected = network.explain(seen)["attention"][0]
    attention = np.load(tmp_path / "sheets" / "a.npz")["attention"]
    assert attention.shape == expected.shape == (1, 6, 8)
    np.testing.assert_allclose(attention, expected.numpy(), rtol=1e-2, atol=1e-3)


def test_sheets_of_different_images_differ_and_of_one_image_are_equal(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        Image.fromarray(picture(48, 64, seed)).save(folder / f"{name}.png")
    first = explain(run, folder, out=tmp_path / "first", device="cpu")
    second = explain(run, folder, out=tmp_path / "second", device="cpu")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() != first[1].read_bytes()


def test_names_choose_maps_and_their_order(run: Path, photos: Path, tmp_path: Path) -> None:
    names = ["gate_res3", "attention", "gate_res3"]
    [chosen] = explain(run, photos / "a.png", out=tmp_path / "chosen", names=names, maps=True, device="cpu")
    [every] = explain(run, photos / "a.png", out=tmp_path / "every", maps=True, device="cpu")
    assert list(np.load(chosen.with_suffix(".npz"))) == ["gate_res3", "attention"]
    assert list(np.load(every.with_suffix(".npz"))) == PAN_NAMES
    assert Image.open(chosen).height < Image.open(every).height


@pytest.mark.parametrize(("names", "shown"), [(["attention", "gate"], "names gate: "), ([], "names of no map: ")])
def test_unknown_names_are_told_with_the_known_ones(
    run: Path, photos: Path, tmp_path: Path, names: list[str], shown: str
) -> None:
    with pytest.raises(
        InputError, match=f"{shown}expected some of {', '.join(PAN_NAMES)}; with at attention_at, .* too$"
    ):
        explain(run, photos, out=tmp_path / "sheets", names=names, device="cpu")
    assert not (tmp_path / "sheets").exists()


@pytest.mark.parametrize(
    ("model", "options", "described"),
    [
        ("fcn", {}, "fcn"),
        ("fpn", {}, "fpn with channels=16, head_channels=16"),
        ("pan", {"attention": None, "global_context": False}, "pan with .*attention=None, global_context=False"),
    ],
    ids=["fcn", "fpn", "pan"],
)
def test_a_network_that_explains_nothing_is_refused(
    make_run: MakeRun, photos: Path, tmp_path: Path, model: str, options: dict[str, Any], described: str
) -> None:
    run = make_run(model, **options)
    expected = rf"{run}: {described} explains nothing: expected one that does: {', '.join(EXPLAINING)}"
    with pytest.raises(InputError, match=expected):
        explain(run, photos, out=tmp_path / "sheets", device="cpu")
    assert not (tmp_path / "sheets").exists()


def test_maps_are_written_only_if_asked_for(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheets"
    out.mkdir()
    (out / "a.npz").write_text("precious")
    explain(run, photos / "a.png", out=out, device="cpu")
    assert {path.name for path in out.iterdir()} == {"a.png", "a.npz"}
    assert (out / "a.npz").read_text() == "precious"


@pytest.mark.parametrize("existing", ["b.png", "b.npz"])
def test_existing_files_are_not_overwritten(run: Path, photos: Path, tmp_path: Path, existing: str) -> None:
    out = tmp_path / "sheets"
    out.mkdir()
    (out / existing).write_text("precious")
    with pytest.raises(InputError, match=f"{existing}: exists already"):
        explain(run, photos, out=out, maps=True, device="cpu")
    assert [path.name for path in out.iterdir()] == [existing]
    assert (out / existing).read_text() == "precious"
    explain(run, photos, out=out, maps=True, device="cpu", overwrite=True)
    assert (out / existing).read_bytes() != b"precious"
    assert len(list(out.iterdir())) == 4


def test_an_image_is_never_replaced_by_its_sheet(run: Path, photos: Path) -> None:
    before = (photos / "a.png").read_bytes()
    with pytest.raises(InputError, match=r"a\.png: an image would be replaced"):
        explain(run, photos, out=photos, overwrite=True, device="cpu")
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.parametrize("broken", ["notes.txt", "missing.png"])
def test_an_image_that_cannot_be_read_is_found_before_anything_is_written(
    run: Path, photos: Path, tmp_path: Path, broken: str
) -> None:
    with pytest.raises(InputError, match=broken):
        explain(run, [photos / "a.png", photos / broken], out=tmp_path / "sheets", device="cpu")
    assert not (tmp_path / "sheets").exists()


def test_a_folder_without_a_model_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the folder of a run"):
        explain(tmp_path, photos, out=tmp_path / "sheets", device="cpu")


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


def test_maps_of_integers_and_booleans_are_written_as_they_are(pointing: MakeRun, photos: Path, tmp_path: Path) -> None:
    run = pointing()
    [sheet] = explain(run, photos / "a.png", out=tmp_path / "sheets", maps=True, device="cpu")
    maps, network = np.load(sheet.with_suffix(".npz")), segweave.load(run)
    pixels = torch.from_numpy(picture(48, 64)).permute(2, 0, 1)[None]
    expected = network.explain(normalise(pixels, network.backbone.mean, network.backbone.std))
    assert {name: values.dtype for name, values in maps.items()} == {"regions": np.int64, "bright": np.bool_}
    for name, values in expected.items():
        assert len(np.unique(maps[name])) > 1
        assert np.array_equal(maps[name], values[0].numpy()), name


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
    ("model", "count"), [("ocnet", 1), ("ranet", 1), ("fpt", 4 + 3 + 2 + 1)], ids=lambda value: str(value)
)
def test_networks_with_attention_of_single_pixels_draw_it(
    make_run: MakeRun, photos: Path, tmp_path: Path, model: str, count: int
) -> None:
    run = make_run(model)
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


@pytest.mark.parametrize("maps", [False, True])
def test_each_image_is_decoded_once(
    make_run: MakeRun, photos: Path, tmp_path: Path, decoded: list[str], maps: bool
) -> None:
    explain(make_run("ocnet"), photos, out=tmp_path / "sheets", at=(46, 32), maps=maps, device="cpu")
    assert sorted(decoded) == ["a.png", "b.bmp"]


def test_no_image_is_decoded_where_one_has_no_such_pixel(
    pointing: MakeRun, photos: Path, tmp_path: Path, decoded: list[str]
) -> None:
    with pytest.raises(InputError, match=r"b\.bmp: at x=50, y=40"):
        explain(pointing(), photos, out=tmp_path / "sheets", at=(50, 40), device="cpu")
    assert decoded == []


def test_a_network_that_explains_nothing_is_called_the_network(photos: Path, tmp_path: Path) -> None:
    network = segweave.create_model("fcn", num_classes=len(CLASSES), backbone="test_resnet")
    network.labelling = Labelling(CLASSES, PALETTE)
    with pytest.raises(InputError, match=r"^the network: fcn explains nothing: "):
        explain(network, photos, out=tmp_path / "sheets", device="cpu")
