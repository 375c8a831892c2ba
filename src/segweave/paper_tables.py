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
        backbone: A timm model.
        num_classes: K.
        size: Height and width of the image in pixels.
        rows: The networks.
        note: How the paper's figures are to be read.
    """

    title: str
    backbone: str
    num_classes: int
    size: tuple[int, int]
    rows: tuple[PaperRow, ...]
    note: str


PAPER_TABLES = {
    "agln": PaperTable(
        title="AGLN, Table VIII",
        backbone="resnet101s",
        num_classes=59,
        size=(480, 480),
        rows=(
            PaperRow("FCN-8s", "fcn", 52.09, 196.75, {"output_stride": 8}),
            PaperRow("FPN", "fpn", 54.32, 124.59),
            PaperRow("AGLN", "agln", 61.71, 187.16),
            PaperRow("AGLN-Lite", "agln", 55.74, 135.56, {"lite": True}),
        ),
        note="The paper names neither image size nor classes; 480x480 and PASCAL Context's 59 classes agree with it.",
    ),
}
