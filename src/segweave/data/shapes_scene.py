"""The world of the embedded data set `shapes`, and how one picture of it is drawn.

Sky lies above the horizon; water, grass and road share the ground. Discs, boxes and triangles stand on it, and what
they are is decided by the ground at their foot alone: a disc is a ball on grass and a buoy on water, a box is a house
on grass and a car on the road, a triangle is a traffic cone on the road and a sail on water. Where the boundaries run,
where these things stand, their sizes, colours and shading are drawn before anyone asks which ground is which, so
nothing inside a thing tells its class. Every ground has patches in the colour of another one, which only their
surroundings settle.

Only integers, the four operations and square roots make the pictures, so they are alike on every platform.
"""

# H, W: the picture's size in pixels; h, w: that of a window in it. Colours are planar, (3, h, w).

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segweave.data.colours import Colour
from segweave.networks.losses import IGNORE_INDEX

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]

CLASSES = ("sky", "water", "grass", "road", "tree", "pole", "ball", "buoy", "house", "car", "cone", "sail")
PALETTE: tuple[Colour, ...] = (
    (158, 210, 242),
    (36, 96, 180),
    (142, 200, 92),
    (176, 166, 152),
    (22, 104, 62),
    (52, 48, 58),
    (255, 140, 40),
    (122, 64, 182),
    (205, 44, 56),
    (250, 216, 60),
    (246, 120, 184),
    (38, 204, 196),
)
THINGS = tuple(range(CLASSES.index("tree"), len(CLASSES)))
"""The classes that come as instances; the others are stuff."""

LOOK_ALIKES = {
    ("disc", "grass"): "ball",
    ("disc", "water"): "buoy",
    ("box", "grass"): "house",
    ("box", "road"): "car",
    ("triangle", "road"): "cone",
    ("triangle", "water"): "sail",
}
"""The class of a shape by the ground on which it stands."""

_CREAM = (247, 240, 226)
COATS: tuple[tuple[Colour, Colour], ...] = (
    ((214, 74, 66), _CREAM),
    ((240, 166, 58), _CREAM),
    ((243, 236, 222), (214, 74, 66)),
    ((126, 92, 172), _CREAM),
    ((226, 124, 158), _CREAM),
)
"""The colours of the look-alikes: body and band."""

_GROUNDS = ("water", "grass", "road")
_POLE_COLOURS: tuple[Colour, ...] = ((74, 70, 78), (122, 94, 72), (222, 220, 216))
_HEIGHT_TO_WIDTH = {"disc": 1.0, "box": 0.72, "triangle": 1.15}
_MARGIN = 0.035  # how far a thing's ground reaches around its foot at least, as a share of the picture's shorter side


class Hero(NamedTuple):
    """The look-alike that a picture is built around."""

    shape: str
    ground: str
    width: float
    """In pixels; where there is no room, it is drawn smaller."""
    coat: int
    """An index into `COATS`."""


class Canvas:
    """A picture, and who owns each of its pixels.

    Attributes:
        picture: (3, H, W), 0 to 255.
        owners: (H, W), indices into `labels`.
        labels: The class of each owner; 255 where it has none.
    """

    def __init__(self, height: int, width: int) -> None:
        self.picture: FloatArray = np.zeros((3, height, width), np.float32)
        self.owners: IntArray = np.zeros((height, width), np.int64)
        self.labels: list[int] = []

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[FloatArray, FloatArray]:
        """The y (h, 1) and the x (1, w) of the centres of all pixels in a rectangle, as far as it is in the frame."""
        height, width = self.owners.shape
        rows = np.arange(max(0, int(top)), min(height, int(bottom) + 1), dtype=np.float32)
        columns = np.arange(max(0, int(left)), min(width, int(right) + 1), dtype=np.float32)
        return rows[:, None] + 0.5, columns[None] + 0.5

    def paint(self, label: int, surface: FloatArray, inside: FloatArray, top: int = 0, left: int = 0) -> None:
        """Covers what lies inside, antialiased in the picture and sharp in the owners.

        Args:
            label: The new owner's class.
            surface: Its colours, (3, h, w) or (3, 1, 1).
            inside: (h, w), the distance to its edge in pixels, positive inside.
            top: The row of the picture where `inside` starts.
            left: The column where it starts.
        """
        self.blend(surface, np.clip(inside + 0.5, 0, 1), top, left)
        height, width = inside.shape
        self.owners[top : top + height, left : left + width][inside >= 0] = len(self.labels)
        self.labels.append(label)

    def blend(self, surface: FloatArray, opacity: FloatArray, top: int, left: int) -> None:
        """Mixes the surface into the picture alone, by an opacity (h, w) from 0 to 1."""
        height, width = opacity.shape
        below = self.picture[:, top : top + height, left : left + width]
        below *= 1 - opacity  # in this form nothing of what is covered remains, not even by rounding
        below += opacity * surface


