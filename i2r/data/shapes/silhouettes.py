"""Outlines of the twenty classes of the embedded data set, with structural variation inside each class.

An outline is a list of parts (points, filled), painted in order: filled parts add to the silhouette, the others
cut holes. Points are (N, 2) float arrays, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

Part = tuple[np.ndarray, bool]
Outline = list[Part]
Rng = np.random.Generator


def _points(*pairs: tuple[float, float]) -> np.ndarray:
    return np.array(pairs, dtype=float)


def _polar(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


@cache
def _circle(n: int) -> np.ndarray:
    return _polar(np.ones(n), np.arange(n) * (2 * np.pi / n))


def _disc(x: float, y: float, rx: float, ry: float | None = None, n: int = 28) -> np.ndarray:
    return _circle(n) * (rx, rx if ry is None else ry) + (x, y)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return _points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
    along = np.array([x1 - x0, y1 - y0])
    across = np.array([-along[1], along[0]]) * (width / 2 / (np.hypot(*along) + 1e-9))
    ends = _points((x0, y0), (x1, y1))
    return np.concatenate([ends + across, ends[::-1] - across])


def _arc(
    x: float, y: float, radius: float, start: float, stop: float, width: float, n: int = 16
) -> np.ndarray:
    """A thick arc; angles in radians, clockwise on the screen."""
    angles = np.linspace(start, stop, n)
    outer = _polar(np.full(n, radius + width / 2), angles)
    inner = _polar(np.full(n, radius - width / 2), angles[::-1])
    return np.concatenate([outer, inner]) + [x, y]


def _smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Smooth a closed polygon by cutting its corners (Chaikin)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(
            -1, 2
        )
    return points


def star(rng: Rng) -> Outline:
    n = int(rng.integers(5, 9))
    radii = np.tile([1.0, rng.uniform(0.38, 0.58)], n)
    angles = np.arange(2 * n) * (np.pi / n) - np.pi / 2
    return [(_polar(radii, angles), True)]


def gear(rng: Rng) -> Outline:
    n = int(rng.integers(7, 13))
    root, tip = rng.uniform(0.68, 0.78), rng.uniform(0.25, 0.45)
    step = 2 * np.pi / n
    angles = (
        np.arange(n)[:, None] * step + step * np.array([0.0, 0.5 - tip / 2, 0.5 + tip / 2, 1.0])
    ).ravel()
    angles += np.tile([step * 0.14, 0.0, 0.0, -step * 0.14], n)
    parts = [(_polar(np.tile([root, 1.0, 1.0, root], n), angles), True)]
    hole = rng.uniform(0.2, 0.45)
    parts.append((_disc(0, 0, hole), False))
    if hole > 0.36:
        turn = rng.uniform(0, np.pi)
        for angle in turn + np.arange(2) * np.pi / 2:
            x, y = hole * np.cos(angle), hole * np.sin(angle)
            parts.append((_bar(-x, -y, x, y, 0.14), True))
    return parts


def key(rng: Rng) -> Outline:
    bow, shaft = rng.uniform(0.36, 0.46), rng.uniform(0.16, 0.22)
    kind = rng.integers(3)
    if kind == 0:
        head = _disc(-0.6, 0, bow)
    elif kind == 1:
        head = _smooth(_box(-0.6 - bow, -bow, -0.6 + bow, bow))
    else:
        head = _disc(-0.6, 0, bow * 0.85, bow * 1.1)
    parts = [(head, True), (_bar(-0.5, 0, 1.0, 0, shaft), True)]
    parts.append((_disc(-0.62, 0, bow * rng.uniform(0.4, 0.6)), False))
    x = 1.0
    for _ in range(rng.integers(2, 5)):
        width = rng.uniform(0.12, 0.17)
        parts.append((_box(x - width, 0, x, rng.uniform(0.22, 0.42)), True))
        x -= width + rng.uniform(0.07, 0.11)
    return parts


def mug(rng: Rng) -> Outline:
    width, height = rng.uniform(0.48, 0.62), rng.uniform(0.55, 0.85)
    foot = width * rng.uniform(0.7, 1.0)
    body = _points((-width, -height), (width, -height), (foot, height), (-foot, height))
    reach = height * rng.uniform(0.42, 0.6)
    handle = _arc(width * 0.88, -0.05 * height, reach, -np.pi / 2, np.pi / 2, rng.uniform(0.14, 0.2))
    parts = [(handle, True), (body, True)]
    if rng.random() < 0.4:
        parts.append((_disc(0, -height, width, 0.14), True))
    if rng.random() < 0.3:
        parts.append((_box(-width * 1.2, height, width * 1.2, height + 0.14), True))
    return parts


def fish(rng: Rng) -> Outline:
    depth, tail = rng.uniform(0.32, 0.5), rng.uniform(0.32, 0.52)
    x = np.linspace(-0.95, 0.5, 12)
    half = depth * np.sin(np.pi * np.linspace(0.06, 1, 12) ** rng.uniform(0.6, 0.85))
    body = np.concatenate([np.stack([x, -half], 1), np.stack([x, half], 1)[::-1]])
    fork = rng.uniform(0.65, 0.95)
    parts = [(body, True), (_points((0.3, 0), (1.0, -tail), (fork, 0), (1.0, tail)), True)]
    top = depth + rng.uniform(0.15, 0.32)
    fin = rng.uniform(-0.5, -0.2)
    parts.append((_points((fin, -depth * 0.8), (fin + 0.35, -top), (fin + 0.6, -depth * 0.5)), True))
    if rng.random() < 0.6:
        parts.append((_points((fin, depth * 0.8), (fin + 0.3, top), (fin + 0.45, depth * 0.6)), True))
    parts.append((_disc(-0.66, -0.08, 0.075, n=10), False))
    return parts


def crescent(rng: Rng) -> Outline:
    offset, bite = rng.uniform(0.3, 0.55), rng.uniform(0.72, 0.88)
    return [(_disc(0, 0, 1.0, n=40), True), (_disc(offset, 0, bite, bite, n=40), False)]


def arrow(rng: Rng) -> Outline:
    shaft, head, length = rng.uniform(0.2, 0.36), rng.uniform(0.42, 0.62), rng.uniform(0.55, 0.9)
    barb = 1 - length + rng.uniform(-0.12, 0.05)
    parts = [(_points((1, 0), (barb, -head), (1 - length + 0.1, 0), (barb, head)), True)]
    if rng.random() < 0.3:  # two-headed
        parts.append((parts[0][0] * [-1, 1], True))
        return [*parts, (_bar(-0.5, 0, 0.5, 0, shaft), True)]
    parts.append((_bar(-1, 0, 0.4, 0, shaft), True))
    if rng.random() < 0.5:  # feathers
        for x in (-1.0, -0.78):
            for side in (-1, 1):
                parts.append((_bar(x + 0.18, 0, x - 0.08, side * head * 0.8, 0.13), True))
    return parts


def heart(rng: Rng) -> Outline:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    dent = rng.uniform(3.5, 6.0)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - dent * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(np.stack([x / 17, y / 17 * rng.uniform(0.85, 1.15)], 1), True)]


def hand(rng: Rng) -> Outline:
    palm = rng.uniform(0.36, 0.44)
    parts = [(_disc(0, 0.4, palm, palm * 1.1), True), (_box(-palm * 0.6, 0.5, palm * 0.6, 1.05), True)]
    spread, width = rng.uniform(0.2, 0.32), rng.uniform(0.17, 0.21)
    for i, reach in enumerate((1.15, 1.3, 1.25, 1.0)):
        if rng.random() < 0.08:  # a bent finger
            reach *= 0.6
        angle = (i - 1.5) * spread - np.pi / 2
        reach *= rng.uniform(0.9, 1.05)
        x, y = reach * np.cos(angle), 0.4 + reach * np.sin(angle)
        parts += [(_bar(0, 0.4, x, y, width), True), (_disc(x, y, width / 2, n=10), True)]
    angle = -np.pi + rng.uniform(0.1, 0.5)
    x, y = 0.85 * np.cos(angle), 0.5 + 0.85 * np.sin(angle)
    return [*parts, (_bar(0, 0.5, x, y, width * 1.15), True), (_disc(x, y, width * 0.57, n=10), True)]


def leaf(rng: Rng) -> Outline:
    n, width, tooth = int(rng.integers(5, 9)), rng.uniform(0.45, 0.65), rng.uniform(0.12, 0.24)
    x = np.linspace(-0.75, 1.0, 2 * n + 1)
    half = width * np.sin(np.pi * np.linspace(0, 1, 2 * n + 1) ** rng.uniform(0.65, 0.9))
    half[1::2] += tooth * half[1::2] / width + 0.03
    half[2:-1:2] -= tooth * 0.6 * half[2:-1:2] / width
    edge = np.concatenate([np.stack([x, -half], 1), np.stack([x, half], 1)[::-1]])
    parts = [(edge, True), (_bar(-0.7, 0, -1.15, rng.uniform(-0.25, 0.25), 0.11), True)]
    if rng.random() < 0.5:
        parts.append((_bar(-0.5, 0, 0.65, 0, 0.06), False))
    return parts


def bolt(rng: Rng) -> Outline:
    n = int(rng.integers(2, 4))
    y = np.linspace(-1, 1, n + 1)
    swing, width = rng.uniform(0.22, 0.34), rng.uniform(0.32, 0.46)
    left, right = [], []
    for i in range(n):
        taper = 1 - i / n
        left += [(swing - width * taper, y[i] + (0.12 if i else 0)), (-swing - width * taper * 0.6, y[i + 1])]
        right += [(swing + width * taper * 0.4, y[i]), (-swing + width * taper * 0.7, y[i + 1] - 0.12)]
    left[-1] = right[-1] = (-swing, 1.0)
    return [(_points(*left, *right[::-1]), True)]


def ring(rng: Rng) -> Outline:
    hole, aspect = rng.uniform(0.5, 0.74), rng.uniform(0.7, 1.0)
    parts = [(_disc(0, 0, 1, aspect, n=40), True), (_disc(0, 0, hole, aspect * hole, n=36), False)]
    if rng.random() < 0.4:
        size = rng.uniform(0.2, 0.32)
        stone = _points((-size, 0), (-size * 0.6, -size), (size * 0.6, -size), (size, 0), (0, size))
        parts.append((stone - [0, aspect], True))
    return parts


def cross(rng: Rng) -> Outline:
    width, middle = rng.uniform(0.2, 0.36), rng.uniform(-0.4, 0.05)
    arm = rng.uniform(0.65, 1.0)
    parts = [(_box(-width, -1, width, 1), True), (_box(-arm, middle - width, arm, middle + width), True)]
    if rng.random() < 0.35:  # arms that end in a bulge
        bulge = width * 1.35
        parts += [
            (_disc(x, y, bulge, n=16), True) for x, y in ((0, -1), (0, 1), (-arm, middle), (arm, middle))
        ]
    return parts


def house(rng: Rng) -> Outline:
    width, wall, roof = rng.uniform(0.6, 0.85), rng.uniform(0.55, 0.85), rng.uniform(0.45, 0.8)
    eaves = width + rng.uniform(0.05, 0.2)
    parts: Outline = [(_box(-width, 0, width, wall), True)]
    if rng.random() < 0.3:  # hipped
        parts.append(
            (_points((-eaves, 0.04), (-eaves * 0.5, -roof), (eaves * 0.5, -roof), (eaves, 0.04)), True)
        )
    else:
        parts.append((_points((-eaves, 0.04), (0, -roof), (eaves, 0.04)), True))
    if rng.random() < 0.7:
        x = rng.uniform(0.3, 0.55) * width
        parts.append((_box(x, -roof, x + 0.22, -0.1), True))
    door = rng.uniform(-0.5, 0.2) * width
    parts.append((_box(door, wall - rng.uniform(0.4, 0.5), door + 0.28, wall), False))
    if rng.random() < 0.7:
        parts.append((_box(door + 0.42, 0.14, door + 0.68, 0.36), False))
    return parts


def tree(rng: Rng) -> Outline:
    trunk = rng.uniform(0.1, 0.17)
    parts: Outline = [(_box(-trunk, 0.2, trunk, 1.0), True)]
    if rng.random() < 0.5:
        n, width = int(rng.integers(2, 5)), rng.uniform(0.55, 0.75)
        for i in range(n):
            top, half = -1 + 1.2 * i / n, width * (0.55 + 0.45 * (i + 1) / n)
            parts.append(
                (_points((0, top), (half, top + 1.9 / (n + 0.6)), (-half, top + 1.9 / (n + 0.6))), True)
            )
        return parts
    n = int(rng.integers(4, 7))
    turn, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.34, 0.42)
    parts.append((_disc(0, -0.35, 0.42), True))
    for angle in turn + np.arange(n) * 2 * np.pi / n:
        parts.append(
            (_disc(0.42 * np.cos(angle), -0.35 + 0.34 * np.sin(angle), size * rng.uniform(0.8, 1.0)), True)
        )
    return parts


def bottle(rng: Rng) -> Outline:
    body, neck = rng.uniform(0.3, 0.42), rng.uniform(0.1, 0.15)
    shoulder, lip = rng.uniform(-0.35, 0.05), rng.uniform(0.03, 0.07)
    slope = rng.uniform(0.12, 0.4)
    waist = body * rng.uniform(0.75, 1.0)
    right = [(neck, -1), (neck, shoulder - slope), (body, shoulder), (waist, (shoulder + 1) / 2), (body, 1)]
    edge = _points(*right, *[(-x, y) for x, y in right[::-1]])
    return [(edge, True), (_box(-neck - lip, -1.05, neck + lip, -0.86), True)]


def boat(rng: Rng) -> Outline:
    deck, keel, depth = rng.uniform(0.8, 1.0), rng.uniform(0.4, 0.7), rng.uniform(0.26, 0.4)
    hull = _points((-deck, 0.5), (deck, 0.5), (keel, 0.5 + depth), (-keel * 0.9, 0.5 + depth))
    mast = rng.uniform(-0.2, 0.15)
    parts = [(hull, True), (_bar(mast, -1, mast, 0.55, 0.1), True)]
    reach, foot = rng.uniform(0.5, 0.75), rng.uniform(0.2, 0.36)
    parts.append((_points((mast + 0.1, -0.9), (mast + 0.1 + reach, foot), (mast + 0.1, foot)), True))
    if rng.random() < 0.65:
        reach, top = rng.uniform(0.35, 0.6), rng.uniform(-0.8, -0.4)
        parts.append((_points((mast - 0.1, top), (mast - 0.1 - reach, foot), (mast - 0.1, foot)), True))
    return parts


def butterfly(rng: Rng) -> Outline:
    upper, lower = rng.uniform(0.42, 0.55), rng.uniform(0.3, 0.42)
    lift, drop = rng.uniform(0.25, 0.42), rng.uniform(0.38, 0.55)
    pointed = rng.random() < 0.5
    parts: Outline = []
    for side in (-1, 1):
        if pointed:
            wing = _points(
                (0.02, -0.05), (0.45, -lift - upper), (1.0, -lift - upper * 0.9), (0.75, 0.05), (0.1, 0.12)
            )
            wing = _smooth(wing, 1)
        else:
            wing = _disc(0.53, -lift, 0.5, upper)
        parts.append((wing * [side, 1], True))
        parts.append((_disc(0.4, drop, lower, lower * rng.uniform(0.9, 1.2)) * [side, 1], True))
        parts.append((_bar(0, -0.4, side * 0.28, -0.95, 0.07), True))
    parts.append((_disc(0, 0.05, 0.11, 0.6), True))
    if rng.random() < 0.5:
        spot = rng.uniform(0.12, 0.18)
        parts += [(_disc(side * 0.58, -lift, spot, n=12), False) for side in (-1, 1)]
    return parts


def umbrella(rng: Rng) -> Outline:
    height, n = rng.uniform(0.6, 0.85), int(rng.integers(3, 6))
    parts: Outline = [(_arc(0, 0, 0.5, np.pi, 2 * np.pi, 1.0, n=24) * [1, height], True)]
    for i in range(n):
        parts.append((_disc(-1 + (2 * i + 1) / n, 0.02, 1 / n, 0.2), False))
    hook, end = rng.uniform(0.16, 0.24), rng.uniform(0.7, 0.95)
    parts += [(_bar(0, -height - 0.14, 0, end, 0.12), True), (_arc(hook, end, hook, 0, np.pi, 0.12), True)]
    return parts


def chair(rng: Rng) -> Outline:
    width, seat, thick = rng.uniform(0.42, 0.6), rng.uniform(0.0, 0.2), rng.uniform(0.13, 0.2)
    leg, lean = rng.uniform(0.1, 0.15), rng.uniform(0.0, 0.18)
    parts: Outline = [(_box(-width, seat, width, seat + thick), True)]
    for x, out in ((-width + leg / 2, -1), (width - leg / 2, 1)):
        parts.append((_bar(x, seat + thick / 2, x + out * rng.uniform(0, 0.1), 1.0, leg), True))
    if rng.random() < 0.5:  # seen from the side
        parts.append((_bar(-width + thick / 2, seat + thick, -width - lean, -1, thick), True))
        if rng.random() < 0.5:
            parts.append((_bar(-width, -0.45, width * 0.7, -0.45 + 0.1, leg), True))
            parts.append((_bar(width * 0.6, -0.4, width * 0.6, seat, leg), True))
        return parts
    parts += [(_box(x, -1, x + leg, seat), True) for x in (-width, width - leg)]
    parts.append((_box(-width, -1, width, -1 + rng.uniform(0.15, 0.3)), True))
    for x in np.linspace(-width, width - leg, int(rng.integers(3, 5)))[1:-1]:
        parts.append((_box(x, -0.9, x + leg, seat), True))
    return parts


def clutter(rng: Rng) -> Outline:
    """A shape that belongs to no class: a blob, a polygon, a bar or an arc."""
    kind = rng.integers(4)
    if kind == 0:
        n = int(rng.integers(6, 10))
        return [(_smooth(_polar(rng.uniform(0.5, 1.0, n), np.arange(n) * 2 * np.pi / n)), True)]
    if kind == 1:
        n = int(rng.integers(3, 6))
        return [(_polar(rng.uniform(0.6, 1.0, n), np.sort(rng.uniform(0, 2 * np.pi, n))), True)]
    if kind == 2:
        return [(_bar(-1, 0, 1, 0, rng.uniform(0.15, 0.5)), True)]
    return [(_arc(0, 0, 0.85, 0, rng.uniform(1.5, 3.5), rng.uniform(0.15, 0.3)), True)]


# Class k (1..20) is the k-th of these; fold f tests classes 5 f + 1 .. 5 f + 5.
DRAWN: tuple[Callable[[Rng], Outline], ...] = (
    *(star, gear, key, mug, fish),
    *(crescent, arrow, heart, hand, leaf),
    *(bolt, ring, cross, house, tree),
    *(bottle, boat, butterfly, umbrella, chair),
)
CLASSES = tuple(draw.__name__ for draw in DRAWN)
# Classes that look alike, of the same fold or of others. For each, one of its group is among the three classes whose
# outlines a linear classifier tells least from its own (Mahalanobis distance of mean silhouettes; a test measures it).
GROUPS = (
    ("star", "leaf"),
    ("key", "arrow"),
    ("cross", "tree"),
    ("fish", "house"),
    ("crescent", "ring"),
    ("hand", "bottle", "boat"),
    ("bolt", "umbrella", "chair"),
    ("gear", "mug", "heart", "butterfly"),
)


def outline(rng: Rng, cls: int, rotate: float = np.pi / 6) -> Outline:
    """A random outline of class `cls` (0: clutter), randomly mirrored, stretched, sheared and rotated.

    Args:
        rotate: largest rotation to either side in radians; clutter has any rotation.

    Returns:
        Parts centred on their bounding box, whose longer half side is 1.
    """
    parts = DRAWN[cls - 1](rng) if cls else clutter(rng)
    angle = rng.uniform(-np.pi, np.pi) if cls == 0 else rng.uniform(-rotate, rotate)
    stretch, shear = rng.uniform(0.8, 1.25), rng.uniform(-0.15, 0.15)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[mirror * stretch, shear], [0.0, 1.0]])
    ends = np.cumsum([len(points) for points, _ in parts])
    points = np.concatenate([points for points, _ in parts]) @ matrix.T
    solid = points[np.repeat([filled for _, filled in parts], np.diff(ends, prepend=0))]
    low, high = solid.min(axis=0), solid.max(axis=0)
    points = (points - (low + high) / 2) * (2 / (high - low).max())
    return [(points[end - len(part) : end], filled) for (part, filled), end in zip(parts, ends, strict=True)]
