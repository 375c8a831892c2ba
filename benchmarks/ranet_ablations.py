"""RANet's Tables 1 and 4 on `shapes`: every row over several seeds, mean and spread beside the paper's.

    python benchmarks/ranet_ablations.py [--seeds 0 1 2 --out runs/ranet --processes 2 --precision bf16-mixed]

`--section5` adds the rows of Section 5.1.

All rows have the same backbone, 600 steps, batches and seeds, and heads of 128 channels, for a CPU; PSPNet and OCNet
keep their auxiliary loss on res4. The backbone is timm's smallest ResNet, of one block a stage: a dilated ResNet-18
sees nearly the whole of such small pictures by itself, and leaves context nothing to do (docs/results.md). Runs that
are there already are read, not trained again. The paper's figures are for Cityscapes and ResNet-101.
"""

from pathlib import Path
from typing import Any

from ablations import SETTINGS, Row, mean_iou, parse_arguments, print_table, train_rows
from segweave import load
from segweave.networks.network import SegmentationNetwork
from segweave.segmentation.evaluation import SegmentationEvaluator
from segweave.segmentation.inference import Inference
from segweave.segmentation.shapes import ShapesSegmentationDataset
from segweave.training.trainer import run_evaluator

SMALL_BACKBONE = {**SETTINGS, "backbone": "test_resnet", "short_edge": 0, "crop_size": (128, 160), "epochs": 8}


def _ranet(title: str, paper: float, name: str, **options: Any) -> Row:
    return Row(title, paper, name, "ranet", {"channels": 128, **options})


BASELINE = Row("backbone network (FCN)", 77.5, "fcn", "fcn", {"head_channels": 128})
BOTH = _ranet("region-wise, both", 81.9, "both")
TABLE_1 = [
    BASELINE,
    Row("pixel-wise, SPP (PSPNet)", 79.6, "spp", "pspnet", {"head_channels": 128}),
    Row("pixel-wise, non-local attention (OCNet)", 80.5, "nonlocal", "ocnet", {"channels": 128, "key_channels": 64}),
    _ranet("region-wise, boundary map", 80.8, "boundaries", regions="boundaries"),
    _ranet("region-wise, semantic map", 81.3, "semantics", regions="semantics"),
    BOTH,
]
COARSE = Row("coarse segmentation", 77.3, "coarse", "ranet")
SECTION_5 = [
    _ranet("no exchange within regions", 79.2, "inter", intra_region=False),
    _ranet("no exchange between regions", 81.1, "intra", inter_region=False),
    BOTH,
]


def main() -> None:
    arguments = parse_arguments(__doc__, "runs/ranet", SMALL_BACKBONE, flags=("section5",))
    runs = train_rows([*TABLE_1, *(SECTION_5 if arguments.section5 else [])], arguments)
    scores = {key: mean_iou(run) for key, run in runs.items()}
    scores |= {(COARSE.name, seed): _coarse_mean_iou(runs[BOTH.name, seed]) for seed in arguments.seeds}
    print_table("Table 1: context", TABLE_1, scores, arguments.seeds)
    print_table("Table 4: coarse and fine segmentation", [COARSE, BOTH], scores, arguments.seeds)
    if arguments.section5:
        print_table("Section 5.1: exchange", SECTION_5, scores, arguments.seeds)


def _coarse_mean_iou(run: Path) -> float:
    """Of the semantic scores that the regions are made from, in per cent."""
    network = load(run)
    assert isinstance(network, SegmentationNetwork)
    evaluator = SegmentationEvaluator(network, ShapesSegmentationDataset("val"), Inference(), coarse=True)
    return 100 * run_evaluator(evaluator, workers=0).mean_iou


if __name__ == "__main__":
    main()
