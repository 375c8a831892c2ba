"""`explain`: a sheet for each image, of the maps that the network itself gives for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segweave
from segweave.commands.explain import explain
from segweave.data.transforms import normalise
from segweave.errors import InputError
from segweave.networks.layers import resize_to
from segweave.networks.network import Labelling
from tests.commands.explaining import CLASSES, PALETTE, MakeRun
from tests.pictures import picture

EXPLAINING = ("pspnet", "deeplabv3", "ocnet", "ufp", "pan", "agln", "ranet", "fpt")
PAN_NAMES = ["attention", "gate_res4", "gate_res3", "gate_res2"]


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Path:
    return make_run("pan")


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


@pytest.mark.parametrize("maps", [False, True])
def test_each_image_is_decoded_once(
    make_run: MakeRun, photos: Path, tmp_path: Path, decoded: list[str], maps: bool
) -> None:
    explain(make_run("ocnet"), photos, out=tmp_path / "sheets", at=(46, 32), maps=maps, device="cpu")
    assert sorted(decoded) == ["a.png", "b.bmp"]


def test_a_network_that_explains_nothing_is_called_the_network(photos: Path, tmp_path: Path) -> None:
    network = segweave.create_model("fcn", num_classes=len(CLASSES), backbone="test_resnet")
    network.labelling = Labelling(CLASSES, PALETTE)
    with pytest.raises(InputError, match=r"^the network: fcn explains nothing: "):
        explain(network, photos, out=tmp_path / "sheets", device="cpu")
