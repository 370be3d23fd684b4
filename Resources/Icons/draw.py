"""Draws the icons of the extension and its modules: `python Resources/Icons/draw.py`, with pillow and numpy.

Shapes are few and bold, since module icons are shown 24 pixels wide, and light with a dark rim, since Slicer has a
light and a dark look. Colors are those of the segments; the patient's right is on the left, as in Slicer's views.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
SIZE_PX, FINE = 128, 8
RIM, FUR = (45, 52, 64), (222, 226, 232)
RED, GREEN, BLUE, YELLOW = (219, 38, 38), (33, 166, 64), (41, 102, 230), (242, 204, 26)
LUNGS, TUMOR, SKY = (64, 158, 242), (242, 77, 38), (24, 42, 74)

RIGHT_LUNG = ((45, 27), (36, 18), (25, 30), (15, 55), (12, 82), (24, 88), (41, 82), (44, 55))
LEFT_LUNG = tuple((100 - x, y) for x, y in RIGHT_LUNG)
FLANK = ((41, 8), (31, 21), (16, 38), (10, 60), (17, 80), (36, 90))
BODY = ((50, 4), *FLANK, *((100 - x, y) for x, y in reversed(FLANK)))
TAIL = ((50, 86), (56, 92), (64, 94.5), (72, 94), (80, 91), (88, 90), (95, 92))
HEART = ((50, 48), (58, 44), (64, 52), (60, 64), (52, 72), (44, 64), (43, 52))
TORSO = ((38, 2), (62, 2), (64, 12), (86, 17), (95, 32), (92, 96), (8, 96), (5, 32), (14, 17), (36, 12))


def canvas() -> Image.Image:
    """Return an empty picture, `FINE` times too large in both directions."""
    return Image.new("RGBA", (SIZE_PX * FINE, SIZE_PX * FINE), (0, 0, 0, 0))


def smooth(points, center=(50, 50), scale=1.0, shift=(0, 0)) -> list[tuple[float, float]]:
    """Return a closed curve through points (Catmull-Rom), in pixels; points are in percent of the picture."""
    p = (np.array(points, float) - center) * scale + center + shift
    before, after, last = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, 24, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * p + (after - before) * t + (2 * before - 5 * p + 4 * after - last) * t**2
        + (3 * p - before - 3 * after + last) * t**3
    )  # fmt: skip
    return [tuple(xy) for xy in curve.transpose(1, 0, 2).reshape(-1, 2) * SIZE_PX * FINE / 100]


def shape(image: Image.Image, outline, fill, rim=3.0) -> None:
    """Draw a filled shape with a rim; `rim` in percent of the picture."""
    draw, width = ImageDraw.Draw(image), int(rim * SIZE_PX * FINE / 100)
    draw.polygon(outline, fill=fill)
    if width:
        draw.line([*outline, *outline[:2]], fill=RIM, width=width, joint="curve")


def disk(image: Image.Image, x: float, y: float, radius: float, fill, rim=3.0) -> None:
    """Draw a filled circle with a rim; everything in percent of the picture."""
    factor = SIZE_PX * FINE / 100
    box = [(x - radius) * factor, (y - radius) * factor, (x + radius) * factor, (y + radius) * factor]
    ImageDraw.Draw(image).ellipse(box, fill=fill, outline=RIM, width=int(rim * factor))


def mouse_thorax() -> Image.Image:
    """A mouse seen from above with right lung, left lung, heart and spinal cord."""
    image = canvas()
    tail = [tuple(np.array(xy) * SIZE_PX * FINE / 100) for xy in TAIL]
    for color, width in ((RIM, 0.09), (FUR, 0.035)):
        ImageDraw.Draw(image).line(tail, fill=color, width=int(width * SIZE_PX * FINE), joint="curve")
    for x in (25, 75):
        disk(image, x, 17, 13, FUR, 4)
    shape(image, smooth(BODY), FUR, 4)
    shape(image, smooth(RIGHT_LUNG, scale=0.8, shift=(0.5, 3)), BLUE, 2)
    shape(image, smooth(LEFT_LUNG, scale=0.8, shift=(-0.5, 3)), YELLOW, 2)
    shape(image, smooth(HEART, scale=1.05, shift=(0, 2)), RED, 2)
    return image


def lung_tumor() -> Image.Image:
    """Human lungs with windpipe and a tumor in the left one."""
    image = canvas()
    shape(image, smooth(TORSO), FUR, 4)
    windpipe = [tuple(np.array(xy) * SIZE_PX * FINE / 100) for xy in ((46, 6), (54, 6), (54, 44), (46, 44))]
    shape(image, windpipe, (255, 255, 255), 2.5)
    for lung in (RIGHT_LUNG, LEFT_LUNG):
        shape(image, smooth(lung, scale=0.98, shift=(0, 2)), LUNGS, 3)
    disk(image, 71, 61, 13, TUMOR, 3)
    return image


def extension() -> Image.Image:
    """Both lungs, the heart and the cord on a dark tile."""
    image = canvas()
    side = SIZE_PX * FINE - 1
    ImageDraw.Draw(image).rounded_rectangle([0, 0, side, side], radius=side * 0.2, fill=SKY)
    shape(image, smooth(RIGHT_LUNG), BLUE, 1.5)
    shape(image, smooth(LEFT_LUNG), YELLOW, 1.5)
    shape(image, smooth(HEART, scale=1.15), RED, 1.5)
    disk(image, 50, 86, 5, GREEN, 1.5)
    return image


ICONS = {
    "Resources/Icons/ThoraxSeg.png": extension,
    "MouseThoraxSeg/Resources/Icons/MouseThoraxSeg.png": mouse_thorax,
    "LungTumorSeg/Resources/Icons/LungTumorSeg.png": lung_tumor,
}


def main() -> None:
    """Write every icon to its place."""
    for name, draw in ICONS.items():
        draw().resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS).save(ROOT / name, optimize=True)


if __name__ == "__main__":
    main()
