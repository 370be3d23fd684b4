"""From volumes to contours on their own grid, one road for each kind of checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thoraxseg.errors import CheckpointError, DeviceMemoryError, InputError, OptionError
from thoraxseg.inference import Predictor
from thoraxseg.options import Contrast, Device, Postprocess, SegmentOptions, Uncertainty
from thoraxseg.progress import Progress, part
from thoraxseg.roads.answer import Answer, Clock
from thoraxseg.roads.by_card import contour_by_card
from thoraxseg.roads.by_nnunet import contour_by_nnunet
from thoraxseg.roads.ensemble import together
from thoraxseg.volume import MAX_GRIDS_APART, Volume, grids_apart

__all__ = ["Answer", "Clock", "as_lung_map", "contour", "together"]

LUNG_KEYS = {"lungs", "right_lung", "left_lung", "tumors"}
"""Structures that are part of a lung map; tumors lie in lungs."""
MAX_MAP_VALUES = 32
"""A lung map has a label for each lobe and a few more; an image, even one of 8 bits, has many more values."""


def contour(
    volumes: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> Answer:
    """Return what the checkpoint says about one image, given as one volume a channel on one grid.

    A lung map that the checkpoint takes and the user does not give is made first. When the memory of a GPU does
    not suffice the networks look at less at a time, where that does not change the contours; then the work starts
    again on the CPU, unless the GPU was asked for by name. Warnings say so.
    Raises InputError for a wrong number of channels or channels on different grids, DeviceMemoryError.
    """
    check_same_grid(volumes)
    progress = _rising(progress)
    spared: dict[tuple[int, str], str] = {}
    predictor = predictor.for_one_image(spared)
    try:
        answer = _contour(volumes, predictor, options, clock, progress)
    except DeviceMemoryError:
        if options.device is Device.CUDA:
            raise
        answer = None
    if answer is None:
        progress(0.0, "The GPU's memory does not suffice: starting again on the CPU")
        spared.clear()  # on the CPU nothing is
        predictor = predictor.on_cpu()
        answer = _contour(volumes, predictor, options, clock, progress)
    answer.warnings += dict.fromkeys(spared.values())
    if predictor.gpu_too_small:
        answer.warnings.append("The memory of the GPU did not suffice: the network ran on the CPU.")
    return answer


def _rising(progress: Progress) -> Progress:
    """Return a progress that never falls, also where work starts again."""
    highest = 0.0

    def report(fraction: float, message: str) -> None:
        nonlocal highest
        highest = max(highest, fraction)
        progress(highest, message)

    return report


def check_same_grid(volumes: Sequence[Volume]) -> None:
    """Raise InputError unless all volumes have one shape and one geometry, within rounding."""
    first, *others = volumes
    for other in others:
        if other.shape != first.shape:
            raise InputError(
                f"{other.name}: expected the grid of {first.name}, {first.shape} voxels (k, j, i), got {other.shape}. "
                "All channels of an image must be on one grid; resample them first."
            )
        if grids_apart(first.shape, first.ijk_to_ras, other.ijk_to_ras) > MAX_GRIDS_APART:
            raise InputError(
                f"{other.name}: lies elsewhere than {first.name} (spacing, origin or direction differ). All channels "
                "of an image must be on one grid; resample or register them first."
            )


def _contour(
    volumes: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> Answer:
    if predictor.members:
        return _ensemble(volumes, predictor, options, clock, progress)
    channels, said = _channels(volumes, predictor, options, clock, part(progress, 0.0, 0.3))
    road = contour_by_card if predictor.checkpoint.card.nnunet is None else contour_by_nnunet
    rest = part(progress, 0.3, 1.0) if len(channels) > len(volumes) else progress
    answer = road(channels, predictor, options, clock, rest)
    answer.notes[:0] = said.notes if said else []
    answer.warnings[:0] = said.warnings if said else []
    return answer


def _channels(
    volumes: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> tuple[list[Volume], Answer | None]:
    """Return one volume for each channel of the card, and what the checkpoint of the lung map said."""
    card = predictor.checkpoint.card
    are_maps = [channel.source == "lungs" for channel in card.channels]
    if len(volumes) == len(are_maps):
        pairs = zip(volumes, are_maps, strict=True)
        return [as_lung_map(volume) if is_map else volume for volume, is_map in pairs], None
    if len(volumes) != are_maps.count(False):
        wanted = ", ".join(channel.name for channel in card.channels)
        raise InputError(
            f"{volumes[0].name}: {card.name} takes {len(card.channels)} channel(s) ({wanted}), got {len(volumes)}. "
            "Give the image of each further channel, in this order, with --channel FILE."
        )
    if predictor.lungs is None:
        raise InputError(
            f"{volumes[0].name}: {card.name} also takes a lung map. Name a checkpoint that makes it with --lungs "
            "CHECKPOINT, such as a Coordinate-UNet 3D, or give the map with --channel FILE."
        )
    labels = predictor.lungs.checkpoint.card.labels
    lungs = [label for label, structure in labels.items() if structure.key in LUNG_KEYS]
    if all(labels[label].key == "tumors" for label in lungs):
        raise CheckpointError(
            f"checkpoint {predictor.lungs.checkpoint.card.name}: expected one that finds lungs, it finds "
            f"{', '.join(structure.name for structure in labels.values())}. Choose another for --lungs."
        )
    with clock("lung_map"):
        quiet = replace(options, uncertainty=Uncertainty.NONE, contrast=Contrast.AUTO)
        found = _contour(volumes[:1], predictor.lungs, quiet, _untimed, progress)
    mask = replace(volumes[0], array=np.isin(found.labels, lungs).astype(np.uint8), name="lung map", notes=())
    images = iter(volumes)
    return [mask if is_map else next(images) for is_map in are_maps], found


def as_lung_map(volume: Volume) -> Volume:
    """Return a lung map as 0 and 1, uint8; raises InputError for what looks like an image."""
    values = np.unique(volume.array)
    if len(values) > MAX_MAP_VALUES or (values != np.round(values)).any() or values.min() < 0:
        raise InputError(
            f"{volume.name}: expected a lung map, 0 outside and whole numbers inside the lungs, got an image."
        )
    return replace(volume, array=(volume.array > 0).astype(np.uint8))


def _ensemble(
    volumes: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> Answer:
    """Return the weighted answer of all members, each without its own clean-up."""
    if options.uncertainty not in (Uncertainty.ENTROPY, Uncertainty.NONE):
        raise OptionError(
            f"--uncertainty {options.uncertainty.value}: an ensemble of checkpoints gives entropy or none."
        )
    taken = [len(member.checkpoint.card.channels) for member in predictor.members]
    if len(volumes) > max(taken):
        raise InputError(
            f"{volumes[0].name}: no checkpoint of the ensemble takes more than {max(taken)} channel(s), got "
            f"{len(volumes)}. Leave the others away."
        )
    checkpoint, wanted = predictor.checkpoint, options.uncertainty
    if sum(share > 0 for share in checkpoint.shares) > 1:
        wanted = Uncertainty.NONE  # the doubt of the average is another than that of any member
    raw = replace(options, postprocess=Postprocess.NONE, uncertainty=wanted)
    count, answers = len(predictor.members), []
    for index, member in enumerate(predictor.members):
        span = part(progress, index / count, (index + 1) / count)
        # Each takes the first channels; a lung map that is given need not be made.
        answers.append(_contour(volumes[: taken[index]], member, raw, clock, span))
    with clock("ensemble"):
        entropy = options.uncertainty is Uncertainty.ENTROPY
        answer = together(answers, checkpoint.shares, checkpoint.space, entropy)
    parts = zip(checkpoint.shares, checkpoint.members, strict=True)
    told = " + ".join(f"{share:g} x {member.card.name}" for share, member in parts)
    answer.notes.append(f"Ensemble on {checkpoint.space}: {told}; without any checkpoint's own clean-up.")
    answer.predictor = predictor
    return answer


class _Untimed:
    """A clock for work inside of a stage that is timed already."""

    def __call__(self, stage: str) -> _Untimed:
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


_untimed = _Untimed()
