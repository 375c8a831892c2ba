"""FPT's Table 4, and Table 5's pyramids, on `shapes`: every row over several seeds, mean and spread beside the paper's.

    python benchmarks/fpt_ablations.py [--seeds 0 1 2 --out runs/fpt --processes 2 --precision bf16-mixed]

`--table5` adds the rows of Table 5, `--distances` whether squared distances are divided by the root of a part's
channels (`distance_scaling`), `--levels` whether batch norm and ReLU follow the 3x3 convolution of a transformed level
(`activated_levels`).

As in the paper (Section 4.2), the backbone is trained first and then frozen: here as that of an FCN on the same images,
once for each seed. All rows have the same backbone (timm's smallest ResNet), steps, batches and seeds, levels of 32
channels and a head of 64, for a CPU. `--trained` trains the backbone with each row instead, from random weights. Runs
that are there already are read, not trained again. The paper's figures are for Cityscapes and ResNet-101: Table 4 for
its validation split, Table 5 for test.
"""

import math
from typing import Any

from ablations import SETTINGS, Row, mean_iou, parse_arguments, print_table, train_on_frozen_backbones, train_rows

SMALL_BACKBONE = {**SETTINGS, "backbone": "test_resnet"}
NARROW = {"channels": 32, "head_channels": 64}


def _fpt(title: str, paper: float, name: str, **options: Any) -> Row:
    return Row(title, paper, name, "fpt", {**NARROW, **options})


def _ufp(title: str, paper: float, name: str, **options: Any) -> Row:
    return Row(title, paper, name, "ufp", {**NARROW, **options})


LGT = {"self_transformer": False, "rendering": False}
FULL = _fpt("UFP+LGT+ST+RT", 81.7, "fpt")
TABLE_4 = [
    _ufp("UFP", 79.1, "ufp"),
    _fpt("UFP+ST", 80.7, "st", grounding="none", rendering=False),
    _fpt("UFP+LGT", 80.3, "lgt", **LGT),
    _fpt("UFP+RT", 80.1, "rt", self_transformer=False, grounding="none"),
    _fpt("UFP+LGT+ST", 80.9, "lgt-st", rendering=False),
    _fpt("UFP+RT+ST", 80.8, "rt-st", grounding="none"),
    _fpt("UFP+LGT+RT", 80.4, "lgt-rt", self_transformer=False),
    FULL,
]
TABLE_5 = [
    _ufp("PPM+OC", 79.9, "ppm-oc", pyramid="ppm", object_context=True),
    _ufp("ASPP+OC", 80.0, "aspp-oc", pyramid="aspp", object_context=True),
    _ufp("UFP+OC", 80.6, "ufp-oc", object_context=True),
    _fpt("PPM+FPT", 80.4, "ppm-fpt", pyramid="ppm"),
    _fpt("ASPP+FPT", 80.7, "aspp-fpt", pyramid="aspp"),
    Row("UFP+FPT", 82.2, FULL.name, FULL.model, FULL.options),
]
DISTANCES = [
    _fpt("as printed", 81.7, FULL.name),
    _fpt("divided by the root of a part's channels", 81.7, "fpt-divided", distance_scaling="square_root"),
    _fpt("LGT alone, as printed", 80.3, "lgt", **LGT),
    _fpt("LGT alone, divided", 80.3, "lgt-divided", **LGT, distance_scaling="square_root"),
]
LEVELS = [
    FULL,
    _fpt("without batch norm and ReLU, as printed", math.nan, "fpt-plain", activated_levels=False),
]


def main() -> None:
    flags = ("table5", "distances", "levels", "trained")
    arguments = parse_arguments(__doc__, "runs/fpt", SMALL_BACKBONE, flags=flags)
    tables = {"Table 4: transformers": TABLE_4}
    if arguments.table5:
        tables["Table 5: pyramids"] = TABLE_5
    if arguments.distances:
        tables["Distances of Eq. 4"] = DISTANCES
    if arguments.levels:
        tables["After the 3x3 convolution"] = LEVELS
    rows = [row for rows in tables.values() for row in rows]
    runs = train_rows(rows, arguments) if arguments.trained else train_on_frozen_backbones(rows, arguments)
    scores = {key: mean_iou(run) for key, run in runs.items()}
    for title, table_rows in tables.items():
        print_table(title, table_rows, scores, arguments.seeds)


if __name__ == "__main__":
    main()
