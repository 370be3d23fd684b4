"""Masks of one animal, from several files -> the same structure under the same number, on one grid.

Nothing is guessed silently: what was matched, turned or resampled is in the notes and warnings.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

import numpy as np

from thoraxseg.agreement.grids import Onto, on_grid
from thoraxseg.agreement.masks import Masks, Reading, present, unnamed
from thoraxseg.agreement.remedies import Remedies
from thoraxseg.checkpoints.structures import named, other
from thoraxseg.errors import InputError
from thoraxseg.segmentation import STRUCTURES, Structure
from thoraxseg.volume import nominal_spacing_mm, spacing_mm, voxel_volume_mm3

LUNGS = {"lungs", "right_lung", "left_lung"}
TISSUE = "85756007"
"""SNOMED CT code of tissue: what 3D Slicer gives a segment that nobody coded."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Several masks of one animal, on one grid, the same structure under the same label everywhere."""

    roles: tuple[str, ...]
    maps: tuple[np.ndarray, ...]
    structures: Mapping[int, Structure]
    drawn: tuple[frozenset[int], ...]
    """By file: the labels with a voxel, and those that it names without one."""
    ijk_to_ras: np.ndarray
    is_assumed: bool
    """Whether the grid, and so which side is right, was assumed and not stated by the files."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along (k, j, i), without the noise of a file format."""
        return nominal_spacing_mm(self.ijk_to_ras)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm3, without the noise of a file format."""
        noise = prod(self.spacing_mm) / prod(spacing_mm(self.ijk_to_ras))
        return voxel_volume_mm3(self.ijk_to_ras) * noise


def alike(name: str) -> str:
    """Return what two names have in common when they mean one structure: our key for it, or their words."""
    known = named(name, 0).key
    if known in STRUCTURES:
        return known
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Letters, marks and numbers of any script; a vowel of Hindi or Thai is a mark, and tells words apart.
    words = "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in folded).split()
    return " ".join(words) or name


def match(masks: Sequence[Masks], reading: Reading, onto: Onto | None = None) -> Matched:
    """Return the masks on one grid (None: that of the first one), with common labels.

    Structures are matched by name where every file that has any names them, else by label value. Raises InputError
    for masks on other grids (unless `reading.resample`), two structures of one file with one name, files that share
    no structure.
    """
    onto = onto or Onto.of(masks[0])
    notes = [note for one in masks for note in one.notes]
    warnings = _copies(masks)
    _check_names(masks)
    by_name = all(one.is_named or one.is_empty for one in masks) and any(one.is_named for one in masks)
    found = [_keyed(one) for one in masks] if by_name else _by_value(masks, warnings)
    if by_name:
        notes += _join_by_codes(masks, found)
    warnings += _unknown_parts(found, reading)
    warnings += _halves(masks, found, reading.merge)
    found = [_merged(keyed, reading.merge) for keyed in found]
    _check_common(masks, found, reading.remedies)
    label_of, structures = _numbered(found, reading)
    maps, drawn = [], []
    for one, keyed in zip(masks, found, strict=True):
        table = {value: label_of[key] for value, (key, _) in keyed.items()}
        labels, said = on_grid(_renumbered(one.labels, table), one, onto, reading)
        notes += said
        if one.labels.any() and not labels.any():
            warnings.append(f"{one.name}: none of its labels lies on the grid of {onto.name}.")
        maps.append(labels)
        declared = set(table.values()) if one.declares else set()
        drawn.append(frozenset(declared.union(present(labels))))
    warnings += _whole_and_halves(structures.values(), reading.remedies)
    warnings += [
        f"{structure.name}: --labels names it, but no file has a voxel of it."
        for label, structure in structures.items()
        if any(one.is_named and not one.declares for one in masks) and not any(label in own for own in drawn)
    ]
    return Matched(
        tuple(one.role for one in masks),
        tuple(maps),
        structures,
        tuple(drawn),
        onto.ijk_to_ras,
        masks[0].is_assumed,
        tuple(dict.fromkeys(notes)),
        tuple(warnings),
    )


def _check_names(masks: Sequence[Masks]) -> None:
    """Refuse --labels that name nothing that is in any file: two empty masks would agree perfectly."""
    left_out = sorted({value for one in masks for value in one.unnamed})
    if left_out and all(one.is_empty for one in masks):
        raise InputError(
            f"{masks[0].where}: --labels names none of the labels that the files have "
            f"({', '.join(map(str, left_out))}). Correct --labels."
        )


def _halves(masks: Sequence[Masks], found: Sequence[Keyed], merge: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for every file that has a part of a merged structure without another that others have."""
    said = []
    for name, parts in merge.items():
        having = [
            {part for part in parts if any(_is_called(part, value, one) for value, (_, one) in keyed.items())}
            for keyed in found
        ]
        every = set().union(*having)
        for one, own in zip(masks, having, strict=True):
            if own and own != every:
                lacking = ", ".join(part for part in parts if part in every - own)
                said.append(f"{name}: {one.role} has no {lacking}, so it is only a part of it there.")
    return said


