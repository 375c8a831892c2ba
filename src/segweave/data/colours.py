"""Colours of classes."""

import colorsys

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def default_palette(count: int) -> list[Colour]:
    """Colours for any number of classes that are easy to tell apart; the first ones stay the same whatever the number.

    Neighbours are a golden angle apart in hue, and saturation and brightness change from one to the next. Hues nearly
    repeat after a Fibonacci number of steps; the number of shades isn't one, so that such colours differ in shade.
    """
    golden_angle = (3 - 5**0.5) / 2  # of a full turn
    shades = ((0.8, 0.9), (0.45, 1.0), (1.0, 0.5), (1.0, 1.0), (0.9, 0.75), (0.6, 0.7))  # saturation, brightness
    colours: list[Colour] = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb((0.58 + index * golden_angle) % 1, *shades[index % len(shades)])
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours
