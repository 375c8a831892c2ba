"""Charts as inline SVG: they follow the page's light or dark colours and need nothing from outside.

Lines take their colours from the page's CSS variables `--line-0` to `--line-5`; text and grid from its style sheet.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from segweave.errors import InputError

Place = Callable[[NDArray[np.float64]], NDArray[np.float64]]

LINE_COLOURS = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#db2777", "#64748b")
RIGHT_COLOUR = (37, 99, 235)
WRONG_COLOUR = (234, 88, 12)

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 38
NOISY_POINTS = 80
"""A line of more points is drawn pale, with its running mean over it."""
DRAWN_POINTS = 600
"""A line of more points is drawn through the means of as many bins."""

PRINTED_CLASSES = 20
"""Up to so many classes, a confusion matrix prints its figures."""
HOVER_CLASSES = 40
"""Up to so many classes, a cell tells its classes under the pointer."""
LABEL_SPACING = 15
LABEL_LETTERS = 16


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: As the legend calls it.
        x: (N,), ascending.
        y: (N,), finite.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def read_lines(rows: Sequence[Mapping[str, float | str]], names: Mapping[str, str], x_key: str) -> list[Line]:
    """Takes lines out of the rows of metrics.csv.

    Args:
        rows: One mapping per logged step; a cell may be missing, empty or a number's text.
        names: The key of each line wanted, and its name in the legend.
        x_key: The key of what runs along the horizontal axis; rows without it are left out.

    Returns:
        The lines that have at least one finite value, in the order of `names`.

    Raises:
        InputError: A cell is neither empty nor a number.
    """
    lines = []
    for key, name in names.items():
        points = [(_cell(row, x_key, index), _cell(row, key, index)) for index, row in enumerate(rows, start=1)]
        finite = [point for point in points if np.isfinite(point).all()]
        if finite:
            x, y = np.array(sorted(finite, key=lambda point: point[0])).T
            lines.append(Line(name, x, y))
    return lines


def line_chart(
    lines: Sequence[Line], x_label: str, y_range: tuple[float, float] | None = None, *, averaged: bool = True
) -> Markup:
    """Draws lines over a common axis.

    Args:
        lines: At least one.
        x_label: What runs along the horizontal axis.
        y_range: The least the vertical axis has to show; the data's own range if not given.
        averaged: Whether a line of many points is taken for a noisy one, and its running mean is drawn over it.

    Returns:
        An `<svg>` element, `WIDTH` by `HEIGHT` units. The legend is the page's.
    """
    y_all = np.concatenate([line.y for line in lines])
    x_all = np.concatenate([line.x for line in lines])
    y_low, y_high = y_range or (y_all.min(), y_all.max())
    y_ticks = _ticks(y_low, y_high, 5)
    x_ticks = _ticks(x_all.min(), x_all.max(), 7)
    x_ticks = x_ticks[(x_ticks >= x_all.min()) & (x_ticks <= x_all.max())]
    x_low, x_high = _widened(x_all.min(), x_all.max())

    def place_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def place_y(y: NDArray[np.float64]) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return HEIGHT - BOTTOM - shares * (HEIGHT - TOP - BOTTOM)

    parts = [_horizontal_grid(y_ticks, place_y(y_ticks)), _x_axis(x_ticks, place_x(x_ticks), x_label)]
    for index, line in enumerate(lines):
        parts.append(_draw(line, place_x, place_y, line_colour(index), averaged))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, ", ".join(line.name for line in lines) + f" by {x_label}", Markup("").join(parts)
    )


def line_colour(index: int) -> str:
    """The CSS colour of a chart's line by its place."""
    index %= len(LINE_COLOURS)
    return f"var(--line-{index}, {LINE_COLOURS[index]})"


def format_number(value: float) -> str:
    """A number as an axis or a legend prints it: whole ones in full, others to three digits."""
    if abs(value - round(value)) < 1e-9 * max(abs(value), 1e-3):
        return f"{value:,.0f}".replace(",", "\u2009").replace("-", "\u2212")
    return f"{value:.3g}".replace("-", "\u2212")


