"""Names of labels -> structures with color and codes: ours where the name is known, new ones elsewhere."""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.segmentation import ANATOMICAL, STRUCTURES, Code, Structure, Terminology

_OTHER = Terminology(ANATOMICAL, Code("SCT", "85756007", "Tissue"))
"""What 3D Slicer itself gives a segment that nobody has named."""

_SIDES = {"r": "right", "l": "left", "rt": "right", "lt": "left", "right": "right", "left": "left"}
_ORGANS = {
    frozenset({"heart"}): "heart",
    frozenset({"spinal", "cord"}): "spinal_cord",
    frozenset({"spinalcord"}): "spinal_cord",
    frozenset({"cord"}): "spinal_cord",
    frozenset({"right", "lung"}): "right_lung",
    frozenset({"left", "lung"}): "left_lung",
    frozenset({"lung"}): "lungs",
    frozenset({"total", "lung"}): "lungs",
    frozenset({"tumor"}): "tumors",
    frozenset({"lung", "tumor"}): "tumors",
    frozenset({"lung", "cancer"}): "tumors",
    frozenset({"cancer"}): "tumors",
}
_ALIKE = {
    "lungs": "lung",
    "tumors": "tumor",
    "tumour": "tumor",
    "tumours": "tumor",
    "metastasis": "tumor",
    "metastases": "tumor",
}


def named(name: str, label: int) -> Structure:
    """Return the structure that a model's own name for a label means.

    Words are compared in any order and case (`Lung_R`, `right lung`); no side is ever guessed. An unknown name
    gives a new structure with that name, a color of its own, and the code for tissue.
    """
    words = _words(name)
    words = [_ALIKE.get(_SIDES.get(word, word), _SIDES.get(word, word)) for word in words]
    known = _ORGANS.get(frozenset(words))
    return STRUCTURES[known] if known else other(name, label)


def key_of(structure: Structure) -> str:
    """Return the key of what a structure's name means; its own where the name is none of ours.

    Segments that were drawn in 3D Slicer have IDs such as Segment_1 for keys: what they are stands in their names.
    """
    known = named(structure.name, 0).key
    return known if known in STRUCTURES else structure.key


def has_side(structure: Structure) -> bool:
    """Return whether a structure is the right or the left one of a pair, as far as its key and name tell."""
    return any(word in _SIDES for word in (*structure.key.lower().split("_"), *_words(structure.name)))


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: letters of any script, else the `r` after an umlaut were a side."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return re.findall(r"[^\W_]+", name.lower())


def other(name: str, label: int) -> Structure:
    """Return a new structure for a label that is none of ours; the key is made of the name."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    key = re.sub(r"[^a-z0-9]+", "_", text).strip("_")[:60]
    if not key or key in STRUCTURES:
        key = f"label_{label}"
    # Steps of the golden angle keep the colors of neighboring labels far apart.
    color = colorsys.hsv_to_rgb((label * 0.381966) % 1, 0.65, 0.9)
    shown = " ".join(name.replace("_", " ").split()) or f"label {label}"
    return Structure(
        key, (shown[:1].upper() + shown[1:])[:80].rstrip(), tuple(round(c, 3) for c in color), _OTHER
    )


def all_different(structures: Mapping[int, Structure]) -> dict[int, Structure]:
    """Return the structures by label with keys that are all different: a second one becomes `other`."""
    seen: set[str] = set()
    result = {}
    for label, structure in structures.items():
        if structure.key in seen:
            structure = other(f"{structure.name} {label}", label)
        number = label
        while structure.key in seen:
            structure, number = other(f"label {number}", label), number + 1
        seen.add(structure.key)
        result[label] = structure
    return result


def to_json(structure: Structure) -> Any:
    """Return a structure as a card has it: its key if it is one of ours, else all that is known of it."""
    if STRUCTURES.get(structure.key) == structure:
        return structure.key
    return {
        "key": structure.key,
        "name": structure.name,
        "color": list(structure.color),
        "terminology": structure.terminology.to_slicer(),
    }


def from_json(value: Any, where: str) -> Structure:
    """Return the structure that a card names or describes; raises FieldError naming the key."""
    if isinstance(value, str):
        if value not in STRUCTURES:
            raise FieldError(
                f"{where}: unknown structure {value!r:.80}; known are {', '.join(STRUCTURES)}; others are "
                "described by key, name, color and terminology"
            )
        return STRUCTURES[value]
    parsers = {
        "key": fields.name,
        "name": fields.text,
        "color": fields.list_of(fields.number, 3),
        "terminology": fields.text,
    }
    found = fields.members(value, where, parsers)
    if found["key"] in STRUCTURES:
        raise FieldError(
            f"{where}.key: {found['key']!r} is a structure of ThoraxSeg; name it by its key alone"
        )
    if not all(0 <= part <= 1 for part in found["color"]):
        raise FieldError(f"{where}.color must be red, green and blue from 0 to 1")
    if not 0 < len(found["name"]) <= 80 or not found["name"].isprintable():
        raise FieldError(f"{where}.name must have 1 to 80 characters, all printable")
    codes = Terminology.from_slicer(found["terminology"])
    if codes is None or "|" in found["terminology"] or not found["terminology"].isprintable():
        raise FieldError(f"{where}.terminology must be a terminology entry of 3D Slicer")
    return Structure(found["key"], found["name"], found["color"], codes)
