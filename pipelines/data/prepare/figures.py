"""Figures of plane geometry with a question and its exact answer: a length, an angle or an area.

Each kind of figure is a function of a few whole numbers that returns a `Figure`; `KINDS` lists the numbers that give
sensible figures. Figures are drawn to scale, with points as complex numbers. Answers are LaTeX: whole numbers,
fractions, roots, multiples of pi.
"""

import cmath
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from pipelines.data.prepare.drawing import Drawing
from pipelines.data.prepare.exact import number, root


class Figure(NamedTuple):
    question: str
    answer: str
    drawing: Drawing


PI = r"\pi"
FIND = "Find x."
FIND_ANGLE = "Find the angle x, in degrees."


# --- kinds: triangles -----------------------------------------------------------------------------


def hypotenuse(a: int, b: int) -> Figure:
    return Figure(FIND, root(a * a + b * b), _right_triangle(a, b, str(a), str(b), "x"))


def leg(a: int, c: int) -> Figure:
    b = math.sqrt(c * c - a * a)
    return Figure(FIND, root(c * c - a * a), _right_triangle(a, b, str(a), "x", str(c)))


def third_angle(a: int, b: int) -> Figure:
    drawing = Drawing()
    corners = _triangle_with_angles(a, b)
    drawing.polygon(*corners)
    for i, text in enumerate((f"{a}°", f"{b}°", "x")):
        drawing.angle(corners[i], corners[i - 2], corners[i - 1], text)
    return Figure(FIND_ANGLE, number(180 - a - b), drawing)


def base_angle(apex: int) -> Figure:
    answer = Fraction(180 - apex, 2)
    drawing = Drawing()
    left, right, top = _triangle_with_angles(float(answer), float(answer))
    drawing.polygon(left, right, top)
    drawing.tick(left, top)
    drawing.tick(right, top)
    drawing.angle(top, left, right, f"{apex}°")
    drawing.angle(left, right, top, "x")
    return Figure(f"The marked sides are equal. {FIND_ANGLE}", number(answer), drawing)


def exterior_angle(a: int, b: int) -> Figure:
    drawing = Drawing()
    left, right, top = _triangle_with_angles(a, b)
    beyond = right + 0.45 * (right - left)
    drawing.polygon(left, right, top)
    drawing.segment(right, beyond)
    drawing.angle(left, right, top, f"{a}°")
    drawing.angle(top, left, right, f"{180 - a - b}°")
    drawing.angle(right, beyond, top, "x")
    return Figure(FIND_ANGLE, number(180 - b), drawing)


def triangle_area(base: int, height: int) -> Figure:
    drawing = Drawing()
    left, right = 0j, complex(base)
    foot = complex(base * (3 + (base + height) % 4) / 9)
    top = foot + height * 1j
    drawing.polygon(left, right, top)
    drawing.segment(foot, top, dashed=True)
    drawing.square(foot, right, top)
    drawing.length(left, right, str(base), away_from=top)
    drawing.length(foot, top, str(height), away_from=right if foot.real > base / 2 else left)
    return Figure("Find the area of the triangle.", number(Fraction(base * height, 2)), drawing)


def parallel_in_triangle(upper: int, lower: int, other: int) -> Figure:
    answer = Fraction(lower * other, upper)
    drawing = Drawing()
    top = 0j
    left = cmath.rect(upper + lower, math.radians(-120))
    right = cmath.rect(other + float(answer), math.radians(-55))
    share = upper / (upper + lower)
    drawing.polygon(top, left, right)
    drawing.segment(share * left, share * right)
    for start, end, text, opposite in (
        (top, share * left, str(upper), right),
        (share * left, left, str(lower), right),
        (top, share * right, str(other), left),
        (share * right, right, "x", left),
    ):
        drawing.length(start, end, text, away_from=opposite)
    return Figure(
        f"The line inside the triangle is parallel to one of its sides. {FIND}",
        number(answer),
        drawing,
    )


# --- kinds: quadrilaterals ------------------------------------------------------------------------


def rectangle_area(w: int, h: int) -> Figure:
    return Figure(
        "Find the area of the rectangle.", number(w * h), _rectangle(w, h, str(w), str(h))
    )


def rectangle_perimeter(w: int, h: int) -> Figure:
    drawing = _rectangle(w, h, str(w), str(h))
    return Figure("Find the perimeter of the rectangle.", number(2 * w + 2 * h), drawing)


def rectangle_side(w: int, area: int) -> Figure:
    drawing = _rectangle(w, area / w, str(w), "x")
    return Figure(
        f"The area of the rectangle is {area}. {FIND}", number(Fraction(area, w)), drawing
    )


