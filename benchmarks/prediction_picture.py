"""What several networks make of the same images: their masks in colour, a row for each, and the legend.

    python benchmarks/prediction_picture.py RUN RUN ... --images FILE FILE ... --out PICTURE.png

The images themselves are not drawn, so that the picture can go where they may not.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segweave import load, segment
from segweave.networks.semantic import Labelling
from segweave.reports.pictures import colour_mask, legend

WIDTH = 320
GAP = 8
TITLE_WIDTH = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    networks = [load(run) for run in arguments.runs]
    labelling = networks[0].labelling
    assert isinstance(labelling, Labelling)
    rows = [[segment(network, image).mask for image in arguments.images] for network in networks]
    height = max(WIDTH * mask.shape[0] // mask.shape[1] for mask in rows[0])
    names = legend(labelling.classes, labelling.palette, len(arguments.images) * (WIDTH + GAP))
    sheet = Image.new("RGB", (TITLE_WIDTH + names.width, len(rows) * (height + GAP) + names.height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for row, (network, masks) in enumerate(zip(networks, rows, strict=True)):
        top = row * (height + GAP)
        draw.text((10, top + height // 2 - 10), network.recipe["model"].upper(), fill="black", font=font)
        for column, mask in enumerate(masks):
            picture = Image.fromarray(np.asarray(colour_mask(mask, labelling.palette)))
            picture = picture.resize((WIDTH, WIDTH * mask.shape[0] // mask.shape[1]), Image.Resampling.NEAREST)
            sheet.paste(picture, (TITLE_WIDTH + column * (WIDTH + GAP), top))
    sheet.paste(names, (TITLE_WIDTH, len(rows) * (height + GAP)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
