"""One scan as several observers drew it: whose masks there are, and who contoured what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.agreement.grids import Onto
from thoraxseg.agreement.masks import Masks, Reading, read_masks
from thoraxseg.agreement.matching import Matched, match, said_swapped
from thoraxseg.progress import Progress, silent
from thoraxseg.report import printable


class Absent(Enum):
    """What it means that a file has no voxel of a structure that other files have."""

    AUTO = "auto"
    EMPTY = "empty"
    LEFT_OUT = "left-out"


@dataclass(frozen=True, eq=False)
class Drawn:
    """The masks of the observers of one scan, and of models beside them."""

    case: str
    matched: Matched
    """The masks; without their arrays where many scans are held."""
    people: tuple[int, ...]
    """Places of the observers among the matched masks; the others are models."""
    contoured: tuple[frozenset[int], ...]
    """By observer: the labels that count as contoured."""
    inputs: tuple[dict[str, Any], ...]
    """What identifies the files."""
    decided: tuple[str, ...]
    """A sentence for every structure that had to be taken as empty, or as not contoured."""

    @property
    def maps(self) -> list[np.ndarray]:
        """The observers' label maps."""
        return [self.matched.maps[n] for n in self.people]

    @property
    def names(self) -> list[str]:
        """The observers' names."""
        return [self.matched.roles[n] for n in self.people]

    def who(self, label: int) -> list[int]:
        """Return the places of the observers who contoured a structure."""
        return [n for n, own in zip(self.people, self.contoured, strict=True) if label in own]

    def without_maps(self) -> Drawn:
        """Return the same without the voxels."""
        return replace(self, matched=replace(self.matched, maps=()))


def read_drawn(
    case: str,
    files: Mapping[str, Path],
    reading: Reading,
    absent: Absent = Absent.AUTO,
    models: Collection[str] = (),
    progress: Progress = silent,
) -> Drawn:
    """Return the masks of a scan from files by observer or model; raises InputError as `read_masks` and `match` do."""
    masks = []
    for n, (name, path) in enumerate(files.items()):
        progress(n / len(files), f"Reading {printable(case)}")
        masks.append(read_masks(path, name, reading))
    return drawn_from(case, masks, reading, absent, models)


def drawn_from(
    case: str,
    masks: Sequence[Masks],
    reading: Reading,
    absent: Absent = Absent.AUTO,
    models: Collection[str] = (),
    onto: Onto | None = None,
) -> Drawn:
    """Return masks of one scan as its observers' and models', on the grid `onto` (None: that of the first masks).

    `models` holds the roles that are no observers. Raises InputError as `match` does.
    """
    matched = match(masks, reading, onto)
    people = tuple(n for n, one in enumerate(masks) if one.role not in models)
    contoured, decided = _contoured(matched, masks, people, absent, reading)
    decided += [text for n in range(1, len(masks)) for text in said_swapped(matched, 0, n)]
    inputs = tuple(one.to_record() for one in masks)
    return Drawn(case, matched, people, tuple(contoured), inputs, tuple(decided))


def _contoured(
    matched: Matched, masks: Sequence[Masks], people: Sequence[int], absent: Absent, reading: Reading
) -> tuple[list[frozenset[int]], list[str]]:
    """Return which structures each observer contoured, and a sentence for each that had to be decided."""
    found, said = [], []
    for n in people:
        own = set(matched.drawn[n])
        missing = [label for label in matched.structures if label not in own]
        nothing = not matched.maps[n].any() and not masks[n].declares
        for label in missing:
            structure = matched.structures[label]
            may_be_none = structure.key == "tumors" and not masks[n].declares
            if absent is Absent.EMPTY or (absent is Absent.AUTO and (nothing or may_be_none)):
                own.add(label)
                said.append(f"{structure.name}: {matched.roles[n]} drew nothing; it counts as an empty mask.")
            else:
                said.append(
                    f"{structure.name}: {matched.roles[n]} has none; taken as not contoured, so it is left out there "
                    f"({reading.remedies.absent})."
                )
        found.append(frozenset(own))
    return found, said
