"""A .seg.nrrd file of 3D Slicer or ours -> Segmentation, with names, colors and codes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.io import nrrd
from thoraxseg.io.geometry import RawImage
from thoraxseg.segmentation import NO_CODE, Segmentation, Structure, Terminology


def to_segmentation(image: RawImage, path: Path) -> Segmentation:
    """Return the segments of an image with `Segment{n}_...` keys, one layer, in their order.

    Raises InputError when there are none, they overlap (several layers), or two share a label value.
    """
    numbers = sorted(
        int(m[1]) for m in (re.fullmatch(r"Segment(\d{1,6})_ID", key) for key in image.keys) if m
    )
    if not numbers or image.array.dtype.kind not in "iu" or image.ijk_to_ras is None:
        raise InputError(
            f"{path}: expected a segmentation (.seg.nrrd) with segments and geometry, got an image without."
        )
    structures: dict[int, Structure] = {}
    for n in numbers:
        field = {word: image.keys.get(f"Segment{n}_{word}") for word in ("ID", "Name", "Color", "Tags")}
        value = _whole_number(image.keys.get(f"Segment{n}_LabelValue"), n, path)
        if image.keys.get(f"Segment{n}_Layer", "0") != "0" or value in structures:
            raise InputError(
                f"{path}: expected segments in one layer with label values of their own, {field['ID']!r} is "
                "not. "
                "Collapse the layers in 3D Slicer's Segmentations module."
            )
        key = field["ID"] or f"segment_{n}"
        terminology = _terminology(field["Tags"] or "")
        structures[value] = Structure(key, field["Name"] or key, _color(field["Color"], path), terminology)
    return Segmentation(image.array, image.ijk_to_ras, structures, name=path.name)


def read(path: Path, limit: int) -> Segmentation:
    """Return the segmentation of a .seg.nrrd file; errors as `to_segmentation`."""
    return to_segmentation(nrrd.read(path, limit, allow_detached=False), path)


def _whole_number(text: str | None, n: int, path: Path) -> int:
    if text is None or not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise InputError(f"{path}: expected a whole number in Segment{n}_LabelValue, got {text!r}.")
    return int(text)


def _color(text: str | None, path: Path) -> tuple[float, float, float]:
    try:
        color = tuple(float(part) for part in (text or "0.5 0.5 0.5").split())
    except ValueError:
        color = ()
    if len(color) != 3 or not np.isfinite(color).all():
        raise InputError(f"{path}: expected a segment color of three numbers, got {text!r}.")
    return color


def _terminology(tags: str) -> Terminology:
    """Return the codes in Slicer's `TerminologyEntry` tag; no codes when it is missing or incomplete."""
    entry = next(
        (tag.partition(":")[2] for tag in tags.split("|") if tag.startswith("TerminologyEntry:")), ""
    )
    return Terminology.from_slicer(entry) or Terminology(NO_CODE, NO_CODE)
