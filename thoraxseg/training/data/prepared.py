"""A case as the network will see it: images through the card's own steps, labels along, kept on the disk.

The images go through `thoraxseg.preprocess.prepare`, as those of a user will, so that a network is trained on just what
it will be shown. What is kept is found again by the digests of files and steps.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg import __version__
from thoraxseg.checkpoints.card import Card
from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.files import publish_together, safe_name
from thoraxseg.io import hash_input
from thoraxseg.options import Contrast
from thoraxseg.preprocess import Prepared, prepare
from thoraxseg.progress import Progress, part, silent
from thoraxseg.roads import as_lung_map
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data.content import Content, read_case
from thoraxseg.training.data.data_set import Case, DataSet
from thoraxseg.volume import Volume, reorient

logger = logging.getLogger(__name__)
_FORMAT = 1
"""Part of every digest: kept files of another form are not found."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """What the network is trained on; arrays are read from the disk as they are needed."""

    id: str
    animal: str
    channels: np.ndarray
    """`(C, K, J, I)` float32 in the card's orientation, after all steps."""
    labels: np.ndarray
    """`(K, J, I)` uint8 on the same grid: labels of the card, `IGNORE` where nothing is known."""
    spacing_mm: tuple[float, float, float]
    """Along (k, j, i)."""
    notes: tuple[str, ...] = ()


