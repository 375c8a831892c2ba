"""The README's picture: images of `shapes`, what FCN and PAN make of them, and the truth.

make demo && python benchmarks/demo_picture.py [--runs runs/demo --out docs/pictures/demo.png]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segweave import load, segment
from segweave.reports.lettering import legend
from segweave.reports.pictures import colour_mask
from segweave.segmentation.shapes import ShapesSegmentationDataset

INDICES = (0, 1, 8, 12)
SCALE = 2
GAP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/demo.png"))
    arguments = parser.parse_args()
    dataset = ShapesSegmentationDataset("val")
    networks = {name: load(arguments.runs / name) for name in ("fcn", "pan")}
    columns = []
    for index in INDICES:
        image, mask = dataset[index]
        masks = [segment(network, image).mask for network in networks.values()]
        pictures = [image.permute(1, 2, 0).numpy(), *(colour_mask(m, dataset.palette) for m in (*masks, mask.numpy()))]
        columns.append(
            [Image.fromarray(np.kron(picture, np.ones((SCALE, SCALE, 1), np.uint8))) for picture in pictures]
        )
    width, height = columns[0][0].size
    names = legend(list(zip(dataset.classes, dataset.palette, strict=True)), len(columns) * (width + GAP))
    sheet = Image.new("RGB", (80 + len(columns) * (width + GAP), 4 * (height + GAP) + names.height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for row, title in enumerate(("image", "FCN", "PAN", "truth")):
        draw.text((10, row * (height + GAP) + height // 2 - 10), title, fill="black", font=font)
        for column, pictures in enumerate(columns):
            sheet.paste(pictures[row], (80 + column * (width + GAP), row * (height + GAP)))
    sheet.paste(names, (80, 4 * (height + GAP)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