def _whole_and_halves(structures: Iterable[Structure], remedies: Remedies) -> list[str]:
    """Return a hint where some files have both lungs as one structure and others each lung."""
    keys = {one.key for one in structures}
    if "lungs" not in keys or not keys & {"right_lung", "left_lung"}:
        return []
    return [f"Some have the lungs as one structure, others right and left: {remedies.merge_lungs}."]


def said_swapped(matched: Matched, reference: int, prediction: int) -> list[str]:
    """Return a warning where the lungs of two masks agree better with right and left exchanged."""
    sides = {one.key: label for label, one in matched.structures.items()}
    if not {"right_lung", "left_lung"} <= sides.keys():
        return []
    one, other = (
        [matched.maps[n] == sides[f"{side}_lung"] for side in ("right", "left")]
        for n in (reference, prediction)
    )
    own, crossed = (
        sum(int(np.count_nonzero(a & b)) for a, b in zip(one, turned, strict=True))
        for turned in (other, other[::-1])
    )
    if crossed <= own:
        return []
    return [
        f"{matched.roles[reference]} and {matched.roles[prediction]}: right and left look swapped in one of the two. "
        f"{crossed:,} voxels of a lung lie in the other lung, {own:,} in the same one. Check the sides before you "
        "use a number."
    ]


def _copies(masks: Sequence[Masks]) -> list[str]:
    """Return a sentence for every two files with the same content: mostly one was given by mistake."""
    return [
        f"{one.role} and {other.role}: {one.name} and {other.name} have the same content. Was one given twice?"
        for one, other in combinations(masks, 2)
        if one.sha256 == other.sha256 and not one.is_empty
    ]


Keyed = dict[int, tuple[str, Structure]]
"""Label value of one file -> the word that it is matched by, and the structure."""


def _keyed(masks: Masks) -> Keyed:
    """Return the structures of a file that names them; values that --labels calls alike are one structure."""
    found: Keyed = {}
    for value, structure in masks.structures.items():
        key = alike(structure.name)
        if masks.declares and any(key == taken for taken, _ in found.values()):
            raise InputError(
                f"{masks.where}: expected segments with different names, two are called {structure.name!r:.80}. "
                "Rename one of them."
            )
        known = STRUCTURES.get(key)
        found[value] = key, known or structure
    return found


def _join_by_codes(masks: Sequence[Masks], found: Sequence[Keyed]) -> list[str]:
    """Let structures with different names and the same codes be one, and return a sentence for each.

    Only where no file has two of these codes, and where they say more than that it is tissue.
    """
    by_codes: dict[tuple[tuple[str, str], ...], list[tuple[int, int]]] = {}
    for n, keyed in enumerate(found):
        for value, (_, structure) in keyed.items():
            if structure.key not in STRUCTURES and structure.terminology.type.value != TISSUE:
                by_codes.setdefault(_codes(structure), []).append((n, value))
    said = []
    for places in by_codes.values():
        if len({n for n, _ in places}) < len(places):
            continue
        (first, value), *others = places
        key, structure = found[first][value]
        for n, other_value in others:
            own, named_so = found[n][other_value]
            if own != key:
                found[n][other_value] = key, structure
                said.append(
                    f"{named_so.name} of {masks[n].role} is taken as {structure.name} of {masks[first].role}: both "
                    f"have the code {structure.terminology.type.meaning or structure.terminology.type.value}."
                )
    return said


def _codes(structure: Structure) -> tuple[tuple[str, str], ...]:
    """Return scheme and value of every code of a structure; meanings are wording."""
    t = structure.terminology
    codes = (t.category, t.type, t.type_modifier, t.region, t.region_modifier)
    return tuple((code.scheme, code.value) for code in codes)


def _by_value(masks: Sequence[Masks], warnings: list[str]) -> list[Keyed]:
    """Return the structures of every file by value; a value has the name that some file gives it, or none."""
    names: dict[int, Structure] = {}
    for one in masks:
        for value, structure in one.structures.items() if one.is_named else ():
            if value in names and alike(names[value].name) != alike(structure.name):
                raise InputError(
                    f"{one.where}: label {value} is {structure.name!r:.80}, elsewhere {names[value].name!r:.80}, and "
                    "some files name nothing. Say with --labels what the labels of those are."
                )
            names.setdefault(value, structure)
    if names:
        silent = ", ".join(one.role for one in masks if not (one.is_named or one.is_empty))
        told = ", ".join(f"{value} = {one.name}" for value, one in sorted(names.items()))
        warnings.append(
            f"{silent} names no structures: matched by label value ({told}). Use --labels to say it otherwise."
        )
    first = {alike(one.name): value for value, one in sorted(names.items(), reverse=True)}
    key = {
        value: str(first[alike(one.name)]) for value, one in names.items()
    }  # values of one name are one structure
    return [
        {value: (key.get(value, str(value)), names.get(value, unnamed(value))) for value in one.structures}
        for one in masks
    ]


