"""Masks with answers known on paper, in files, and the command line that reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints.structures import other
from thoraxseg.cli import main
from thoraxseg.io import write_scalar_nrrd, write_segmentation
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import geometry_from_spacing

SHAPE = (14, 20, 20)


def box(at: Sequence[int], size: Sequence[int], label: int = 1, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Return a label map `(K, J, I)` with one box."""
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, a + n) for a, n in zip(at, size, strict=True))] = label
    return labels


def points(*places: Sequence[int], label: int = 1, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Return a label map `(K, J, I)` with single voxels."""
    labels = np.zeros(shape, np.uint8)
    for place in places:
        labels[tuple(place)] = label
    return labels


def write_map(
    path: Path, labels: np.ndarray, spacing=(1.0, 1.0, 1.0), codes: str = "LPS", matrix=None
) -> Path:
    """Write a label map that names nothing; `spacing` in mm along k, j, i."""
    grid = geometry_from_spacing(spacing, codes) if matrix is None else matrix
    write_scalar_nrrd(path, labels, grid, {})
    return path


def write_segments(
    path: Path, labels: np.ndarray, names: Mapping[int, str], spacing=(1.0, 1.0, 1.0), codes: str = "LPS"
) -> Path:
    """Write a .seg.nrrd whose segments have these names, and numbers for IDs, as 3D Slicer gives them."""
    structures = {
        value: replace(other(name, value), key=f"Segment_{value}", name=name) for value, name in names.items()
    }
    grid = geometry_from_spacing(spacing, codes)
    write_segmentation(path, Segmentation(labels, grid, structures, path.name))
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, text: str) -> Path:
    """Write a CSV table given as lines with blanks around the cells."""
    lines = [line.strip() for line in text.strip().splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def strict_json(text: str):
    """Return what JSON text holds; NaN and infinity are none."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def record_of(capsys, *words: object, status: int = 0) -> dict:
    """Run a command with --json, check its exit status and return the record that it prints."""
    found = main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert found == status, err
    return strict_json(out)


def refused(capsys, *words: object, status: int = 3) -> str:
    """Run a command that must fail with one sentence, nothing on standard output; return the sentence."""
    found = main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert found == status, (out, err)
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]