def diagonal(w: int, h: int) -> Figure:
    drawing = _rectangle(w, h, str(w), str(h))
    drawing.segment(complex(w), complex(0, h))
    drawing.length(complex(w), complex(0, h), "x", away_from=0j)
    return Figure(f"The figure is a rectangle. {FIND}", root(w * w + h * h), drawing)


def trapezoid_area(bottom: int, top: int, height: int) -> Figure:
    drawing = Drawing()
    inset = complex((bottom - top) / 3, height)
    corners = (0j, complex(bottom), inset + top, inset)
    drawing.polygon(*corners)
    drawing.length(corners[0], corners[1], str(bottom), away_from=inset)
    drawing.length(corners[3], corners[2], str(top), away_from=0j)
    foot = complex(inset.real, 0)
    drawing.segment(foot, inset, dashed=True)
    drawing.square(foot, corners[1], inset)
    drawing.length(foot, inset, str(height), away_from=corners[0])
    answer = Fraction((bottom + top) * height, 2)
    return Figure("Find the area of the trapezoid.", number(answer), drawing)


def around_circle(side: int) -> Figure:
    drawing = Drawing()
    corners = (0j, complex(side), complex(side, side), complex(0, side))
    drawing.polygon(*corners, shaded=True)
    drawing.circle(complex(side, side) / 2, side / 2)
    drawing.length(corners[0], corners[1], str(side), away_from=corners[2])
    answer = f"{side * side} - {number(Fraction(side * side, 4), PI)}"
    return Figure(
        "The circle touches all sides of the square. Find the shaded area.", answer, drawing
    )


# --- kinds: circles and lines ---------------------------------------------------------------------


def circle_area(diameter: int) -> Figure:
    return Figure(
        "Find the area of the circle.", number(Fraction(diameter**2, 4), PI), _circle(diameter)
    )


def circumference(diameter: int) -> Figure:
    return Figure("Find the circumference of the circle.", number(diameter, PI), _circle(diameter))


def sector_area(radius: int, angle: int) -> Figure:
    answer = number(Fraction(angle * radius**2, 360), PI)
    return Figure("Find the area of the sector.", answer, _sector(radius, angle))


def arc_length(radius: int, angle: int) -> Figure:
    answer = number(Fraction(angle * radius, 180), PI)
    return Figure("Find the length of the arc of the sector.", answer, _sector(radius, angle))


def inscribed_angle(central: int) -> Figure:
    drawing = Drawing()
    left, right = (cmath.rect(1, math.radians(-90 + s * central / 2)) for s in (-1, 1))
    top = cmath.rect(1, math.radians(90 + (central % 7 - 3) * 5))
    drawing.circle(0j, 1)
    for start, end in ((0j, left), (0j, right), (top, left), (top, right)):
        drawing.segment(start, end)
    drawing.angle(0j, left, right, f"{central}°")
    drawing.angle(top, left, right, "x")
    drawing.name(0j, "O", away_from=-1j)
    return Figure(
        f"O is the centre of the circle. {FIND_ANGLE}", number(Fraction(central, 2)), drawing
    )


def parallel_lines(angle: int, kind: int) -> Figure:
    """`kind` 0: corresponding angles; 1: alternate angles; 2: angles on the same side, which add up to 180 degrees."""
    drawing = Drawing()
    along = cmath.rect(2 / math.sin(math.radians(angle)), math.radians(angle))
    lower, upper = -along / 2, along / 2
    for crossing in (lower, upper):
        drawing.segment(crossing - 1.4, crossing + 1.4)
    drawing.segment(1.6 * lower, 1.6 * upper)
    drawing.angle(lower, lower + 1, upper, f"{angle}°")
    start, end = ((upper + 1, 2 * upper), (upper - 1, lower), (lower, upper + 1))[kind]
    drawing.angle(upper, start, end, "x")
    answer = 180 - angle if kind == 2 else angle
    return Figure(
        f"The two lines that do not cross are parallel. {FIND_ANGLE}", number(answer), drawing
    )


# --- parts ----------------------------------------------------------------------------------------


def _right_triangle(a: float, b: float, *texts: str) -> Drawing:
    drawing = Drawing()
    corner, right, top = 0j, complex(a), complex(0, b)
    drawing.polygon(corner, right, top)
    drawing.square(corner, right, top)
    drawing.length(corner, right, texts[0], away_from=top)
    drawing.length(corner, top, texts[1], away_from=right)
    drawing.length(right, top, texts[2], away_from=corner)
    return drawing


