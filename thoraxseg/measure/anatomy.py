"""Is this anatomy? Sides, front and back, head and tail of what was found, in the patient and not in the array.

No rule needs the image; an absent structure is skipped. Limits leave room for tilted animals, disease and rough
contours: on 50 mouse phantoms, 20 human ones and one real mouse none of them speaks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from thoraxseg.checkpoints.structures import key_of
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import to_ras

MAX_TURN_DEGREES = 60.0
"""The line from the left to the right lung is turned less than this away from the patient's left-right axis; in the
phantoms 11 to 16 degrees."""
MAX_LUNG_RATIO = 4.0
"""The larger lung has at most this many times the volume of the smaller: 1.4 to 1.7 in mice (right over left)."""
RIGHTMOST_HEART = 0.56
"""Where the heart's center lies from the left lung's center (0) to the right one's (1): 0.33 to 0.37 in mice. Beyond
this it is on the right."""
LEVEL_MARGIN = 0.05
"""The heart's center lies between the ends of the lungs, this part of their height away from either."""
FIFTH = 0.2
"""Tail and head end of the lungs for the question which is which: this part of their volume."""
VENTRAL_TAIL = 0.15
"""Lungs are upside down where the tail end lies further in front than the head end, by this many standard deviations
of the lungs' depth (right way up: 0.3 to 1.4 further back, where they reach down behind the diaphragm) ..."""
NARROW_TAIL = 0.85
"""... and is also narrower than this times the head end (in phantoms, right way up: 1.4 to 1.8 times as wide) ..."""
SURELY_VENTRAL_TAIL = 0.8
"""... or where it lies this many standard deviations further in front, however wide it is."""
ENOUGH_VOXELS = 500
"""Fewer voxels of lung have no shape to judge."""
MAX_POINTS = 200_000
"""Voxels of a structure that are looked at: of a larger one, a regular part."""


def check_anatomy(segmentation: Segmentation) -> list[str]:
    """Return a sentence for each thing that is implausible in where the structures lie; none is the rule.

    Judged are the right and left lung, both lungs, heart and spinal cord, by their keys or names: the right lung is to
    the right of the left one, the heart between them and not on the right, level with them, the cord behind heart and
    lungs, the lungs wider and further back at their tail end, and neither lung many times the other. Centers are
    those of the patient (RAS), so any order, direction and tilt of the array's axes gives the same answer. A scan and
    its contours that are both mirrored are found by the heart alone; one that is turned head to tail and back to front
    at once by none of the rules if it is also labeled to match.
    """
    points, counts = _points(segmentation)
    right, left = points.get("right_lung"), points.get("left_lung")
    heart, cord = points.get("heart"), points.get("spinal_cord")
    parts = [points[key] for key in ("right_lung", "left_lung", "lungs") if key in points]
    lungs = np.concatenate(parts) if parts else None
    said = []
    if right is not None and left is not None:
        said += _beside(right, left)
        said += _of_like_size(counts)
        if heart is not None:
            said += _between(heart, right, left)
    if heart is not None and lungs is not None:
        said += _level(heart, lungs)
    if cord is not None:
        for name, organ in (("heart", heart), ("lungs", lungs)):
            said += _behind(cord, organ, name) if organ is not None else []
    if lungs is not None:
        said += _upright(lungs)
    return said


