"""Traffic lights before a run: one for each thing that can be wrong with an image, always in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.card import Card
from thoraxseg.errors import ThoraxSegError
from thoraxseg.precheck.extent import field_of_view, plausible_spacing
from thoraxseg.precheck.findings import (
    WORST_FIRST,
    Finding,
    Level,
    compare_spacing,
    directions,
    orientation_of_training,
    sides,
    turned_axes,
    words,
)
from thoraxseg.precheck.intensity import expectations, flaws, looked_at, plausible_intensities
from thoraxseg.precheck.memory import memory
from thoraxseg.volume import MAX_GRIDS_APART, Box, Volume, grids_apart

TITLES = {
    "spacing": "Spacing",
    "orientation": "Orientation",
    "sides": "Right and left",
    "field_of_view": "Field of view",
    "intensity": "Intensities",
    "memory": "Memory",
    "channels": "Channels",
}
KEYS = tuple(TITLES)
"""The lights, in their order."""


@dataclass(frozen=True)
class Light:
    """One traffic light."""

    key: str
    """One of `KEYS`."""
    title: str
    level: Level
    sentence: str
    """What was found and, where it is not green, why it matters and what helps."""
    fixes: tuple[str, ...] = ()
    """Keys of `FIXES` that may help."""


def lights(
    volume: Volume, card: Card, device: str = "auto", box: Box | None = None, channels: Sequence[Volume] = ()
) -> list[Light]:
    """Return one light for each of `KEYS`, in that order; never raises for a bad image.

    `box` is the part that will be looked at, `channels` are the further images of a checkpoint that takes several,
    `device` is `auto`, `cpu` or `cuda`. Of several findings the worst is shown, with what the others of its level say.
    """
    image = volume
    if box is not None:
        try:
            image = volume.cropped(box)
        except ThoraxSegError as error:
            return lights_without(str(error), "field_of_view")
    found = {
        "spacing": _spacing(image, card),
        "orientation": _orientation(image, card),
        "sides": [sides(image, card)],
        "field_of_view": [field_of_view(image, card, box is not None)],
        "intensity": _intensity(image, card),
        "memory": [memory(image, card, device)],
        "channels": [_channels(volume, card, channels)],
    }
    return [_light(key, found[key]) for key in KEYS]


def lights_without(reason: str, key: str = "channels") -> list[Light]:
    """Return the lights where image or checkpoint cannot be used: `key` is red with the reason, the others unknown."""
    if key not in KEYS:
        raise KeyError(f"{key!r} is no light; known are {', '.join(KEYS)}")
    silent = Finding(Level.UNKNOWN, "Not known before there is an image and a checkpoint that can be used.")
    return [_light(one, [Finding(Level.RED, reason) if one == key else silent]) for one in KEYS]


def _light(key: str, found: Sequence[Finding]) -> Light:
    worst = min((finding.level for finding in found), key=WORST_FIRST.index)
    said = [finding for finding in found if finding.level is worst]
    return Light(
        key,
        TITLES[key],
        worst,
        " ".join(finding.sentence for finding in said),
        tuple(dict.fromkeys(fix for finding in said for fix in finding.fixes)),
    )


def _spacing(image: Volume, card: Card) -> list[Finding]:
    found = [compare_spacing(image, card)]
    if found[0].level is Level.RED:
        return found
    implausible = plausible_spacing(image, card)
    if implausible is not None:
        return [implausible]
    if image.geometry_assumed:
        found.append(
            Finding(
                Level.YELLOW,
                f"The image states no spacing; {words(image.spacing_mm)} mm was assumed. Volumes are only as right as "
                "this is.",
                ("set_spacing",),
            )
        )
    elif found[0].level is not Level.GREEN and image.spacing_mm == (1.0, 1.0, 1.0):
        found.append(
            Finding(
                found[0].level,
                "1 mm along every axis is what programs take for a file that states none. Is it the scanner's?",
                ("set_spacing",),
            )
        )
    return found


def _orientation(image: Volume, card: Card) -> list[Finding]:
    if image.geometry_assumed:
        return [
            Finding(
                Level.YELLOW,
                f"The image states no orientation; it was assumed that i, j, k run to {directions(image.axis_codes)}.",
                ("declare_orientation",),
            )
        ]
    return [turned_axes(image), orientation_of_training(image, card)]


def _intensity(image: Volume, card: Card) -> list[Finding]:
    found = flaws(image)
    if not found:
        found = [*expectations(image.array, card, "input"), *plausible_intensities(image, card)]
    return found or [looked_at(image, card)]


def _channels(volume: Volume, card: Card, others: Sequence[Volume]) -> Finding:
    wanted = [channel.name for channel in card.channels]
    images = sum(channel.source == "image" for channel in card.channels)
    given = 1 + len(others)
    for other in others:
        if other.shape != volume.shape or _apart(volume, other) > MAX_GRIDS_APART:
            return Finding(
                Level.RED,
                f"{other.name} is not on the grid of {volume.name}: resample or register it first, since all channels "
                "of an image must be on one grid.",
            )
    if given == len(wanted):
        return Finding(Level.GREEN, f"{card.name} takes {_counted(wanted)}.")
    if given != images:
        return Finding(
            Level.RED,
            f"{card.name} takes {_counted(wanted)}, got {given}. Give one volume for each, in this order.",
        )
    if card.lungs_from is None:
        return Finding(
            Level.RED,
            f"{card.name} also takes a lung map, and no checkpoint is named that makes it. Give the map as a further "
            "channel, or install a checkpoint that finds lungs and name it.",
        )
    return Finding(
        Level.GREEN, f"{card.name} takes {_counted(wanted)}; {card.lungs_from} makes the lung map."
    )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} channels ({', '.join(names)})" if len(names) > 1 else f"one channel ({names[0]})"


def _apart(one: Volume, other: Volume) -> float:
    return grids_apart(np.shape(one.array), one.ijk_to_ras, other.ijk_to_ras)
