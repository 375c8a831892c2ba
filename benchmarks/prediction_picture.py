"""What several networks make of the same images: their masks in colour, a row for each, and the legend.

    python benchmarks/prediction_picture.py RUN RUN ... --images FILE FILE ... --out PICTURE.png [--regions]

`--regions` adds what RANet's masks come from: its boundaries, and its regions with their representatives as dots.

The images themselves are not drawn, so that the picture can go where they may not.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segweave import explain, load, segment
from segweave.networks.network import Labelling
from segweave.reports.lettering import legend
from segweave.reports.pictures import colour_mask, dotted, heat_colours
from segweave.reports.region_pictures import region_colours

WIDTH = 320
GAP = 8
TITLE_WIDTH = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regions", action="store_true")
    arguments = parser.parse_args()
    labelling = load(arguments.runs[0]).labelling
    assert isinstance(labelling, Labelling)
    rows = []
    for run in arguments.runs:
        network = load(run)
        masks = [segment(network, image).mask for image in arguments.images]
        rows.append(
            (network.recipe["model"].upper(), [_picture(colour_mask(mask, labelling.palette)) for mask in masks])
        )
        if arguments.regions:
            rows += _rows_of_regions(run, arguments.images, [picture.size for picture in rows[-1][1]])
    height = max(picture.height for _, pictures in rows for picture in pictures)
    entries = list(zip(labelling.classes, labelling.palette, strict=True))
    names = legend(entries, len(arguments.images) * (WIDTH + GAP))
    sheet = Image.new("RGB", (TITLE_WIDTH + names.width, len(rows) * (height + GAP) + names.height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for row, (title, pictures) in enumerate(rows):
        top = row * (height + GAP)
        draw.text((10, top + height // 2 - 10), title, fill="black", font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (TITLE_WIDTH + column * (WIDTH + GAP), top))
    sheet.paste(names, (TITLE_WIDTH, len(rows) * (height + GAP)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)
    print(arguments.out)


def _rows_of_regions(
    run: Path, images: Sequence[Path], sizes: Sequence[tuple[int, int]]
) -> list[tuple[str, list[Image.Image]]]:
    names = ("boundaries", "regions", "representatives")
    with TemporaryDirectory() as folder:
        explain(run, images, out=folder, names=names, maps=True)
        found = [dict(np.load(Path(folder) / f"{image.stem}.npz")) for image in images]
    boundaries, regions = [], []
    for one, size in zip(found, sizes, strict=True):
        boundaries.append(Image.fromarray(heat_colours(one["boundaries"][0], size)))
        regions.append(Image.fromarray(dotted(region_colours(one["regions"][0], size), one["representatives"][0])))
    return [("borders", boundaries), ("regions", regions)]


def _picture(coloured: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(np.asarray(coloured))
    return picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
