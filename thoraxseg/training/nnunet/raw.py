"""A data set -> nnU-Net's raw folder: every image checked, on common axes, with labels 1, 2 ... beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.files import publish_together, safe_name
from thoraxseg.progress import Progress, each
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data import DataSet, read_case
from thoraxseg.volume import RAS_FROM_LPS, Volume, reorient

ENDING = ".nii.gz"


def dataset_name(data: DataSet) -> str:
    """Return the name that nnU-Net knows the data set by; the number means nothing in a folder of its own."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", data.name).strip("_")[:60]
    return f"Dataset001_{plain or 'Data'}"


def write_raw(data: DataSet, folder: Path, progress: Progress) -> str:
    """Write the cases of a data set into nnU-Net's raw layout and return the axes they have, such as `LPS`.

    Axes are those of the first case for all: nnU-Net looks at voxels, not at where they lie, and would learn left
    for right. Nothing is resampled. What is there already is not written again. Raises InputError naming the case that
    cannot be read, or two cases whose names differ in capitals only; OutputError when the disk is full.
    """
    written = folder / "dataset.json"
    if written.is_file():
        return json.loads(written.read_text("utf-8"))["axes"]
    folded = [case.id.casefold() for case in data.cases]
    if twice := [case.id for case in data.cases if folded.count(case.id.casefold()) > 1]:
        raise InputError(
            f"{data.name}: cases need names that differ in more than capitals, got {', '.join(twice[:4])}."
        )
    axes, has_ignored = "", False
    for case in each(data.cases, progress, "Writing the cases for nnU-Net"):
        content = read_case(case, data)
        axes = axes or content.volumes[0].axis_codes
        for channel, volume in enumerate(content.volumes):
            _write(
                folder / "imagesTr" / f"{safe_name(case.id)}_{channel:04d}{ENDING}",
                volume.array,
                volume,
                axes,
            )
        labels = content.labels
        ignored = labels == IGNORE
        if ignored.any():
            has_ignored = True
            labels = np.where(ignored, np.uint8(len(data.labels) + 1), labels)
        _write(folder / "labelsTr" / f"{safe_name(case.id)}{ENDING}", labels, content.volumes[0], axes)
    with publish_together(folder) as scratch:
        text = json.dumps(dataset_json(data, has_ignored) | {"axes": axes}, indent=2)
        (scratch / "dataset.json").write_text(text, encoding="utf-8")
    return axes


def side_axis(axes: str) -> int:
    """Return which axis of arrays (k, j, i) runs from side to side, for the axes i, j, k such as `LPS`."""
    return 2 - next(axis for axis, letter in enumerate(axes) if letter in "LR")


def dataset_json(data: DataSet, has_ignored: bool) -> dict[str, Any]:
    """Return what nnU-Net wants to know of a data set; its labels get the keys of their structures for names."""
    labels = {"background": 0} | {structure.key: label for label, structure in sorted(data.labels.items())}
    if has_ignored:
        labels["ignore"] = len(labels)
    return {
        "name": data.name,
        "channel_names": {str(n): name for n, name in enumerate(data.channels)},
        "labels": labels,
        "numTraining": len(data.cases),
        "file_ending": ENDING,
    }


def _write(path: Path, array: np.ndarray, volume: Volume, axes: str) -> None:
    """Write an array `(K, J, I)` on the grid of a volume, turned to `axes`."""
    import SimpleITK

    turned, matrix = reorient(array, volume.ijk_to_ras, axes)
    lps = RAS_FROM_LPS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if turned.dtype.kind == "f":
        turned = turned.astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(turned))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    with publish_together(path.parent) as scratch:
        try:
            SimpleITK.WriteImage(image, str(scratch / path.name), useCompression=True, compressionLevel=1)
        except RuntimeError as error:  # a full disk is no OSError there
            raise OSError(
                f"{path.name} could not be written: {str(error).strip().splitlines()[-1][:200]}"
            ) from error
