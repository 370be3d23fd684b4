"""Tiny data sets on the disk, in the layouts that people have: a few voxels, but whole files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from thoraxseg.io import write_scalar_nrrd, write_segmentation
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import geometry_from_spacing

SHAPE = (5, 6, 7)
GRID = geometry_from_spacing((0.2, 0.3, 0.4), "LPS")


def image(seed: int = 0, shape=SHAPE) -> np.ndarray:
    """Noise, another one for each seed."""
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def labels(*values: int, shape=SHAPE) -> np.ndarray:
    """A row of voxels for each value, the rest background."""
    found = np.zeros(shape, dtype=np.uint8)
    for row, value in enumerate(values):
        found[1, row] = value
    return found


def write(path: Path, array: np.ndarray, grid=GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scalar_nrrd(path, array, grid, {})
    return path


def write_contours(path: Path, array: np.ndarray, keys, grid=GRID) -> Path:
    """A .seg.nrrd with a segment for each key, in the order of the labels 1, 2 ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(
        path, Segmentation(array, grid, {n: STRUCTURES[k] for n, k in enumerate(keys, start=1)})
    )
    return path


def nnunet(root: Path, cases=("a", "b"), channels=1, values=(1, 2), names=None, **changes) -> Path:
    """A raw data set of nnU-Net 2 with heart 1 and spinal cord 2, in NRRD; each image another one."""
    for seed, case in enumerate(cases):
        for channel in range(channels):
            write(root / "imagesTr" / f"{case}_{channel:04d}.nrrd", image(10 * seed + channel))
        write(root / "labelsTr" / f"{case}.nrrd", labels(*values))
    about = {
        "channel_names": {str(channel): "CT" for channel in range(channels)},
        "labels": names or {"background": 0, "heart": 1, "spinal_cord": 2},
        "numTraining": len(cases),
        "file_ending": ".nrrd",
    }
    return described(root, {**about, **changes})


def described(root: Path, about) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return root


def table(path: Path, rows) -> Path:
    """A CSV with the columns of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
