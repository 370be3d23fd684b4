"""A few tiny mice with two painted lungs, for trainings of nnU-Net that only have to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thoraxseg.io import write_scalar_nrrd
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.training.data import Case, DataSet
from thoraxseg.training.nnunet import NnunetOptions
from thoraxseg.volume import geometry_from_spacing, reorient

SHAPE = (24, 26, 28)
FAST = {
    "iterations": 6,
    "validation_iterations": 1,
    "initial_lr": 0.05,
    "base_features": 4,
    "max_features": 8,
    "batch_size": 2,
}


def fast(**changes) -> NnunetOptions:
    """Networks and epochs as small as nnU-Net takes them, saved after every epoch; a cascade although tiny."""
    return NnunetOptions(
        **{"changes": FAST, "lowres_factor": 1.4, "number_of_folds": 2, "save_seconds": 0, "processes": 1}
        | changes
    )


def mouse(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels `(k, j, i)`; the label of each lung has another intensity."""
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.uint8)
    labels[(k - 12 - seed % 2) ** 2 + (j - 13) ** 2 + (i - 8) ** 2 < 36] = 1
    labels[(k - 12) ** 2 + (j - 13 - seed % 3) ** 2 + (i - 20) ** 2 < 36] = 2
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    return (noise + np.array([100, 0, 50])[labels]).astype(np.int16), labels


def mice(folder: Path, animals=("a", "a", "b", "b"), axes=("LPS", "RAS")) -> DataSet:
    """A data set of one scan for each name in `animals`; scans are stored along `axes` in turn."""
    folder.mkdir()
    cases = []
    for number, animal in enumerate(animals):
        image, labels = mouse(number)
        grid = geometry_from_spacing((0.5, 0.5, 0.5), "LPS")
        name, codes = f"m{number}", axes[number % len(axes)]
        paths = folder / f"{name}.nrrd", folder / f"{name}_labels.nrrd"
        for path, array in zip(paths, (image, labels), strict=True):
            turned, matrix = reorient(array, grid, codes)
            write_scalar_nrrd(path, np.ascontiguousarray(turned), matrix, {})
        cases.append(Case(name, animal, paths[:1], paths[1]))
    lungs = {1: STRUCTURES["right_lung"], 2: STRUCTURES["left_lung"]}
    return DataSet("Tiny mice", folder, tuple(cases), lungs, ("CT",), "mouse", "micro-CT")
