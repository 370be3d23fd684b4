"""What the segments of a node stand for: known structures by name, code or ID, else new ones.

Plain Python on strings: no slicer, no vtk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from thoraxseg.errors import InputError
from thoraxseg.segmentation import NO_CODE, STRUCTURES, Code, Structure, Terminology

TISSUE = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "85756007", "Tissue"))
"""What Slicer gives a segment nobody coded."""


@dataclass(frozen=True)
class SegmentFacts:
    """What a segment says about itself."""

    id: str
    name: str
    color: tuple[float, float, float]
    terminology: Terminology | None = None
    label: int | None = None
    """The label that `segmentation_to_node` noted on it; None for a segment made elsewhere."""


def structures_of(segments: Sequence[SegmentFacts]) -> list[Structure]:
    """Return one structure per segment, in their order, every key used once.

    Names and colors are the segment's. A known structure is recognized by its name first, since that is
    what the user sees and edits: whoever renames "Left lung" to "Right lung" means the right one, though
    the ID still says left. Then by its codes, then, only where there are no codes, by its ID. A second
    segment for the same structure becomes a new structure.

    Raises InputError when name and codes of a segment name different known structures.
    """
    matches = [_match(segment) for segment in segments]
    taken: dict[str, int] = {}
    for rank in (0, 1, 2):
        for index, match in enumerate(matches):
            if match is not None and match[0] == rank:
                taken.setdefault(match[1], index)
    result = []
    for index, (segment, match) in enumerate(zip(segments, matches, strict=True)):
        if match is not None and taken[match[1]] == index:
            known = STRUCTURES.get(match[1])
            terminology = known.terminology if known else segment.terminology or TISSUE
            result.append(Structure(match[1], segment.name, segment.color, terminology))
            continue
        key = _free_key(segment.name, taken)
        taken[key] = index
        result.append(Structure(key, segment.name, segment.color, segment.terminology or TISSUE))
    return [_canonical(structure) for structure in result]


def _match(segment: SegmentFacts) -> tuple[int, str] | None:
    """Return how surely (0 best) and which key a segment stands for; None when nothing is known."""
    if segment.label is not None and segment.id not in STRUCTURES and _is_key(segment.id):
        return 0, segment.id  # a structure of our own making that is not in the table
    by_name = next((s for s in STRUCTURES.values() if _slug(segment.name) in (s.key, _slug(s.name))), None)
    codes = _codes(segment.terminology)
    by_codes = next((s for s in STRUCTURES.values() if codes == _codes(s.terminology)), None)
    if by_name and by_codes and by_name != by_codes and not _is_refined(by_codes, by_name):
        raise InputError(
            f"segment {segment.name!r}: expected name and codes of one structure, got the codes of "
            f"{by_codes.name!r}. Double-click its colored square in the Segment Editor and choose "
            "what it is, or rename it."
        )
    if by_name:
        return 0, by_name.key
    if by_codes:
        return 1, by_codes.key
    if segment.id in STRUCTURES and codes in ((), _codes(TISSUE)):
        return 2, segment.id
    return None


def _is_refined(general: Structure, special: Structure) -> bool:
    """Is `special` the same kind of thing with a side added, as "Left lung" is to a code for lung?"""
    return (
        general.terminology.type == special.terminology.type and general.terminology.type_modifier == NO_CODE
    )


def _codes(terminology: Terminology | None) -> tuple[tuple[str, str], ...]:
    """Return scheme and value of every code; meanings are wording and do not count."""
    if terminology is None:
        return ()
    t = terminology
    codes = (t.category, t.type, t.type_modifier, t.region, t.region_modifier)
    return tuple((code.scheme, code.value) for code in codes)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")


def _is_key(text: str) -> bool:
    """May the text be a key? It ends up in file names, so nothing else may stand in it."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text) is not None


def _free_key(name: str, taken: dict[str, int]) -> str:
    """Return a key made of a name that is not taken."""
    base = _slug(name)[:48] or "segment"
    key, number = base, 1
    while key in taken:
        number += 1
        key = f"{base}_{number}"
    return key


def _canonical(structure: Structure) -> Structure:
    """Return the known structure itself where only its color went through a text file."""
    known = STRUCTURES.get(structure.key)
    if known is None:
        return structure
    near = all(abs(a - b) < 1e-5 for a, b in zip(structure.color, known.color, strict=True))
    return replace(structure, color=known.color) if near else structure
