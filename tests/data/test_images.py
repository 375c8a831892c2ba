"""Pictures and masks of every kind that users have, made as small as they can be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from segweave.data.images import image_size, list_images, read_image, read_mask, to_rgb
from segweave.errors import InputError

RED, BLUE = (200, 10, 20), (10, 20, 200)


def picture(height: int = 4, width: int = 6) -> Image.Image:
    """The left half red, the right half blue."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left half comes to the top
    picture(32, 64).save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "turned.jpg")
    assert image.size == (32, 64)
    np.testing.assert_allclose(image.getpixel((16, 8)), RED, atol=6)
    np.testing.assert_allclose(image.getpixel((16, 56)), BLUE, atol=6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes_keep_their_colours(mode: str) -> None:
    converted = to_rgb(picture().quantize(2) if mode == "P" else picture().convert(mode))
    assert converted.mode == "RGB"
    np.testing.assert_allclose(np.asarray(converted), np.asarray(picture()), atol=1)


def test_alpha_is_dropped_not_blended() -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(picture()))


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    picture().quantize(2).save(tmp_path / "a.png", transparency=b"\x00\x80")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(picture()))


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 77, 77), ("LA", (77, 3), 77), ("1", 1, 255)])
def test_grey_modes(mode: str, value: int | tuple[int, int], expected: int) -> None:
    assert to_rgb(Image.new(mode, (2, 2), value)).getpixel((1, 1)) == (expected,) * 3


def test_sixteen_bits_keep_their_full_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values.astype(">u2")).save(tmp_path / "deep.tif")
    for image in (read_image(tmp_path / "deep.png"), read_image(tmp_path / "deep.tif")):
        np.testing.assert_array_equal(np.asarray(image)[0, :, 0], [0, 1, 128, 255])
    np.testing.assert_array_equal(
        np.asarray(to_rgb(Image.fromarray(values.astype(np.int32))))[0, :, 1], [0, 1, 128, 255]
    )


def test_what_has_no_8_bit_counterpart_is_refused(tmp_path: Path) -> None:
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif: a floating-point image"):
        read_image(tmp_path / "float.tif")
    with pytest.raises(InputError, match="to 70000"):
        to_rgb(Image.new("I", (2, 2), 70000))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "ppm", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=rf"cut\.{suffix}: ") as error:
        read_image(path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=rf"cut\.{suffix}: "):
        read_mask(path)


def test_missing_empty_and_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    for name, cause in (("none.png", "no such file"), ("empty.png", "an empty file"), ("text.png", "not an image")):
        for read in (read_image, image_size):
            with pytest.raises(InputError, match=f"{name}: {cause}"):
                read(tmp_path / name)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="a folder"):
            read(tmp_path)


def test_masks_keep_their_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [11, 204, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    indexed = Image.fromarray(values)
    indexed.putpalette([(7 * k) % 256 for k in range(768)])
    assert indexed.mode == "P"
    indexed.save(tmp_path / "indexed.png")
    Image.fromarray(np.repeat(values[..., None], 3, axis=-1)).save(tmp_path / "rgb.png")
    Image.fromarray(values).convert("LA").save(tmp_path / "alpha.png")
    for name in ("grey", "indexed", "rgb", "alpha"):
        mask = read_mask(tmp_path / f"{name}.png")
        assert mask.dtype == np.int64
        np.testing.assert_array_equal(mask, values)


def test_one_bit_and_sixteen_bit_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    Image.fromarray(np.array([[3, 1000]], dtype=np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), [[1, 0]])
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), [[3, 1000]])


def test_colour_masks_are_looked_up(tmp_path: Path) -> None:
    picture(2, 4).save(tmp_path / "mask.png")
    palette = [(255, 255, 255), BLUE, RED]
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", palette), [[2, 2, 1, 1]] * 2)
    picture(2, 4).convert("RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "alpha.png", palette), [[2, 2, 1, 1]] * 2)


def test_unknown_colours_are_named_with_their_place(tmp_path: Path) -> None:
    mask = picture(2, 4)
    mask.putpixel((3, 1), (255, 255, 254))
    mask.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: colour \(255, 255, 254\) at x=3, y=1: expected .* 2 colours"):
        read_mask(tmp_path / "mask.png", [RED, BLUE])
    with pytest.raises(InputError, match=r"mask\.png: .*palette in dataset\.yaml"):
        read_mask(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"0 and 2 have the same colour \(200, 10, 20\)"):
        read_mask(tmp_path / "mask.png", [RED, BLUE, RED])


def test_list_images_sorts_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.tiff", "notes.txt", "._a.png"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")


def save_turned(path: Path, orientation: int) -> None:
    """A picture of 64 by 32 pixels that is to be turned as its EXIF orientation says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".tif":
        picture(32, 64).save(path, tiffinfo={0x0112: orientation})
    else:
        picture(32, 64).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_picture_as_it_is_read(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    save_turned(path, orientation)
    assert image_size(path) == read_image(path).size == ((64, 32) if orientation < 5 else (32, 64))


def test_an_orientation_behind_a_png_files_pixels_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_turned(path, 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    assert start < content.index(b"IDAT"), "where Pillow writes it"
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert image_size(path) == read_image(path).size == (32, 64)


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "gif"])
def test_sizes_of_formats_without_an_orientation(tmp_path: Path, suffix: str) -> None:
    picture(32, 64).save(tmp_path / f"a.{suffix}")
    assert image_size(tmp_path / f"a.{suffix}") == (64, 32)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
def test_the_size_needs_no_pixels(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    if suffix != "tif":  # Pillow writes what describes its pixels behind them
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.3)])
        with pytest.raises(InputError):
            read_image(path)

    def decode(self: ImageFile.ImageFile) -> None:
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert image_size(path) == (96, 64)
