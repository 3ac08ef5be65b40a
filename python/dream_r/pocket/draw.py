"""Drawing: a grid of coloured shapes or digits, one 32-pixel cell per visual token."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from dream_r.pocket.words import COLOURS, COLUMNS, SHAPES

CELL = 32
BACKGROUND = (150, 150, 150)
INK = (30, 30, 30)  # row and column labels
_BASE = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 225, 60),
    "green": (50, 165, 70),
    "blue": (45, 85, 215),
    "purple": (135, 50, 165),
}
PALETTES = 12  # each shifts every colour a little; some are kept for the held-out split

# 5x7 bitmaps, one row per byte.
_FONT = {
    "1": "0e040404040c04",
    "2": "1f08040201110e",
    "3": "0e11010601110e",
    "4": "02021f120a0602",
    "5": "0e1101011e101f",
    "a": "0f110f010e0000",
    "b": "1e1111191610 10".replace(" ", ""),
    "c": "0e1110110e0000",
    "d": "0f1111130d0101",
    "e": "0e101f110e0000",
}


@cache
def palette(index: int) -> dict[str, tuple[int, int, int]]:
    """The colours of palette `index`, near the base colours."""
    rng = np.random.default_rng([7, index])
    return {
        name: tuple(int(v) for v in np.clip(np.array(rgb) + rng.integers(-14, 15, 3), 0, 255))
        for name, rgb in _BASE.items()
    }


def _star(radius: float, points: int = 5, inner: float = 0.42) -> list[tuple[float, float]]:
    angles = [np.pi * k / points - np.pi / 2 for k in range(2 * points)]
    return [
        (radius * (inner if k % 2 else 1) * np.cos(a), radius * (inner if k % 2 else 1) * np.sin(a))
        for k, a in enumerate(angles)
    ]


@cache
def mask(what: str, size: int) -> np.ndarray:
    """Coverage [32, 32] in 0..1 of a shape or character about `size` pixels wide, centred."""
    if what in _FONT:
        rows = [int(_FONT[what][i : i + 2], 16) for i in range(0, 14, 2)][::-1]
        bits = np.array([[(row >> (4 - x)) & 1 for x in range(5)] for row in rows], np.uint8)
        glyph = Image.fromarray(bits * 255).resize((size * 5 // 7, size), Image.Resampling.BOX)
        sheet = Image.new("L", (CELL, CELL))
        sheet.paste(glyph, ((CELL - glyph.width) // 2, (CELL - size) // 2))
        return np.asarray(sheet, np.float32) / 255
    scale, r = 4, size / 2
    sheet = Image.new("L", (CELL * scale, CELL * scale))
    pen, middle = ImageDraw.Draw(sheet), CELL / 2
    outline = {
        "square": [
            (-r * 0.82, -r * 0.82),
            (r * 0.82, -r * 0.82),
            (r * 0.82, r * 0.82),
            (-r * 0.82, r * 0.82),
        ],
        "triangle": [(0, -r), (r, r * 0.8), (-r, r * 0.8)],
        "diamond": [(0, -r), (r * 0.75, 0), (0, r), (-r * 0.75, 0)],
        "star": _star(r * 1.1),
        "cross": [
            (x * r, y * r)
            for x, y in (
                (-0.32, -1),
                (0.32, -1),
                (0.32, -0.32),
                (1, -0.32),
                (1, 0.32),
                (0.32, 0.32),
                (0.32, 1),
                (-0.32, 1),
                (-0.32, 0.32),
                (-1, 0.32),
                (-1, -0.32),
                (-0.32, -0.32),
            )
        ],
    }
    if what == "circle":
        box = [
            (middle - r) * scale,
            (middle - r) * scale,
            (middle + r) * scale,
            (middle + r) * scale,
        ]
        pen.ellipse(box, fill=255)
    else:
        pen.polygon(
            [((middle + x) * scale, (middle + y) * scale) for x, y in outline[what]], fill=255
        )
    small = sheet.resize((CELL, CELL), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _stamp(canvas: np.ndarray, row: int, column: int, cover: np.ndarray, rgb) -> None:
    cell = canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    cell += cover[..., None] * (np.asarray(rgb, np.float32) - cell)


def draw(cells, colours: dict, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Picture uint8 [(rows+1)*32, (columns+1)*32, 3] of `cells[row][column]`.

    A cell is None or (colour, shape or digit); labels fill the first row and column;
    `noise` in 0..1 scales jitter of place, size and colour, and the grain.
    """
    rows, columns = len(cells), len(cells[0])
    canvas = np.empty(((rows + 1) * CELL, (columns + 1) * CELL, 3), np.float32)
    canvas[:] = BACKGROUND
    for c in range(columns):
        _stamp(canvas, 0, c + 1, mask(COLUMNS[c], 18), INK)
    for r in range(rows):
        _stamp(canvas, r + 1, 0, mask(str(r + 1), 18), INK)
    reach = 1 + int(3 * noise)
    for r, line in enumerate(cells):
        for c, cell in enumerate(line):
            if cell is None:
                continue
            shift = rng.integers(-reach, reach + 1, 2)
            size = int(rng.integers(20 - 2 * reach // 2, 23)) if cell[1] in SHAPES else 20
            tint = np.array(colours[cell[0]]) + rng.normal(0, 14 * noise, 3)
            _stamp(canvas, r + 1, c + 1, np.roll(mask(cell[1], size), shift, (0, 1)), tint)
    canvas[::CELL] -= 18
    canvas[:, ::CELL] -= 18
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(3 + 22 * noise)
    return np.clip(canvas, 0, 255).astype(np.uint8)


assert set(_BASE) == set(COLOURS)