def confusion_chart(confusion: NDArray[np.int64], classes: Sequence[str]) -> Markup:
    """Draws a confusion matrix, each row divided by its sum: what became of the pixels of each true class.

    Args:
        confusion: (K, K), pixels by true class (rows) and predicted class (columns).
        classes: The names of the K classes.

    Returns:
        An `<svg>` element. Right pixels are blue, wrong ones orange, the stronger the more (by the square root of their
        share, which leaves rare confusions visible). Figures are per cent, up to `PRINTED_CLASSES` classes.
    """
    count = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = min(44.0, max(760 / count, 4.5))
    margin = 7.0 * min(max(map(len, classes)), LABEL_LETTERS) + 16
    side = cell * count
    parts = [
        Markup('<image x="{0}" y="{0}" width="{1}" height="{1}" preserveAspectRatio="none" href="{2}"/>').format(
            margin, side, _shares_image(shares)
        ),
        Markup('<rect class="frame" x="{0}" y="{0}" width="{1}" height="{1}"/>').format(margin, side),
        _confusion_labels(classes, cell, margin),
    ]
    if count <= HOVER_CLASSES:
        parts.append(_confusion_cells(shares, classes, cell, margin))
    # Slanted names of the last columns reach past the matrix on the right.
    width, height = margin + side + 0.7 * margin, margin + side + 4
    return Markup(
        '<svg class="confusion" viewBox="0 0 {0:.0f} {1:.0f}" style="max-width:{0:.0f}px" '
        'role="img" aria-label="Confusion matrix">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _cell(row: Mapping[str, float | str], key: str, row_number: int) -> float:
    value = row.get(key)
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except ValueError:
        raise InputError(f"metrics, row {row_number}: '{key}' is '{value}', expected a number") from None


def _ticks(low: float, high: float, count: int) -> NDArray[np.float64]:
    return np.asarray(MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(*_widened(low, high)))


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, for a line that is constant or a single point."""
    if high > low:
        return float(low), float(high)
    return float(low - (abs(low) or 1) / 2), float(low + (abs(low) or 1) / 2)


def _horizontal_grid(ticks: NDArray[np.float64], places: NDArray[np.float64]) -> Markup:
    row = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" class="end">{}</text>'
    )
    return Markup("").join(
        row.format(LEFT, WIDTH - RIGHT, y, y, LEFT - 8, y + 3.5, format_number(tick))
        for tick, y in zip(ticks, places, strict=True)
    )


def _x_axis(ticks: NDArray[np.float64], places: NDArray[np.float64], label: str) -> Markup:
    tick_text = Markup('<text x="{:.1f}" y="{}" class="middle">{}</text>')
    parts = [
        tick_text.format(x, HEIGHT - BOTTOM + 16, format_number(tick)) for tick, x in zip(ticks, places, strict=True)
    ]
    parts.append(
        Markup('<text x="{}" y="{}" class="middle label">{}</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label
        )
    )
    return Markup("").join(parts)


def _draw(line: Line, place_x: Place, place_y: Place, colour: str, averaged: bool) -> Markup:
    """A line, its running mean if it has many points, and a dot at its end."""
    x, y = _binned(line.x), _binned(line.y)
    noisy = averaged and len(line.x) > NOISY_POINTS
    path = Markup('<polyline class="{}" style="stroke:{}" points="{}"/>')
    parts = [path.format("line faint" if noisy else "line", colour, _points(place_x(x), place_y(y)))]
    if noisy:
        y = _running_mean(y, max(len(y) // 40, 2))
        parts.append(path.format("line", colour, _points(place_x(x), place_y(y))))
    dot = Markup('<circle class="dot" style="fill:{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {}</title></circle>')
    parts.append(dot.format(colour, place_x(x)[-1], place_y(y)[-1], line.name, format_number(line.y[-1])))
    return Markup("").join(parts)


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= DRAWN_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, DRAWN_POINTS)])


def _running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """The mean over `reach` neighbours on either side, fewer towards the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def _shares_image(shares: NDArray[np.float64]) -> str:
    """The matrix as a PNG, the more opaque the greater the share: one small element whatever the number of classes."""
    right = np.eye(len(shares), dtype=bool)[..., None]
    colours = np.where(right, np.array(RIGHT_COLOUR, np.uint8), np.array(WRONG_COLOUR, np.uint8))
    alpha = np.rint(255 * np.sqrt(shares)).astype(np.uint8)
    cells = np.dstack([colours, alpha])
    # Enlarged here, since not every browser keeps the edges of enlarged pixels sharp.
    factor = max(1, 900 // len(shares))
    stream = io.BytesIO()
    Image.fromarray(cells.repeat(factor, axis=0).repeat(factor, axis=1)).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _confusion_labels(classes: Sequence[str], cell: float, margin: float) -> Markup:
    """The classes' names, every n-th of them where all would not fit."""
    row = Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>')
    column = Markup('<text transform="translate({:.1f} {:.1f}) rotate(-45)">{}</text>')
    parts = []
    for index in range(0, len(classes), int(np.ceil(LABEL_SPACING / cell))):
        name = classes[index]
        name = name if len(name) <= LABEL_LETTERS else name[: LABEL_LETTERS - 1] + "…"
        middle = margin + (index + 0.5) * cell
        parts.append(row.format(margin - 8, middle + 4, name))
        parts.append(column.format(middle + 3, margin - 8, name))
    return Markup("").join(parts)


def _confusion_cells(shares: NDArray[np.float64], classes: Sequence[str], cell: float, margin: float) -> Markup:
    """A square over every cell that tells its classes under the pointer, with its figure where there is room."""
    square = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{} → {}: {:.1f}%</title></rect>')
    figure = Markup('<text class="middle{}" x="{:.1f}" y="{:.1f}">{:.0f}</text>')
    parts = []
    for (row, column), share in np.ndenumerate(shares):
        x, y = margin + column * cell, margin + row * cell
        parts.append(square.format(x, y, cell, cell, classes[row], classes[column], 100 * share))
        if len(classes) <= PRINTED_CLASSES and share >= 0.005:
            strong = " strong" if share > 0.4 else ""
            parts.append(figure.format(strong, x + cell / 2, y + cell / 2 + 4, 100 * share))
    return Markup('<g class="cells">{}</g>').format(Markup("").join(parts))
