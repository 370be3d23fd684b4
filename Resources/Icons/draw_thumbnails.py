"""Draws the thumbnails of the sample data: `python Resources/Icons/draw_thumbnails.py`; the real mouse is fetched once.

Each is a coronal slice of the image itself through its middle, head up, the patient's right on the left.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from thoraxseg.checkpoints import install
from thoraxseg.demo import REAL_CHECKPOINT
from thoraxseg.demo import real_mouse as installed_mouse
from thoraxseg.phantoms import human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.volume import Volume

FOLDER = Path(__file__).resolve().parents[2] / "ThoraxSegLib" / "Resources" / "Icons"
WIDTH_PX, HEIGHT_PX = 260, 280


def real_mouse() -> Volume:
    """Return the published mouse MRI."""
    install(REAL_CHECKPOINT)
    return installed_mouse()


def thumbnail(volume: Volume, low: float, high: float, depth: float = 0.5) -> Image.Image:
    """Return one coronal slice, `depth` of the way to the front, gray from `low` to `high`, filling the picture."""
    columns = np.argmax(
        np.abs(volume.ijk_to_ras[:3, :3]), axis=0
    )  # of i, j, k: 0 right, 1 anterior, 2 superior
    order = [2 - int(np.flatnonzero(columns == world)[0]) for world in (2, 1, 0)]  # array axes of S, A, R
    array = volume.array.transpose(order)
    for axis, world in enumerate((2, 1, 0)):
        if volume.ijk_to_ras[world, 2 - order[axis]] < 0:
            array = np.flip(array, axis)
    spacing = [volume.spacing_mm[axis] for axis in order]
    gray = array[::-1, int(array.shape[1] * depth), ::-1].astype(float)
    picture = Image.fromarray(np.uint8(np.clip((gray - low) / (high - low), 0, 1) * 255))
    zoom = max(WIDTH_PX / (gray.shape[1] * spacing[2]), HEIGHT_PX / (gray.shape[0] * spacing[0]))
    size = round(gray.shape[1] * spacing[2] * zoom), round(gray.shape[0] * spacing[0] * zoom)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - WIDTH_PX) // 2, (size[1] - HEIGHT_PX) // 2
    return picture.crop((left, top, left + WIDTH_PX, top + HEIGHT_PX))


def main() -> None:
    """Write every thumbnail to its place."""
    pictures = {
        "mouse-micro-ct": thumbnail(mouse_micro_ct(seed=0, spacing_mm=0.14).volume, -900, 300, 0.55),
        "mouse-mri": thumbnail(mouse_mri(seed=0).volume, 0, 45, 0.55),
        "human-ct": thumbnail(human_chest_ct(seed=0, spacing_mm=2.5).volume, -1000, 300, 0.5),
        "real-mouse-mri": thumbnail(real_mouse(), 0, 60, 0.5),
    }
    for key, picture in pictures.items():
        picture.save(FOLDER / f"ThoraxSegSample-{key}.png", optimize=True)


if __name__ == "__main__":
    main()
