"""Line drawings of geometry as small PNG pictures, by matplotlib.

A `Drawing` collects shapes and labels at any scale, with points as complex numbers. `png` scales them to the
picture and places labels where they can be read.
"""

import cmath
import math
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon
from PIL import Image

PIXELS = (
    252  # width and height of the picture: 9 patches of 28 pixels, each one token in Qwen2.5-VL
)
_MARGIN = 0.15  # margin for labels on each side, as a fraction of the picture
_MARK = 0.05  # size of the marks for right angles and equal sides, as a fraction of the picture
_ARC = 0.09  # radius of the arc that marks an angle, as a fraction of the picture
_DOTS_PER_INCH = 72  # makes sizes in points equal to pixels
_FONT, _LINE = 15, 1.3


@dataclass
class Drawing:
    """Shapes and labels of a drawing, added by the methods below."""

    _lines: list[tuple[complex, complex, bool]] = field(default_factory=list)
    _shaded: list[tuple[complex, ...]] = field(default_factory=list)
    _circles: list[tuple[complex, float]] = field(default_factory=list)
    _arcs: list[tuple[complex, float, float, float]] = field(default_factory=list)
    _angles: list[tuple[complex, complex, complex, str]] = field(default_factory=list)
    _squares: list[tuple[complex, complex, complex]] = field(default_factory=list)
    _ticks: list[tuple[complex, complex]] = field(default_factory=list)
    _dots: list[complex] = field(default_factory=list)
    _texts: list[tuple[complex, complex, str]] = field(default_factory=list)

    def segment(self, start: complex, end: complex, dashed: bool = False) -> None:
        self._lines.append((start, end, dashed))

    def polygon(self, *corners: complex, shaded: bool = False) -> None:
        if shaded:
            self._shaded.append(corners)
        for i, corner in enumerate(corners):
            self.segment(corners[i - 1], corner)

    def circle(self, centre: complex, radius: float) -> None:
        """Adds a circle filled with white."""
        self._circles.append((centre, radius))

    def arc(self, centre: complex, radius: float, start: float, end: float) -> None:
        """Adds an arc, counterclockwise from one angle in degrees to another."""
        self._arcs.append((centre, radius, start, end))

    def angle(self, corner: complex, one: complex, other: complex, text: str) -> None:
        """Marks and labels the angle, less than 180 degrees, between the directions to two points."""
        self._angles.append((corner, one, other, text))

    def square(self, corner: complex, one: complex, other: complex) -> None:
        """Marks a right angle."""
        self._squares.append((corner, one, other))

    def tick(self, start: complex, end: complex) -> None:
        """Marks a side as equal to the other marked sides."""
        self._ticks.append((start, end))

    def dot(self, point: complex) -> None:
        self._dots.append(point)

    def length(self, start: complex, end: complex, text: str, away_from: complex) -> None:
        """Adds a label beside the middle of a segment, on the side opposite to `away_from`."""
        normal = (end - start) * 1j
        if (normal.conjugate() * (away_from - start)).real > 0:
            normal = -normal
        self._texts.append(((start + end) / 2, normal, text))

    def name(self, point: complex, text: str, away_from: complex) -> None:
        """Adds a label beside a point, in the direction away from another point."""
        self._texts.append((point, point - away_from, text))

    def png(self, turned: float = 0.0) -> bytes:
        """The drawing as an RGB picture of `PIXELS` x `PIXELS`, rotated by `turned` degrees."""
        inches = PIXELS / _DOTS_PER_INCH
        canvas = FigureCanvasAgg(Figure(figsize=(inches, inches), dpi=_DOTS_PER_INCH))
        self._draw(_Page(canvas.figure, *self._fit(turned)))
        canvas.draw()
        buffer = BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    def _fit(self, turned: float) -> tuple[complex, complex]:
        """The factor and shift that map points to the picture: point * factor + shift lies in 0 to 1 on both axes."""
        turn = cmath.rect(1, math.radians(turned))
        points = [turn * p for start, end, _ in self._lines for p in (start, end)]
        points += [turn * c + d * radius for c, radius in self._circles for d in (1, -1, 1j, -1j)]
        for arc in self._arcs:
            points += [turn * p for p in _along(*arc)]
        xs, ys = [p.real for p in points], [p.imag for p in points]
        scale = (1 - 2 * _MARGIN) / max(max(xs) - min(xs), max(ys) - min(ys))
        middle = complex(max(xs) + min(xs), max(ys) + min(ys)) / 2
        return turn * scale, complex(0.5, 0.5) - middle * scale

    def _draw(self, page: "_Page") -> None:
        at = page.at
        for corners in self._shaded:
            page.add(Polygon([_xy(at(p)) for p in corners], facecolor="0.75", edgecolor="none"))
        for centre, radius in self._circles:
            circle = Circle(_xy(at(centre)), radius * page.scale)
            circle.set(facecolor="white", edgecolor="black", linewidth=_LINE)
            page.add(circle)
        for start, end, dashed in self._lines:
            page.line(at(start), at(end), style="--" if dashed else "-")
        for arc in self._arcs:
            page.line(*(at(p) for p in _along(*arc)))
        for corner, one, other, label in self._angles:
            page.angle(at(corner), at(one), at(other), label)
        for corner, one, other in self._squares:
            a, b = (_MARK * _unit(at(p) - at(corner)) for p in (one, other))
            page.line(at(corner) + a, at(corner) + a + b, at(corner) + b)
        for start, end in self._ticks:
            middle, across = (at(start) + at(end)) / 2, 0.5j * _MARK * _unit(at(end) - at(start))
            page.line(middle - across, middle + across)
        for point in self._dots:
            page.add(Circle(_xy(at(point)), 0.01, color="black"))
        for point, direction, label in self._texts:
            away = _unit(at(direction) - at(0j))
            # A wide label beside a vertical line needs more distance.
            page.text(at(point) + away * (0.055 + 0.015 * len(label) * abs(away.real)), label)


