"""AGLN's Tables IV, V and VII on `shapes`: every row over several seeds, mean and spread beside the paper's figure.

    python benchmarks/agln_ablations.py [--seeds 0 1 2 --out runs/agln --processes 2 --precision bf16-mixed]

All rows have the same backbone, steps, batches and seeds; the decoder is narrower than the paper's, for a CPU. Runs
that are there already are read, not trained again. The paper's figures are for PASCAL Context and ResNet-50.
"""

from typing import Any

from ablations import Row, mean_iou, parse_arguments, print_table, train_rows

WIDTHS = {"channels": 64, "head_channels": 128}
MINUS = {"dense": False, "channel_resampling": False, "spatial_gating": False}


def _agln(title: str, paper: float, name: str, **options: Any) -> Row:
    return Row(title, paper, name, "agln", {**WIDTHS, **options})


FPN = Row("FPN", 46.91, "fpn", "fpn", WIDTHS)
GEM = _agln("AGLN-minus, GEM, N = 128", 51.24, "gem-128", **MINUS)
TABLES = {
    "Table IV: global enhancement": [
        FPN,
        _agln("AGLN-minus, GAP-GEM", 48.17, "gap-gem", **MINUS, global_pooling="average"),
        _agln("AGLN-minus, GEM, N = 1", 47.93, "gem-1", **MINUS, descriptors=1),
        _agln("AGLN-minus, GEM, N = 64", 50.98, "gem-64", **MINUS, descriptors=64),
        GEM,
        _agln("AGLN-minus, GEM, N = 256", 50.88, "gem-256", **MINUS, descriptors=256),
    ],
    "Table V: local refinement": [
        FPN,
        GEM,
        _agln("AGLN-minus, CR", 51.50, "cr", dense=False, spatial_gating=False),
        _agln("AGLN-minus, SG", 51.58, "sg", dense=False, channel_resampling=False),
        _agln("AGLN, CR and SG", 51.98, "cr-sg", dense=False),
    ],
    "Table VII: dense decoder": [
        FPN,
        _agln("AGLN, straight", 51.98, "cr-sg", dense=False),
        _agln("AGLN, dense", 52.45, "dense"),
    ],
}


def main() -> None:
    arguments = parse_arguments(__doc__, "runs/agln")
    runs = train_rows([row for table in TABLES.values() for row in table], arguments)
    scores = {key: mean_iou(run) for key, run in runs.items()}
    for title, rows in TABLES.items():
        print_table(title, rows, scores, arguments.seeds)


if __name__ == "__main__":
    main()