class KeptCase(PreparedCase):
    """A case whose arrays are opened anew each time: an open map holds a file, and a data set has hundreds of cases."""

    def __init__(
        self,
        name: str,
        animal: str,
        stem: Path,
        spacing_mm: tuple[float, float, float],
        notes: tuple[str, ...],
    ) -> None:
        values = {"id": name, "animal": animal, "stem": stem, "spacing_mm": spacing_mm, "notes": notes}
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    @property
    def channels(self) -> np.ndarray:
        """`(C, K, J, I)` float32, mapped from the disk."""
        return np.load(f"{self.stem}.channels.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """`(K, J, I)` uint8, mapped from the disk."""
        return np.load(f"{self.stem}.labels.npy", mmap_mode="r")


def prepare_case(
    case: Case, data: DataSet, card: Card, folder: Path, contrast: Contrast = Contrast.AUTO
) -> PreparedCase:
    """Return a case as the card's network sees it, from `folder` where it was prepared before, else made and kept.

    A lung map that the card takes comes from the case's last image where there is one more than the card's images,
    else from the labels. Raises InputError for files that cannot be used, CheckpointError for a card that learns other
    structures or comes from nnU-Net, OutputError when the disk is full; then nothing half is left.
    """
    if case.label is None:
        raise InputError(f"case {case.id}: expected contours to learn from, the data set names none.")
    to_card = _card_labels(data, card)
    key = _key(case, data, card, contrast, to_card)
    name = f"{safe_name(case.id)}-{key[:16]}"
    kept = _kept(case, Path(folder), name, key, len(card.channels))
    if kept is not None:
        return kept
    content = read_case(case, data)
    volumes = _channels(case, data, card, content)
    prepared = prepare(volumes, card, contrast)
    labels = np.take(to_card, labels_on_prepared(content.labels, prepared))
    notes = [*prepared.notes, *_vanished(content, labels, data, to_card)]
    told = {"key": key, "spacing_mm": list(prepared.spacing_mm), "notes": notes}
    folder = Path(folder)
    with publish_together(folder, marker=f"{name}.json") as scratch:
        np.save(scratch / f"{name}.channels.npy", np.ascontiguousarray(prepared.channels))
        np.save(scratch / f"{name}.labels.npy", np.ascontiguousarray(labels))
        (scratch / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8")
    logger.info("prepared a case: shape %s, spacing %s mm", labels.shape, prepared.spacing_mm)
    made = _kept(case, folder, name, key, len(card.channels))
    if made is None:
        raise InputError(f"{folder / name}: what was just written cannot be read again. Check the disk.")
    return made


def prepare_cases(
    data: DataSet, card: Card, folder: Path, progress: Progress = silent, contrast: Contrast = Contrast.AUTO
) -> list[PreparedCase]:
    """Return all cases of a data set as `prepare_case` does, in order."""
    found = []
    for index, case in enumerate(data.cases):
        span = part(progress, index / len(data.cases), (index + 1) / len(data.cases))
        span(0.0, f"Preparing {case.id}")
        found.append(prepare_case(case, data, card, folder, contrast))
    progress(1.0, f"{len(found)} cases are ready")
    return found


def labels_on_prepared(labels: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Return labels `(K, J, I)` of the input grid on the prepared grid: what `labels_on_source` is the way back of.

    Nearest neighbor: the source voxel in which the center of a prepared voxel lies. No voxel gets a new value.
    """
    turned, _ = reorient(labels, prepared.source.ijk_to_ras, prepared.orientation, prepared.source.axis_codes)
    turned = turned[prepared.box]
    for axis, want in enumerate(prepared.channels.shape[1:]):
        have = turned.shape[axis]
        if have != want:
            turned = turned.take(np.floor((np.arange(want) + 0.5) * have / want).astype(int), axis=axis)
    return np.ascontiguousarray(turned)


def _card_labels(data: DataSet, card: Card) -> np.ndarray:
    """Return the card's label for each of the data set's, `(256,)` uint8; `IGNORE` stays what it is.

    Raises CheckpointError unless both have the same structures.
    """
    if card.nnunet is not None:
        raise CheckpointError(
            f"checkpoint {card.name} is one of nnU-Net, which prepares images itself. Train it as a system of nnU-Net."
        )
    by_key = {structure.key: label for label, structure in card.labels.items()}
    learned = {structure.key for structure in data.labels.values()}
    if learned != {*by_key}:
        raise CheckpointError(
            f"checkpoint {card.name} finds {', '.join(by_key)}; the data set {data.name} has "
            f"{', '.join(structure.key for structure in data.labels.values())}. Say with --label-map which labels "
            "make up which, as in 'lungs = right_lung + left_lung', or 'background = spinal_cord' to leave out."
        )
    table = np.zeros(256, dtype=np.uint8)
    for label, structure in data.labels.items():
        table[label] = by_key[structure.key]
    table[IGNORE] = IGNORE
    return table


def _channels(case: Case, data: DataSet, card: Card, content: Content) -> list[Volume]:
    """Return one volume for each channel of the card, with the lung map where it takes one."""
    are_maps = [channel.source == "lungs" for channel in card.channels]
    volumes = list(content.volumes)
    if len(volumes) == len(are_maps):
        return [as_lung_map(one) if is_map else one for one, is_map in zip(volumes, are_maps, strict=True)]
    if len(volumes) != are_maps.count(False):
        raise InputError(
            f"case {case.id}: {card.name} takes {len(are_maps)} channel(s) "
            f"({', '.join(channel.name for channel in card.channels)}), the data set has {len(volumes)} "
            f"({', '.join(data.channels)})."
        )
    if content.lungs is None:
        raise InputError(
            f"case {case.id}: {card.name} also takes a lung map, and the data set has neither a channel nor a label "
            "for the lungs. Give the map as a further image of each case."
        )
    lungs = replace(volumes[0], array=content.lungs.astype(np.uint8), name="lung map", notes=())
    images = iter(volumes)
    return [lungs if is_map else next(images) for is_map in are_maps]


def _vanished(content: Content, labels: np.ndarray, data: DataSet, to_card: np.ndarray) -> list[str]:
    """Return a note for each structure that the case has and that no prepared voxel is of."""
    left = {*np.unique(labels).tolist()}
    gone = [
        f"{data.labels[label].name} ({count} voxels)"
        for label, count in content.counts.items()
        if count and int(to_card[label]) not in left
    ]
    return [f"Lost when the case was cropped and resized for the network: {', '.join(gone)}."] if gone else []


def _key(case: Case, data: DataSet, card: Card, contrast: Contrast, to_card: np.ndarray) -> str:
    """Return the digest of everything that what is kept depends on."""
    table = data.table
    stack = data.stack
    about: dict[str, Any] = {
        "format": _FORMAT,
        "version": __version__,
        "case": case.id,
        "images": [hash_input(path) for path in case.images],
        "label": hash_input(case.label),
        "stack": None if stack is None else asdict(stack),
        "structures": None
        if case.structures is None
        else {str(v): k for v, k in sorted(case.structures.items())},
        "values": {str(value): label for value, label in sorted(table.values.items())},
        "keys": dict(sorted(table.keys.items())),
        "lungs": [sorted(table.lung_values), sorted(table.lung_keys)],
        "labels": to_card.tolist(),
        "orientation": card.input.orientation,
        "channels": [channel.source for channel in card.channels],
        "steps": [[step.name, _plain(step.parameters)] for step in card.preprocess],
        "contrast": contrast.value,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return (
        [_plain(item) for item in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


def _kept(case: Case, folder: Path, name: str, key: str, channels: int) -> PreparedCase | None:
    """Return what was prepared before; None where it is not there whole."""
    try:
        told = json.loads((folder / f"{name}.json").read_text("utf-8"))
        if told["key"] != key:
            return None
        spacing_mm, notes = tuple(map(float, told["spacing_mm"])), tuple(map(str, told["notes"]))
        found = KeptCase(case.id, case.animal, folder / name, spacing_mm, notes)
        images, labels = found.channels, found.labels
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None  # not there, or damaged: it is made again
    fits = (
        images.dtype == np.float32 and labels.dtype == np.uint8 and images.shape == (channels, *labels.shape)
    )
    return found if fits else None
