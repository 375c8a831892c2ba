"""What the papers print about the size and cost of their networks, to be shown beside ours."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """A network as a paper's table has it.

    Attributes:
        name: As the table calls it.
        model: Its name in `segweave.list_models()`.
        parameters: In millions.
        multiply_adds: In billions; the papers call them FLOPs.
        options: Of `segweave.create_model`.
    """

    name: str
    model: str
    parameters: float
    multiply_adds: float
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of sizes and costs, and the setting that it was measured in.

    Attributes:
        title: The paper and the table's number.
        number: The table's number.
        backbone: A timm model.
        num_classes: K.
        size: Height and width of the image in pixels.
        rows: The networks.
        note: How the paper's figures are to be read.
    """

    title: str
    number: int
    backbone: str
    num_classes: int
    size: tuple[int, int]
    rows: tuple[PaperRow, ...]
    note: str


@dataclass(frozen=True)
class AddedCost:
    """What a method adds to a network.

    Attributes:
        multiply_adds: In billions; the papers call them FLOPs.
        parameters: In millions.
        memory: In MB, 10^6 bytes.
    """

    multiply_adds: float
    parameters: float
    memory: float


@dataclass(frozen=True)
class AddedCostRow:
    """A method as a paper's table has it, and ours.

    Attributes:
        name: As the table calls it.
        paper: What the table says; None for a method that is ours only.
        model: Its name in `segweave.list_models()`; None for one that we don't have.
        options: Of `segweave.create_model`.
    """

    name: str
    paper: AddedCost | None = None
    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AddedCostTable:
    """A table of what methods add to one network, and the setting that ours is counted in.

    Attributes:
        title: The paper and the table's number.
        number: The table's number.
        baseline: What the methods are added to, a name in `segweave.list_models()`.
        backbone: A timm model.
        num_classes: K.
        output_stride: Of the backbone.
        size: Height and width of the image in pixels.
        rows: The methods.
        note: How the figures are to be read.
    """

    title: str
    number: int
    baseline: str
    backbone: str
    num_classes: int
    output_stride: int
    size: tuple[int, int]
    rows: tuple[AddedCostRow, ...]
    note: str


NO_ST: dict[str, Any] = {"self_transformer": False}
NO_GT: dict[str, Any] = {"grounding": "none"}
NO_RT: dict[str, Any] = {"rendering": False}
FPT: dict[str, Any] = {"neck": "fpt"}