class _Page:
    """A matplotlib figure with positions as complex numbers from 0 to 1 + 1j."""

    def __init__(self, figure: Figure, factor: complex, shift: complex) -> None:
        self._figure = figure
        self._factor, self._shift = factor, shift
        self.scale = abs(factor)

    def at(self, point: complex) -> complex:
        """The position of a point of the drawing on the page."""
        return point * self._factor + self._shift

    def add(self, artist: Artist) -> None:
        self._figure.add_artist(artist)

    def line(self, *path: complex, style: Literal["-", "--"] = "-") -> None:
        xs, ys = [p.real for p in path], [p.imag for p in path]
        self.add(Line2D(xs, ys, color="black", linewidth=_LINE, linestyle=style))

    def angle(self, corner: complex, one: complex, other: complex, label: str) -> None:
        first, last = sorted(cmath.phase(p - corner) for p in (one, other))
        if last - first > math.pi:
            first, last = last, first + 2 * math.pi
        self.line(*_along(corner, _ARC, math.degrees(first), math.degrees(last)))
        # A narrow angle has room for the label only further from the corner.
        reach = max(_ARC + 0.07, 0.06 / math.sin((last - first) / 2))
        self.text(corner + cmath.rect(reach, (first + last) / 2), label)

    def text(self, place: complex, label: str) -> None:
        style = "italic" if label.isalpha() else "normal"
        self._figure.text(
            place.real, place.imag, label, ha="center", va="center", size=_FONT, style=style
        )


def _along(centre: complex, radius: float, first: float, last: float) -> list[complex]:
    """Points along an arc, from one angle in degrees to another."""
    return [centre + cmath.rect(radius, a) for a in np.radians(np.linspace(first, last, 60))]


def _unit(direction: complex) -> complex:
    return direction / abs(direction)


def _xy(place: complex) -> tuple[float, float]:
    return place.real, place.imag