@dataclass(frozen=True)
class _Thing:
    """Something that stands on the ground, with the middle of its foot at (x, y); all in pixels."""

    shape: str
    name: str
    width: float
    height: float
    colour: int
    x: float = 0.0
    y: float = 0.0


def draw_scene(random: np.random.Generator, size: tuple[int, int], hero: Hero) -> Canvas:
    """Draws one picture around its large thing.

    Args:
        random: Generators spawned from it decide everything else; the same picture takes a fresh one.
        size: Height and width in pixels.
        hero: The large thing.

    Returns:
        The canvas with its picture, owners and labels.
    """
    # Generators of their own keep what the grounds are from changing where things stand and how they look.
    layout, texture, placing, drawing, lighting = random.spawn(5)
    canvas = Canvas(*size)
    canvas.paint(CLASSES.index("sky"), _sky(texture, size), np.ones(size, np.float32))
    _draw_birds(texture, canvas)
    regions = _lay_out(layout, size)
    slots = np.full(size, -1)
    for slot, region in enumerate(regions):
        slots[region >= 0] = slot
    home = _home_slot(layout, slots, len(regions))
    others = [name for name in _GROUNDS if name != hero.ground]
    layout.shuffle(others)
    grounds = [*others[:home], hero.ground, *others[home:]][: len(regions)]
    for name, region in zip(grounds, regions, strict=True):
        canvas.paint(CLASSES.index(name), _ground(texture, size, name), region)
    for thing in sorted(_place_things(placing, slots, grounds, home, hero), key=lambda thing: thing.y):
        _draw_thing(drawing, canvas, thing)
    _light(lighting, canvas)
    return canvas


# Stuff


def _noise(random: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> FloatArray:
    """Smooth noise (H, W) from 0 to 1 with the given number of cells down and across."""
    grid = Image.fromarray(random.integers(0, 256, cells, dtype=np.uint8))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC), np.float32) / 255


def _planes(colour: Colour) -> FloatArray:
    return np.asarray(colour, np.float32)[:, None, None]


def _patches(random: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> FloatArray:
    """How strongly another colour shows, (H, W), 0 to 0.9: patches that cover about a third of the picture."""
    return np.asarray(np.clip(_noise(random, size, cells) * 3.2 - 1.7, 0, 0.9))


def _sky(random: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    zenith, haze = _planes((104, 166, 226)) + 24 * random.random(), _planes((206, 228, 240))
    descent = np.clip(np.arange(size[0], dtype=np.float32) / (0.42 * size[0]), 0, 1)[:, None]
    clear = zenith + descent * (haze - zenith)
    clouds = _patches(random, size, (7, 4)) * random.random()
    return np.asarray(clear + clouds * (_planes((248, 246, 242)) - clear))


_TEXTURES: dict[str, tuple[Colour, tuple[Colour, Colour], tuple[int, int], float]] = {
    # the colour; the two of which one shows in patches; the grain's height and width in pixels, and its strength
    "water": ((72, 138, 188), ((150, 192, 214), (104, 152, 128)), (2, 14), 34),
    "grass": ((126, 174, 88), ((186, 174, 132), (98, 152, 134)), (4, 2), 30),
    "road": ((188, 174, 150), ((138, 162, 102), (116, 154, 182)), (2, 2), 26),
}


def _ground(random: np.random.Generator, size: tuple[int, int], name: str) -> FloatArray:
    base, guests, grain, strength = _TEXTURES[name]
    colour, guest = _planes(base) + (16 * random.random() - 8), _planes(guests[int(random.integers(2))])
    patches = _patches(random, size, (7, 6))
    bumps = strength * (_noise(random, size, (-(-size[0] // grain[0]), -(-size[1] // grain[1]))) - 0.5)
    return colour + bumps + patches * (guest - colour)


def _lay_out(random: np.random.Generator, size: tuple[int, int]) -> list[FloatArray]:
    """Divides the ground among two or three regions, later ones over earlier ones.

    Returns:
        Maps (H, W) of the distance to the region's edge in pixels, positive inside.
    """
    height, width = size
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(width, dtype=np.float32)[None] + 0.5

    def wave(length: int, amplitude: float) -> FloatArray:
        return np.asarray((_noise(random, (1, length), (1, int(random.integers(4, 9))))[0] * 2 - 1) * amplitude)

    def below(share: float) -> FloatArray:
        return rows - (share * height + wave(width, 0.035 * height))

    def right_of(far: float, near: float) -> FloatArray:
        line = near + (far - near) * (1 - rows / height)
        return columns - (line * width + wave(height, 0.04 * width)[:, None])

    ground = below(0.2 + 0.18 * random.random())
    lean = 0.3 * (random.random() - 0.5)
    layout = random.integers(4)
    if layout == 0:  # one behind the other
        return [ground, below(0.5 + 0.14 * random.random())]
    if layout == 1:  # side by side
        near = 0.38 + 0.24 * random.random()
        return [ground, np.minimum(ground, right_of(near + lean, near))]
    if layout == 2:  # a broad strip between two, which comes towards the viewer
        left, right, middle = 0.12 + 0.16 * random.random(), 0.72 + 0.16 * random.random(), 0.5 + lean
        strip = np.minimum(ground, right_of(middle - 0.12, left))
        return [ground, strip, np.minimum(strip, right_of(middle + 0.12, right))]
    front = below(0.46 + 0.1 * random.random())  # two side by side before a third
    near = 0.36 + 0.28 * random.random()
    return [ground, front, np.minimum(front, right_of(near + lean, near))]


# Things


def _home_slot(random: np.random.Generator, slots: IntArray, count: int) -> int:
    """One of the regions that are broad enough in front for the large thing."""
    front = slots[slots.shape[0] // 2 :]
    shares = [(front == slot).mean() for slot in range(count)]
    broad = [slot for slot, share in enumerate(shares) if share >= 0.3] or [int(np.argmax(shares))]
    return broad[int(random.integers(len(broad)))]


def _look_alike(shape: str, ground: str, width: float, coat: int) -> _Thing:
    return _Thing(shape, LOOK_ALIKES[shape, ground], width, width * _HEIGHT_TO_WIDTH[shape], coat)


def _place_things(
    random: np.random.Generator, slots: IntArray, grounds: list[str], home: int, hero: Hero
) -> list[_Thing]:
    height, side = slots.shape[0], min(slots.shape)
    things: list[_Thing] = []
    width = hero.width
    while not things and width > 3:
        things = _place(random, slots, home, things, _look_alike(hero.shape, hero.ground, width, hero.coat))
        width *= 0.95
    for _ in range(int(random.integers(3, 7))):
        slot = int(random.integers(len(grounds)))
        shape = [shape for shape, ground in LOOK_ALIKES if ground == grounds[slot]][int(random.integers(2))]
        width = max(4.0, side * (0.04 + 0.2 * random.random() ** 2))
        thing = _look_alike(shape, grounds[slot], width, int(random.integers(len(COATS))))
        things = _place(random, slots, slot, things, thing)
    for _ in range(int(random.integers(1, 4)) if "grass" in grounds else 0):
        width = side * (0.16 + 0.26 * random.random())
        tree = _Thing("tree", "tree", width, width * (1 + 0.5 * random.random()), 0)
        things = _place(random, slots, grounds.index("grass"), things, tree)
    for _ in range(int(random.integers(0, 4))):
        width, length = float(random.integers(1, 4)), height * (0.25 + 0.4 * random.random())
        pole = _Thing("pole", "pole", width, length, int(random.integers(len(_POLE_COLOURS))))
        things = _place(random, slots, int(random.integers(len(grounds))), things, pole)
    return things


def _place(
    random: np.random.Generator, slots: IntArray, slot: int, things: list[_Thing], thing: _Thing
) -> list[_Thing]:
    """The things, joined by another one if one of a few random places on the slot's ground suits it."""
    places = np.flatnonzero(slots == slot)
    margin = max(2, round(_MARGIN * min(slots.shape)))
    for place in random.integers(len(places), size=16) if len(places) else ():
        row, column = divmod(int(places[place]), slots.shape[1])
        x = column + (thing.width % 2) / 2 if thing.shape == "pole" else column + 0.5  # a pole fills whole columns
        placed = replace(thing, x=x, y=float(row))
        if _stands(placed, slots, slot, margin) and not any(_disturb(placed, other, margin) for other in things):
            return [*things, placed]
    return things


def _stands(thing: _Thing, slots: IntArray, slot: int, margin: int) -> bool:
    """Whether the thing is in the frame, and its foot, with the ground around it, in the slot."""
    height, width = slots.shape
    left, right = int(thing.x - thing.width / 4) - 1, int(thing.x + thing.width / 4) + 2
    row, half = int(thing.y), max(thing.width / 2, 2)
    if thing.x < half or thing.x + half > width or row < max(thing.height, margin) or row + margin > height:
        return False
    return bool((slots[row - margin : row + margin, left:right] == slot).all())


def _disturb(thing: _Thing, other: _Thing, margin: int) -> bool:
    """Whether the nearer of two hides the foot of the other, or is a tree that hides any of it.

    Trees stand on grass alone: if they hid other things, these would show their class by what is missing.
    """
    near, far = (thing, other) if thing.y >= other.y else (other, thing)
    if near.shape == "tree":
        half, top = far.width / 2, far.y - far.height
    else:
        half, top = far.width / 4 + 2, far.y - far.height / 4
    beside = abs(near.x - far.x) > near.width / 2 + half
    return not (beside or near.y - near.height > far.y + margin or near.y < top)


def _draw_thing(random: np.random.Generator, canvas: Canvas, thing: _Thing) -> None:
    half, depth = thing.width / 2 + 1, 0.08 * thing.width + 1
    rows, columns = canvas.window(thing.x - half, thing.y - thing.height - 1, thing.x + half, thing.y + depth)
    top, left = int(rows[0, 0]), int(columns[0, 0])
    across, up = columns - thing.x, thing.y - rows
    shadow = 1 - np.sqrt((across / half) ** 2 + (up / depth) ** 2)
    canvas.blend(_planes((40, 46, 60)), np.clip(shadow * 2, 0, 1) * 0.3, top, left)
    surface, inside = _surface(random, thing, across, up), _inside(thing, across, up)
    canvas.paint(CLASSES.index(thing.name), surface, inside, top, left)


def _inside(thing: _Thing, across: FloatArray, up: FloatArray) -> FloatArray:
    """The distance to the edge, positive inside, (h, w), at offsets (1, w) and (h, 1) from the middle of the foot."""
    width, height, aside = thing.width, thing.height, np.abs(across)
    if thing.shape == "disc":
        return width / 2 - np.sqrt(across**2 + (up - width / 2) ** 2)
    if thing.shape == "triangle":
        slant = np.sqrt(np.float32(1 + (width / (2 * height)) ** 2))
        return np.asarray(np.minimum((width / 2 * (1 - up / height) - aside) / slant, up))
    if thing.shape == "tree":
        trunk = np.minimum(max(0.5, 0.07 * width) - aside, np.minimum(up, 0.6 * height - up))
        return np.asarray(np.maximum(_crown(thing, across, up), trunk))
    return np.asarray(np.minimum(width / 2 - aside, np.minimum(up, height - up)))


def _crown(thing: _Thing, across: FloatArray, up: FloatArray) -> FloatArray:
    width, height = thing.width, thing.height
    low = 0.28 * width - np.sqrt((np.abs(across) - 0.22 * width) ** 2 + (up - 0.5 * height) ** 2)
    high = 0.34 * width - np.sqrt(across**2 + (up - height + 0.34 * width) ** 2)
    return np.maximum(low, high)


def _surface(random: np.random.Generator, thing: _Thing, across: FloatArray, up: FloatArray) -> FloatArray:
    """The thing's colours, (3, h, w) or (3, 1, 1)."""
    if thing.shape == "pole":
        return _planes(_POLE_COLOURS[thing.colour])
    level = up / thing.height
    light = 0.88 + 0.2 * level - 0.14 * across / thing.width
    if thing.shape == "tree":
        size = light.shape
        leaves = 44 * (_noise(random, size, (-(-size[0] // 4), -(-size[1] // 4))) - 0.5)
        crown = _crown(thing, across, up) >= -0.5
        return np.where(crown, _planes((76, 128, 72)) + leaves, _planes((112, 86, 66))) * light
    body, band = (_planes(colour) for colour in COATS[thing.colour])
    stripe = np.clip((0.11 - np.abs(level - 0.45)) * thing.height + 0.5, 0, 1)
    return np.asarray((body + stripe * (band - body)) * light)


def _draw_birds(random: np.random.Generator, canvas: Canvas) -> None:
    """Birds in the sky, which no class names: something for every loss and metric to ignore."""
    height, width = canvas.owners.shape
    for _ in range(int(random.integers(0, 4))):
        wing = max(2.5, min(height, width) * (0.025 + 0.03 * random.random()))
        x, y = width * random.random(), height * (0.04 + 0.1 * random.random())
        rows, columns = canvas.window(x - wing, y - wing, x + wing, y + wing)
        share = np.abs(columns - x) / wing
        arch = np.abs(rows - y + 1.6 * wing * share * (1 - share))
        inside = np.minimum(0.2 * wing + 0.3 - arch, wing * (1 - share))
        canvas.paint(IGNORE_INDEX, _planes((66, 70, 88)), inside, int(rows[0, 0]), int(columns[0, 0]))


def _light(random: np.random.Generator, canvas: Canvas) -> None:
    """Brightness, hue and noise of the whole picture."""
    tint = (0.84 + 0.28 * random.random()) * (0.94 + 0.12 * random.random((3, 1, 1), np.float32))
    grain = random.random(canvas.picture.shape, np.float32) - 0.5
    strength = 6 + 18 * random.random()
    canvas.picture = np.clip(canvas.picture * tint + strength * grain + 0.5, 0, 255)