PAPER_TABLES: dict[str, PaperTable | AddedCostTable] = {
    "agln": PaperTable(
        title="AGLN, Table VIII",
        number=8,
        backbone="resnet101s",
        num_classes=59,
        size=(480, 480),
        rows=(
            PaperRow("FCN-8s", "fcn", 52.09, 196.75, {"output_stride": 8}),
            PaperRow("FPN", "fpn", 54.32, 124.59),
            PaperRow("AGLN", "agln", 61.71, 187.16),
            PaperRow("AGLN-Lite", "agln", 55.74, 135.56, {"lite": True}),
        ),
        note="The paper counts convolutions alone. It names neither image size nor classes; 480x480 and the 59 classes "
        "of PASCAL Context agree with it.",
    ),
    "fpt": PaperTable(
        title="FPT, Table 4",
        number=4,
        backbone="resnet101",
        num_classes=19,
        size=(769, 769),
        rows=(
            PaperRow("UFP", "ufp", 71.3, 916.1),
            PaperRow("UFP+ST", "fpt", 91.2, 948.4, {"grounding": "none", "rendering": False}),
            PaperRow("UFP+LGT", "fpt", 102.8, 1008.3, {"self_transformer": False, "rendering": False}),
            PaperRow("UFP+RT", "fpt", 77.4, 929.3, {"self_transformer": False, "grounding": "none"}),
            PaperRow("UFP+LGT+ST", "fpt", 121.3, 1052.6, {"rendering": False}),
            PaperRow("UFP+RT+ST", "fpt", 96.2, 985.2, {"grounding": "none"}),
            PaperRow("UFP+LGT+RT", "fpt", 107.0, 1014.8, {"self_transformer": False}),
            PaperRow("UFP+LGT+ST+RT", "fpt", 127.2, 1063.9),
        ),
        note="They can't agree to the digit: the paper prints neither the image size (ours: 769x769) nor the widths of "
        "the transformers, of the global convolutions and of the head; its UFP is 40 M smaller than ours, whose global "
        "convolutions take all 2,048 channels. What ST adds there, 32 G, is near our convolutions alone. Of its matrix "
        "products, queries with keys count once for each piece of the values; the squares of LGT aren't counted.",
    ),
    "ranet": AddedCostTable(
        title="RANet, Table 3",
        number=3,
        baseline="fcn",
        backbone="resnet101s",
        num_classes=19,
        output_stride=8,
        size=(769, 769),
        rows=(
            AddedCostRow("Asymmetric NL", AddedCost(163, 13, 634)),
            AddedCostRow("CCNet", AddedCost(198, 18, 730)),
            AddedCostRow("DANet", AddedCost(264, 23, 2611)),
            AddedCostRow("PSANet", AddedCost(372, 50, 3124)),
            AddedCostRow("RANet", AddedCost(212, 21, 1893), "ranet", {"auxiliary": "res4"}),
            AddedCostRow("Non-local attention", None, "ocnet", {"auxiliary_weight": 0.0}),
        ),
        note="Ours is the network minus fcn, both with the map of 1 x 512 x 97 x 97 after the backbone that the paper "
        "estimates on. RANet has auxiliary=res4; non-local attention, which the paper's table hasn't, is ocnet with "
        "auxiliary_weight=0.0, without a head that fcn hasn't either. Multiply-adds are those of convolutions and "
        "matrix products. RANet's attention depends on the image's regions and isn't counted: between pixels and their "
        "representatives 0.2 G at most, between representatives 1 G where there are 1,000; comparing pairs of pixels "
        "to find the regions is no matrix product. Memory: the most bytes of tensors that live at once in a training "
        "forward pass in float32, mostly what is kept for backward (MB: 10^6 bytes); scratch memory inside an "
        "operation isn't counted. None of ours makes a table of all pairs of pixels; each would add 354 MB.",
    ),
}
"""The table of each paper that is shown if no other is asked for."""

FURTHER_TABLES: dict[str, tuple[PaperTable, ...]] = {
    "fpt": (
        PaperTable(
            title="FPT, Table 1",
            number=1,
            backbone="resnet50",
            num_classes=80,
            size=(800, 1000),
            rows=(
                PaperRow("BFP", "mask_rcnn", 34.6, 172.3, {"neck": "bfp"}),
                PaperRow("+ST", "mask_rcnn", 55.0, 248.2, {**FPT, **NO_GT, **NO_RT}),
                PaperRow("+GT", "mask_rcnn", 63.9, 265.1, {**FPT, **NO_ST, **NO_RT}),
                PaperRow("+RT", "mask_rcnn", 39.8, 187.9, {**FPT, **NO_ST, **NO_GT}),
                PaperRow("+ST+GT", "mask_rcnn", 82.5, 322.9, {**FPT, **NO_RT}),
                PaperRow("+ST+RT", "mask_rcnn", 61.2, 256.7, {**FPT, **NO_GT}),
                PaperRow("+GT+RT", "mask_rcnn", 69.6, 281.6, {**FPT, **NO_ST}),
                PaperRow("+ST+GT+RT", "mask_rcnn", 88.2, 346.2, FPT),
            ),
            note="Ours has the box head for 1,000 proposals and the mask head for 100 detections, the most that it has "
            "in evaluation. They can't agree to the digit: the paper prints neither its heads, and for how many boxes "
            "they were counted, nor the widths of its transformers.",
        ),
    )
}
"""Others, which are asked for by their number."""