def _merged(keyed: Keyed, merge: Mapping[str, Sequence[str]]) -> Keyed:
    """Return the structures of a file, the parts of a merged one all standing for that one."""
    result = dict(keyed)
    for name, parts in merge.items():
        whole = named(name, 0)
        for value, (_, structure) in keyed.items():
            if any(_is_called(part, value, structure) for part in (name, *parts)):
                result[value] = alike(name), whole
    return result


def _unknown_parts(found: Sequence[Keyed], reading: Reading) -> list[str]:
    """Return a sentence for every part of a merged structure that no file has: it may be misspelled."""
    every = {(value, structure) for keyed in found for value, (_, structure) in keyed.items()}
    return [
        f"{reading.remedies.merge}{name}: no file has {part!r:.80}."
        for name, parts in reading.merge.items()
        for part in parts
        if every and not any(_is_called(part, value, structure) for value, structure in every)
    ]


def _is_called(name: str, value: int, structure: Structure) -> bool:
    """Return whether a name means a structure; a number means a label that nothing is known of but its value."""
    return (name == str(value) and structure.name == unnamed(value).name) or alike(name) == alike(
        structure.name
    )


def _check_common(masks: Sequence[Masks], found: Sequence[Keyed], remedies: Remedies) -> None:
    """Refuse a file that shares no structure with any other: then one of them is another kind of mask."""
    own = [{key: structure.name for key, structure in keyed.values()} for keyed in found]
    for index, one in enumerate(masks):
        others = {key: name for n, keys in enumerate(own) if n != index for key, name in keys.items()}
        if own[index] and others and not own[index].keys() & others.keys():
            mine, theirs = next(iter(own[index].values())), next(iter(others.values()))
            silent = [(n, each) for n, each in enumerate(masks) if found[n] and not each.is_named]
            names = [f"--labels '{each.role}:{next(iter(found[n]))}=NAME'" for n, each in silent]
            lungs = []
            if any(each.key in LUNGS for _, each in found[index].values()):
                lungs = _whole_and_halves((each for keyed in found for _, each in keyed.values()), remedies)
            same = " ".join(names) if names else remedies.same.format(theirs=theirs, mine=mine)
            raise InputError(
                f"{one.where}: has {', '.join(own[index].values())}, the others have {', '.join(others.values())}: "
                "none in common. " + (lungs[0] if lungs else f"If two of them mean the same, say so: {same}.")
            )


def _numbered(found: Sequence[Keyed], reading: Reading) -> tuple[dict[str, int], dict[int, Structure]]:
    """Return the common label of every structure: the value in the first file that has it, where that is free."""
    label_of: dict[str, int] = {}
    structures: dict[int, Structure] = {}
    for keyed in found:
        for value, (key, structure) in keyed.items():
            if key in label_of:
                continue
            label = value if value not in structures else max(structures) + 1
            label_of[key], structures[label] = label, structure
    for name, parts in reading.merge.items():
        if structures and alike(name) not in label_of:
            known = ", ".join(one.name for one in structures.values())
            raise InputError(
                f"{reading.remedies.merge}{name}: none of {', '.join(parts)} is in the masks. They have {known}."
            )
    if not structures:  # nobody drew anything: one empty structure, so that the answer says so
        structures[1] = unnamed(1)
    return label_of, _with_keys(structures)


def _with_keys(structures: Mapping[int, Structure]) -> dict[int, Structure]:
    """Return the structures in order of label, with keys of their names: files may hold numbers for keys."""
    found: dict[int, Structure] = {}
    for label, one in sorted(structures.items()):
        key = one.key if STRUCTURES.get(one.key) == one else other(one.name, label).key
        taken = {before.key for before in found.values()}
        found[label] = replace(one, key=f"label_{label}" if key in taken else key)
    return found


def _renumbered(labels: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Return labels under their common numbers, in the smallest type that holds them."""
    highest = max(table.values(), default=0)
    dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.int32
    if all(old == new for old, new in table.items()):
        return labels.astype(dtype, copy=False)
    result = np.zeros(labels.shape, dtype)
    for old, new in table.items():
        result[labels == old] = new
    return result
