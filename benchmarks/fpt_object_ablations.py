"""FPT's Table 1 on `shapes`: every row over several seeds, AP of boxes and masks, mean and spread beside the paper's.

    python benchmarks/fpt_object_ablations.py [--seeds 0 1 2 --out runs/fpt-objects --processes 2 --pairs --necks]

`--pairs` adds the table's rows with two transformers, `--necks` FPN and PANet's bottom-up path (Table 3), `--levels`
the 3x3 convolution of a transformed level without any transformer, and what may follow it. All rows are Mask R-CNNs
with the same backbone (timm's smallest ResNet), 300 steps of 4 images, and levels of 64 channels, for a CPU. As in the
paper (Section 4.1), the backbone is trained first and then frozen: here as that of an FCN on the same images, once for
each seed. `--trained` trains the backbone with each row instead, from random weights. DropBlock is left out: its
squares of 5 positions are 20 pixels of 96 at the finest level, as large as the objects, and all of the coarsest. Runs
that are there already are read, not trained again. The paper's figures are for MS-COCO val2017 and ResNet-50, Table 3's
for test-dev and ResNet-101.
"""

import math
from typing import Any

from ablations import SETTINGS, Row, last_figure, parse_arguments, print_table, train_on_frozen_backbones, train_rows

SMALL_BACKBONE = {**SETTINGS, "backbone": "test_resnet"}
OBJECT_SETTINGS: dict[str, Any] = {
    **{name: value for name, value in SMALL_BACKBONE.items() if name != "crop_size"},
    "short_edge": 96,
    "long_edge": 120,
    "scale_range": (0.8, 1.25),
    "batch_size": 4,
    "epochs": 2,
}
NARROW = {"channels": 64, "head_channels": 256, "rois_per_image": 32, "training_proposals": (300, 300)}
WITHOUT = {"st": {"self_transformer": False}, "gt": {"grounding": "none"}, "rt": {"rendering": False}}


def _row(
    title: str, paper: tuple[float, float], name: str, neck: str = "fpt", without: str = "", **more: Any
) -> tuple[Row, Row]:
    """The same run, beside the paper's box AP and beside its mask AP."""
    left_out = {option: value for part in without.split() for option, value in WITHOUT[part].items()}
    options = {**NARROW, "neck": neck, **left_out, **({"keep_probability": 1} if neck == "fpt" else {}), **more}
    boxes, masks = (Row(title, ap, name, "mask_rcnn", options) for ap in paper)
    return boxes, masks


TABLE_1 = [
    _row("BFP", (31.6, 29.9), "bfp", "bfp"),
    _row("+ST", (32.0, 30.6), "st", without="gt rt"),
    _row("+GT", (35.1, 33.9), "gt", without="st rt"),
    _row("+RT", (34.7, 33.1), "rt", without="st gt"),
    _row("+ST+GT+RT", (38.0, 36.8), "fpt"),
]
PAIRS = [
    _row("+ST+GT", (35.7, 34.6), "st-gt", without="rt"),
    _row("+ST+RT", (35.9, 34.4), "st-rt", without="gt"),
    _row("+GT+RT", (36.9, 35.1), "gt-rt", without="st"),
]
NECKS = [
    _row("BFP", (33.1, 32.6), "bfp", "bfp"),
    _row("BFP+FPN", (36.2, 35.7), "fpn", "fpn"),
    _row("BFP+BPA", (37.3, 36.3), "bpa", "bpa"),
    _row("BFP+FPT", (41.6, 38.6), "fpt"),
]
UNKNOWN = (math.nan, math.nan)
LEVELS = [
    _row("BFP", UNKNOWN, "bfp", "bfp"),
    _row("the convolution alone", UNKNOWN, "convolution", without="st gt rt"),
    _row("+ST+GT+RT", UNKNOWN, "fpt"),
    _row("+ST+GT+RT, DropBlock", UNKNOWN, "fpt-dropblock", keep_probability=0.9),
    _row("+ST+GT+RT, batch norm and ReLU", UNKNOWN, "fpt-activated", activated_levels=True),
]


def main() -> None:
    flags = ("pairs", "necks", "levels", "trained")
    arguments = parse_arguments(__doc__, "runs/fpt-objects", OBJECT_SETTINGS, flags=flags)
    tables = {"Table 1: transformers": TABLE_1 + (PAIRS if arguments.pairs else [])}
    if arguments.necks:
        tables["Table 3: pyramids"] = NECKS
    if arguments.levels:
        tables["After the 3x3 convolution"] = LEVELS
    rows = [row for table in tables.values() for row, _ in table]
    if arguments.trained:
        runs = train_rows(rows, arguments)
    else:
        runs = train_on_frozen_backbones(rows, arguments, SMALL_BACKBONE)
    for title, table in tables.items():
        for kind, figure, number in (("boxes", "val/box_ap", 0), ("masks", "val/mask_ap", 1)):
            scores = {key: last_figure(run, figure) for key, run in runs.items()}
            print_table(f"{title}, AP of {kind}", [row[number] for row in table], scores, arguments.seeds)


if __name__ == "__main__":
    main()
