"""Cleaning on request: a user's choice of rules for some structures, what they changed in sentences, and the rules
that a checkpoint brings along in words.

Unlike a card's clean-up, which runs on what the network saw, this runs on finished contours on the grid of the image,
also after correction by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import numpy as np

from thoraxseg.checkpoints.card import Card, Cleanup, Step
from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError, OptionError
from thoraxseg.postprocess.components import drop_small_components, keep_largest
from thoraxseg.postprocess.morphology import close_ball_mm, fill_holes
from thoraxseg.postprocess.rules import check_plan, voxels_of
from thoraxseg.postprocess.slice_filter import keep_between_flat_ends
from thoraxseg.segmentation import STRUCTURES, Segmentation, neighborhood
from thoraxseg.volume import MAX_GRIDS_APART, Volume, grids_apart, nominal_spacing_mm, voxel_volume_mm3

SCALE_PERCENTILES = (0.5, 99.5)
"""What becomes 0 and 1 before the slice filter: a card says how to scale an image, a user's volume does not, and a
few extreme voxels (metal, a label burned in) must not decide."""
NEARLY_AS_LARGE = 0.25
"""A removed piece of this share of the one kept is no crumb: a user is asked to look."""


class Unit(Enum):
    """In what small pieces are measured."""

    VOXELS = "voxels"
    MM3 = "mm3"

    def label(self) -> str:
        """Return the word for people."""
        return self.value


def _option(default: Any, text: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class Cleaning:
    """Which rules run, and with what; as it is, none does. Raises OptionError for values out of range."""

    slice_filter: bool = _option(
        False,
        "Empty the slices before the first and after the last one that shows an edge: Laplacian of Gaussian, as "
        "published with DeepMeta. Slices are those of the image's third axis (k).",
    )
    slice_filter_sigma_px: float = _option(
        7.0, "Width of the slice filter in pixels; DeepMeta has 7 for 128 x 128 pixels.", low=0.5, high=100.0
    )
    slice_filter_min_mean: float = _option(
        1.0, "Mean of the slice filter that counts as an edge; DeepMeta has 1.", low=0.001, high=255.0
    )
    min_size: float = _option(
        0.0, "Connected pieces smaller than this are removed; 0: none.", low=0.0, high=1e9
    )
    min_size_unit: Unit = _option(Unit.VOXELS, "Unit of the smallest size.")
    largest_only: bool = _option(False, "Of each structure only the largest connected piece stays.")
    fill_holes: bool = _option(
        False,
        "Fill cavities that are closed on all sides, in 3-D; one that opens at the border of the image is none.",
    )
    closing_mm: float = _option(
        0.0,
        "Close gaps with a ball of this radius in mm, round in the patient also where voxels are not; 0: no closing.",
        low=0.0,
        high=100.0,
    )
    connectivity: int = _option(
        18, "What is one piece: voxels that share a face (6), also an edge (18), also a corner (26)."
    )
    structures: tuple[str, ...] = _option((), "Keys of the structures to clean; none: all.")

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "low" in f.metadata and not _is_within(value, f.metadata["low"], f.metadata["high"]):
                low, high = f.metadata["low"], f.metadata["high"]
                raise OptionError(f"{f.name}: expected a number from {low:g} to {high:g}, got {value!r}.")
        try:
            object.__setattr__(self, "min_size_unit", Unit(self.min_size_unit))
        except ValueError as error:
            words = ", ".join(unit.value for unit in Unit)
            raise OptionError(
                f"min_size_unit: expected one of {words}, got {self.min_size_unit!r}."
            ) from error
        neighborhood(self.connectivity)  # refuses other numbers
        object.__setattr__(self, "structures", tuple(self.structures))


def _is_within(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and low <= value <= high


def clean(segmentation: Segmentation, image: Volume, cleaning: Cleaning) -> tuple[Segmentation, list[str]]:
    """Return a cleaned copy and sentences that say what changed in each structure, in voxels and mm3.

    `image` is on the grid of the segmentation; only the slice filter looks at it, scaled so that its percentiles 0.5
    and 99.5 are 0 and 1. The order is fixed. First, what is taken away from each structure: slices at flat ends, small
    pieces, all but the largest piece. Then, in the order of the labels, what is added: closing, then filling. A
    structure grows into background only, never into another one.

    A slice filter that finds no edge at all would empty everything; it is left out, and said. Raises InputError when
    image and segmentation differ in their grid or the filter meets voxels that are not finite, OptionError for a
    structure that the segmentation does not have.
    """
    _check_grid(segmentation, image)
    chosen = _chosen(segmentation, cleaning.structures)
    labels, said = segmentation.labels.copy(), []
    report = _Report(said, voxel_volume_mm3(segmentation.ijk_to_ras))
    keep = _slices_to_keep(image, cleaning, said)
    boxes = {label: _box_around(segmentation.labels, label) for label in chosen}
    for label, name in chosen.items():
        if (box := boxes[label]) is None:
            continue
        part = labels[box]
        before = part == label
        after = _taken_away(before, keep[box[0]], cleaning, name, report, segmentation.ijk_to_ras)
        part[before & ~after] = 0
    for label, name in chosen.items():
        if (box := boxes[label]) is None:
            continue
        part = labels[box]
        mask = part == label
        part[_added(mask, part == 0, cleaning, name, report, segmentation.ijk_to_ras)] = label
        if not mask.any():
            said.append(f"{name}: nothing is left of it.")
    if np.array_equal(labels, segmentation.labels):
        said.append("Nothing changed.")
    return replace(segmentation, labels=labels), said


def _check_grid(segmentation: Segmentation, image: Volume) -> None:
    shape = segmentation.labels.shape
    if (
        image.shape != shape
        or grids_apart(shape, segmentation.ijk_to_ras, image.ijk_to_ras) > MAX_GRIDS_APART
    ):
        raise InputError(
            f"{segmentation.name}: expected contours on the grid of {image.name}, {image.shape} voxels (k, j, i), got "
            f"{shape} or another place. Choose the image that was contoured."
        )


def _chosen(segmentation: Segmentation, keys: Iterable[str]) -> dict[int, str]:
    """Return label -> name of the structures to clean, by label; those drawn by hand are known by their names."""
    known = {label: {one.key, key_of(one)} for label, one in sorted(segmentation.structures.items())}
    wanted = set(keys)
    if missing := sorted(wanted - set().union(*known.values())):
        names = ", ".join(key_of(one) for one in segmentation.structures.values()) or "none"
        raise OptionError(
            f"structures: {segmentation.name} has no {', '.join(missing)}; it has {names}. Choose among these."
        )
    return {
        label: segmentation.structures[label].name
        for label, own in known.items()
        if not wanted or own & wanted
    }


def _box_around(labels: np.ndarray, label: int) -> tuple[slice, slice, slice] | None:
    """Return the box around a label; None where it is absent.

    Nothing that cleaning does reaches farther: a closed set stays in the box of the set, and background at a face of
    the box is no cavity.
    """
    from scipy.ndimage import find_objects

    boxes = find_objects((labels == label).astype(np.uint8))
    return boxes[0] if boxes else None


def _slices_to_keep(image: Volume, cleaning: Cleaning, said: list[str]) -> np.ndarray:
    """Return a bool `(K,)`: which slices the slice filter leaves; all where it is off or finds no edge."""
    whole = np.ones(image.shape[0], dtype=bool)
    if not cleaning.slice_filter:
        return whole
    keep = keep_between_flat_ends(
        scaled_for_slice_filter(image), cleaning.slice_filter_sigma_px, cleaning.slice_filter_min_mean
    )
    if not keep.any():
        said.append(
            "The slice filter was left out: it found no slice with an edge and would have emptied all "
            f"{len(keep)}. The image is too dark or too smooth for it; try a smaller width or a smaller mean."
        )
        return whole
    first, last = np.flatnonzero(keep)[[0, -1]]
    said.append(f"Slice filter: edges are in slices {first} to {last} of 0 to {len(keep) - 1} (k).")
    return keep


def scaled_for_slice_filter(image: Volume) -> np.ndarray:
    """Return the image `(K, J, I)` float32 with its percentiles 0.5 and 99.5 at 0 and 1, cut off there.

    The slice filter counts steps of about 200 of 255 gray levels (with a width of 7 pixels), so it must see an image
    that uses its whole range. A constant image becomes 0. Raises InputError for voxels that are not finite.
    """
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise InputError(
            f"{image.name}: expected finite voxels for the slice filter, got NaN or infinity. Replace them first."
        )
    low, high = np.percentile(image.array, SCALE_PERCENTILES)
    if not high > low:
        return np.zeros(image.shape, np.float32)
    return np.clip((image.array.astype(np.float32) - low) / (high - low), 0, 1, dtype=np.float32)


@dataclass
class _Report:
    """Where sentences go, each with voxels and mm3."""

    said: list[str]
    voxel_mm3: float

    def removed(self, name: str, what: str, before: np.ndarray, after: np.ndarray) -> None:
        self._tell(name, what, "removed", np.count_nonzero(before) - np.count_nonzero(after))

    def added(self, name: str, what: str, before: np.ndarray, after: np.ndarray) -> None:
        self._tell(name, what, "added", np.count_nonzero(after) - np.count_nonzero(before))

    def mm3(self, voxels: int) -> str:
        return f"{voxels * self.voxel_mm3:.4g} mm3"

    def _tell(self, name: str, what: str, verb: str, voxels: int) -> None:
        if voxels:
            plural = "voxel" if voxels == 1 else "voxels"
            self.said.append(f"{name}: {what}: {voxels} {plural} ({self.mm3(voxels)}) {verb}.")


def _taken_away(
    mask: np.ndarray,
    keep: np.ndarray,
    cleaning: Cleaning,
    name: str,
    report: _Report,
    ijk_to_ras: np.ndarray,
) -> np.ndarray:
    found = mask.copy()
    found[~keep] = False
    report.removed(name, "slices at flat ends", mask, found)
    if cleaning.min_size > 0:
        in_mm3 = cleaning.min_size_unit is Unit.MM3
        limit = voxels_of(cleaning.min_size, ijk_to_ras) if in_mm3 else int(np.ceil(cleaning.min_size))
        before, found = found, drop_small_components(found, limit, cleaning.connectivity)
        count = len(_sizes(before & ~found, cleaning.connectivity))
        below = f"{cleaning.min_size:g} {cleaning.min_size_unit.value}"
        report.removed(name, f"{_pieces(count)} below {below}", before, found)
    if cleaning.largest_only:
        before, found = found, keep_largest(found, cleaning.connectivity)
        others = _sizes(before & ~found, cleaning.connectivity)
        report.removed(name, f"{_pieces(len(others))} besides the largest", before, found)
        largest = max(_sizes(found, cleaning.connectivity), default=0)
        if others and max(others) >= NEARLY_AS_LARGE * largest:
            report.said.append(
                f"{name}: one of the pieces removed has {report.mm3(max(others))}, the largest {report.mm3(largest)}: "
                "look whether both belong to it."
            )
    return found


def _added(
    mask: np.ndarray,
    background: np.ndarray,
    cleaning: Cleaning,
    name: str,
    report: _Report,
    ijk_to_ras: np.ndarray,
) -> np.ndarray:
    grown = mask
    if cleaning.closing_mm > 0:
        closed = close_ball_mm(grown, cleaning.closing_mm, nominal_spacing_mm(ijk_to_ras))
        before, grown = grown, grown | (closed & background)
        report.added(name, f"closed with a ball of {cleaning.closing_mm:g} mm", before, grown)
    if cleaning.fill_holes:
        before, grown = grown, grown | (fill_holes(grown) & background)
        report.added(name, "holes filled", before, grown)
    return grown


def _sizes(mask: np.ndarray, connectivity: int) -> list[int]:
    from scipy.ndimage import label

    components, _ = label(mask, neighborhood(connectivity))
    return np.bincount(components.ravel())[1:].tolist()


def _pieces(count: int) -> str:
    return f"{count} piece" if count == 1 else f"{count} pieces"


def words_of(cleanup: Cleanup) -> list[str]:
    """Return the rules of a card's clean-up as sentences, in their order; one that says so where there is none.

    Raises CheckpointError for a rule or a parameter that nobody knows.
    """
    if not cleanup.rules:
        return ["The checkpoint brings no clean-up."]
    check_plan(cleanup)
    return [_words_of_rule(step) for step in cleanup.rules]


def words_of_card(card: Card) -> list[str]:
    """Return what a checkpoint itself cleans up, as `words_of`; of a model of nnU-Net what its plan says."""
    if card.nnunet is None or not card.nnunet.cleanup:
        return words_of(card.postprocess)
    return [_words_of_nnunet(entry, card) for entry in card.nnunet.cleanup]


RULE_WORDS = {
    "trim_flat_end_slices": "All structures: the first and last slices that show no edge are emptied (Laplacian of "
    "Gaussian, width {sigma_px:g} pixels, mean below {min_mean:g}).",
    "drop_isolated_slices": "{region}: slices of at most {min_area_px} pixels are emptied, those between two such, and "
    "the first and the last.",
    "drop_small_blobs_in_slices": "{region}: in each slice, pieces of fewer than {min_size_px} pixels are removed.",
    "drop_small_components": "{region}: pieces below {min_volume_mm3:g} mm3 are removed ({connectivity} neighbors).",
    "keep_largest": "{region}: only the largest piece stays ({connectivity} neighbors).",
    "drop_border_components": "{region}: pieces that touch a side face of the image are removed.",
    "close_slices": "{region}: gaps of one or two pixels in each slice are closed (square of 3 x 3 pixels).",
    "fill_holes": "{region}: cavities that are closed on all sides are filled.",
    "keep_inside_closed": "{region}: what lies outside of {inside} is removed, after their holes up to "
    "{radius_voxels:g} voxels are closed.",
    "open_ball": "{region}: what is thinner than a ball of {radius_voxels:g} voxels is removed.",
}
"""What each rule of `RULES` does, in words for people; braces are its parameters."""


def _words_of_rule(step: Step) -> str:
    names = {
        key: _region_name(step.parameters[key]) for key in ("region", "inside") if key in step.parameters
    }
    if "inside" in names:
        names["inside"] = names["inside"].lower()
    return RULE_WORDS[step.name].format(**{**step.parameters, **names})


def _region_name(region: str) -> str:
    return STRUCTURES[region].name if region in STRUCTURES else region


def _words_of_nnunet(entry: Mapping[str, Any], card: Card) -> str:
    names = ", ".join(card.labels[label].name for label in entry["labels"] if label in card.labels)
    together = " together" if len(entry["labels"]) > 1 else ""
    limit = entry.get("min_size_mm3")
    unless = "" if limit is None else f", and others of {limit:g} mm3 or more"
    return f"{names}{together}: only the largest piece stays{unless}."