def _points(segmentation: Segmentation) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return voxel centers `(N, 3)` in RAS mm of each structure that is there, by key, and how many voxels it has.

    Of a large structure the centers are every n-th.
    """
    from scipy.ndimage import find_objects

    found, counts = defaultdict(list), defaultdict(int)
    boxes = find_objects(segmentation.labels)
    for label, structure in segmentation.structures.items():
        box = boxes[label - 1] if label <= len(boxes) else None
        if box is None:
            continue
        places = np.flatnonzero(segmentation.labels[box] == label)
        key = key_of(structure)
        counts[key] += len(places)
        places = places[:: max(1, len(places) // MAX_POINTS)]
        shape = tuple(part.stop - part.start for part in box)
        kji = np.stack(np.unravel_index(places, shape), axis=1) + [part.start for part in box]
        found[key].append(to_ras(segmentation.ijk_to_ras, kji))
    return {key: np.concatenate(parts) for key, parts in found.items()}, counts


def _beside(right: np.ndarray, left: np.ndarray) -> list[str]:
    across = right.mean(axis=0) - left.mean(axis=0)
    if across[0] <= 0:
        return [
            "The right lung lies to the left of the left lung: right and left look swapped. Check the sides of the "
            "image before anything is measured."
        ]
    turn = np.degrees(np.arccos(across[0] / np.linalg.norm(across)))
    if turn <= MAX_TURN_DEGREES:
        return []
    return [
        f"The lungs do not lie beside each other: the line between them is turned {turn:.0f} degrees away from the "
        "patient's left-right axis. Check the orientation of the image."
    ]


def _of_like_size(counts: Mapping[str, int]) -> list[str]:
    smaller, larger = sorted(("right_lung", "left_lung"), key=counts.__getitem__)
    ratio = counts[larger] / counts[smaller]
    if ratio <= MAX_LUNG_RATIO:
        return []
    names = {"right_lung": "right lung", "left_lung": "left lung"}
    return [
        f"The {names[larger]} has {ratio:.0f} times the volume of the {names[smaller]} (more than {MAX_LUNG_RATIO:g}): "
        f"check whether the {names[smaller]} was found whole."
    ]


def _between(heart: np.ndarray, right: np.ndarray, left: np.ndarray) -> list[str]:
    from_left, span = (heart.mean(axis=0) - left.mean(axis=0))[0], (right.mean(axis=0) - left.mean(axis=0))[0]
    if span <= 0:
        return []  # said already
    share = from_left / span
    if not 0 <= share <= 1:
        return [
            f"The heart does not lie between the lungs but to the {'right' if share > 1 else 'left'} of both: check "
            "the contours of heart and lungs."
        ]
    if share > RIGHTMOST_HEART:
        return [
            "The heart lies on the right: the image may be mirrored. Check its sides before anything is measured."
        ]
    return []


def _level(heart: np.ndarray, lungs: np.ndarray) -> list[str]:
    low, high = lungs[:, 2].min(), lungs[:, 2].max()
    share = (heart[:, 2].mean() - low) / (high - low) if high > low else 0.5
    if LEVEL_MARGIN <= share <= 1 - LEVEL_MARGIN:
        return []
    return [
        f"The heart lies {'above' if share > 0.5 else 'below'} the lungs, toward the "
        f"{'head' if share > 0.5 else 'tail or feet'}: check the contours of heart and lungs."
    ]


def _behind(cord: np.ndarray, organ: np.ndarray, name: str) -> list[str]:
    """Compare the cord with an organ where they are level: the spine is curved."""
    low, high = organ[:, 2].min(), organ[:, 2].max()
    level = cord[(cord[:, 2] >= low) & (cord[:, 2] <= high)]
    if len(level) == 0:
        return [
            f"The spinal cord does not pass the {name}: check its contour, and head and tail of the image."
        ]
    if level[:, 1].mean() < organ[:, 1].mean():
        return []
    return [
        f"The spinal cord lies in front of the {name}: front and back look swapped. Check the orientation of the image."
    ]


def _upright(lungs: np.ndarray) -> list[str]:
    if len(lungs) < ENOUGH_VOXELS:
        return []
    low, high = np.quantile(lungs[:, 2], [FIFTH, 1 - FIFTH])
    tail, head = lungs[lungs[:, 2] <= low], lungs[lungs[:, 2] >= high]
    spread, width = lungs[:, 1].std(), head[:, 0].std()
    if spread == 0 or width == 0:
        return []
    forward = (tail[:, 1].mean() - head[:, 1].mean()) / spread
    is_narrow = tail[:, 0].std() / width < NARROW_TAIL
    if forward <= VENTRAL_TAIL or not (is_narrow or forward > SURELY_VENTRAL_TAIL):
        return []
    return [
        "The lungs reach down at the front and not at the back: head and tail look swapped. Check the orientation of "
        "the image."
    ]