def _triangle_with_angles(left: float, right: float) -> tuple[complex, complex, complex]:
    """The corners of a triangle with base length 1 and these angles in degrees at the base."""
    a, b = math.radians(left), math.radians(right)
    return 0j, 1 + 0j, cmath.rect(math.sin(b) / math.sin(a + b), a)


def _rectangle(w: float, h: float, bottom: str, side: str) -> Drawing:
    drawing = Drawing()
    corners = (0j, complex(w), complex(w, h), complex(0, h))
    drawing.polygon(*corners)
    drawing.square(corners[0], corners[1], corners[3])
    drawing.length(corners[0], corners[1], bottom, away_from=corners[2])
    drawing.length(corners[1], corners[2], side, away_from=corners[3])
    return drawing


def _circle(diameter: int) -> Drawing:
    """A circle labelled with its radius if that is a whole number, otherwise with its diameter."""
    drawing = Drawing()
    radius = diameter / 2
    drawing.circle(0j, radius)
    whole = diameter % 2 == 0
    start, end = 0j if whole else complex(-radius), complex(radius)
    drawing.segment(start, end)
    drawing.dot(0j)
    drawing.length(start, end, str(diameter // 2 if whole else diameter), away_from=-1j * radius)
    return drawing


def _sector(radius: int, angle: int) -> Drawing:
    drawing = Drawing()
    start, end = complex(radius), cmath.rect(radius, math.radians(angle))
    drawing.segment(0j, start)
    drawing.segment(0j, end)
    drawing.arc(0j, radius, 0, angle)
    drawing.angle(0j, start, end, f"{angle}°")
    drawing.length(0j, start, str(radius), away_from=1j * radius)
    return drawing


# --- all of them ----------------------------------------------------------------------------------


def _pairs(numbers: range, most: float = 4) -> Iterator[tuple[int, int]]:
    """All pairs in which neither number exceeds `most` times the other, to avoid very thin figures."""
    return ((a, b) for a, b in product(numbers, numbers) if a <= most * b and b <= most * a)


def _angles(least: int) -> list[tuple[int, ...]]:
    """Pairs of angles of a triangle whose three angles are all between `least` and 120 degrees."""
    several = range(least, 121)
    return [(a, b) for a, b in product(several, repeat=2) if 180 - a - b in several]


KINDS: dict[str, tuple[Callable[..., Figure], list[tuple[int, ...]]]] = {
    "hypotenuse": (hypotenuse, list(_pairs(range(2, 61)))),
    "leg": (leg, [(a, c) for a, c in _pairs(range(2, 61)) if 1.1 * a < c]),
    "third angle": (third_angle, _angles(25)),
    "base angle": (base_angle, [(apex,) for apex in range(25, 131)]),
    "exterior angle": (exterior_angle, _angles(35)),
    "triangle area": (triangle_area, list(_pairs(range(2, 61), most=1.6))),
    "parallel in triangle": (
        parallel_in_triangle,
        [t for t in product(range(2, 16), repeat=3) if max(t) <= 3 * min(t) and t[0] != t[1]],
    ),
    "rectangle area": (rectangle_area, list(_pairs(range(2, 61)))),
    "rectangle perimeter": (rectangle_perimeter, list(_pairs(range(2, 61)))),
    "rectangle side": (
        rectangle_side,
        [
            (w, area)
            for w, area in product(range(3, 31), range(6, 400))
            if w * w / 4 <= area <= 4 * w * w
        ],
    ),
    "diagonal": (diagonal, list(_pairs(range(2, 61), most=2.5))),
    "trapezoid area": (
        trapezoid_area,
        [
            (b, t, h)
            for b, t in _pairs(range(3, 31), 2.5)
            for h in (b // 2, b * 3 // 4, b)
            if t <= 0.65 * b  # otherwise the height would coincide with the leg
        ],
    ),
    "around circle": (around_circle, [(side,) for side in range(2, 121)]),
    "circle area": (circle_area, [(d,) for d in range(2, 201)]),
    "circumference": (circumference, [(d,) for d in range(2, 201)]),
    "sector area": (sector_area, list(product(range(2, 41), range(30, 166, 5)))),
    "arc length": (arc_length, list(product(range(2, 41), range(30, 166, 5)))),
    "inscribed angle": (inscribed_angle, [(a,) for a in range(40, 161)]),
    "parallel lines": (parallel_lines, list(product(range(40, 141), range(3)))),
}
"""For each kind, the function that makes a figure and all its arguments; each gives a different problem."""
