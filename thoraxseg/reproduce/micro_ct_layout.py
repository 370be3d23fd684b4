"""Mouse micro-CT scans with the contours of several observers, wherever the listing of the folder puts them.

The file tree of the published annotations is not known, nor is it fixed how the public scans lie beside them.
So a file's part is read off the words of its path, every word that decides is written down here, and what does not
come out whole is refused with what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thoraxseg.errors import InputError
from thoraxseg.reproduce.cohort import (
    Cohort,
    Reference,
    Scan,
    check_cohort,
    found_in,
    key_of,
    list_files,
    some,
)
from thoraxseg.reproduce.decathlon_layout import labels_in

SETS = ("test set 1", "test set 2")
"""Native and contrast-enhanced."""
EXPECTED = {"test set 1": (35, 5), "test set 2": (35, 8)}
"""Scans and animals of the paper's test sets."""
HOW_TO_GET = (
    "The annotations are at https://doi.org/10.5281/zenodo.5121272, the scans in the public micro-CT set of "
    "Rosenhain et al. 2018 (Sci Data 5:180294). Put both below one folder, or name the files in a table with --layout."
)
LOOKED_FOR = (
    "expected, somewhere in the path of each file, a word for the set (native or contrast), the animal and "
    "time point "
    "(such as M03_024h or mouse_3/day_1), and observer1, observer2 or observer3 for contours; a file without "
    "an observer is the scan"
)
_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_OBSERVER = re.compile(r"(?<![a-z])(?:observer|obs|annotator)[ _-]*0*(\d+)(?!\d)")
_CONTRAST = re.compile(r"(?<![a-z])(?:contrast(?:[ _-]?enhanced)?|cect|test[ _-]?set[ _-]?2)(?![a-z0-9])")
_NATIVE = re.compile(r"(?<![a-z])(?:native|nact|test[ _-]?set[ _-]?1)(?![a-z0-9])")
_TRAIN = re.compile(r"(?<![a-z])(?:train(?:ing)?|validation|val)(?![a-z])")
_TEST = re.compile(r"(?<![a-z])test(?:ing)?(?![a-z])")
_ANIMAL = re.compile(r"(?<![a-z])(?:mouse|animal|m)[ _-]*0*(\d+)(?!\d)")
_STRUCTURES = {
    "heart": re.compile(r"(?<![a-z])heart(?![a-z])"),
    "spinal_cord": re.compile(r"(?<![a-z])(?:spinal[ _-]?)?cord(?![a-z])"),
    "right_lung": re.compile(r"(?<![a-z])(?:right[ _-]?lung|lung[ _-]?(?:right|r)|r[ _-]lung)(?![a-z])"),
    "left_lung": re.compile(r"(?<![a-z])(?:left[ _-]?lung|lung[ _-]?(?:left|l)|l[ _-]lung)(?![a-z])"),
    "lungs": re.compile(r"(?<![a-z])(?:total[ _-]?)?lungs?(?![a-z])"),
}
_WORDLESS = re.compile(
    r"(?<![a-z])(?:ct|scans?|images?|img|volume|micro|gt|labels?|masks?|seg(?:mentations?)?|annotations?|contours?|data|set)"
    r"(?![a-z])"
)


@dataclass(frozen=True)
class _File:
    path: Path
    group: str | None
    observer: str | None
    structure: str | None
    training: bool
    animal: str | None
    key: tuple[str, ...]
    """The words of the path that are left: they pair a scan with its contours."""
    name: str
    """The same, as it is written."""


def read_micro_ct(root: Path) -> Cohort:
    """Return the scans below a folder that have contours, with each observer's.

    Observer 1 is the reference of the paper; a scan without him or her is in the cohort, as broken. Scans in a folder
    named train or validation are left out. Raises InputError where the files do not pair, a scan or a contour is
    there twice, the labels of a map have no names, or an animal is on both sides of the split.
    """
    listed = list_files(root)
    files = [_file(root, path) for path in listed if path.name.lower().endswith(_ENDINGS)]
    images = [file for file in files if file.observer is None]
    contours = [file for file in files if file.observer is not None]
    if not images or not contours:
        raise InputError(
            f"{root}: {LOOKED_FOR}; found {len(images)} image(s) and {len(contours)} contour file(s) in "
            f"{found_in(root, listed)}. {HOW_TO_GET}"
        )
    _refuse_wordless(root, images)
    kept = [file for file in images if not file.training]
    _refuse_twice(root, kept)
    paired = {_identity(image): image for image in kept}
    by_scan: dict[tuple, list[_File]] = {identity: [] for identity in paired}
    alone = 0
    for file in contours:
        if _identity(file) in by_scan:
            by_scan[_identity(file)].append(file)
        else:
            alone += not file.training
    scans = [_scan(root, paired[identity], own) for identity, own in by_scan.items() if own]
    if not scans:
        raise InputError(
            f"{root}: {LOOKED_FOR}; no scan pairs with contours. Scans are "
            f"{some(' '.join(_identity(i)[1]) for i in kept)}, "
            f"contours are of {some(' '.join(_identity(c)[1]) for c in contours)}. {HOW_TO_GET}"
        )
    check_cohort(scans, {_animal(file) for file in images if file.training}, root)
    notes = []
    if uncontoured := len(paired) - len(scans):
        notes.append(f"{uncontoured} scan(s) without contours were left out.")
    if alone:
        notes.append(f"{alone} contour file(s) without a scan were left out.")
    return Cohort(tuple(scans), tuple(notes), tuple(_incomparable(scans, files)))


def _file(root: Path, path: Path) -> _File:
    words = path.relative_to(root).as_posix().lower()
    for ending in _ENDINGS:
        words = words.removesuffix(ending)
    observer = _OBSERVER.search(words)
    structure = next(
        (key for key, pattern in _STRUCTURES.items() if observer and pattern.search(words)), None
    )
    contrast, native = _CONTRAST.search(words), _NATIVE.search(words)
    group = None if bool(contrast) == bool(native) else SETS[bool(contrast)]
    rest = words
    for pattern in (
        _OBSERVER,
        _CONTRAST,
        _NATIVE,
        _TRAIN,
        _TEST,
        *(_STRUCTURES.values() if observer else ()),
    ):
        rest = pattern.sub(" ", rest)
    animal = _ANIMAL.search(rest)
    rest = _WORDLESS.sub(" ", rest)
    key = tuple(re.findall(r"[a-z]+|\d+", rest))
    return _File(
        path,
        group,
        observer[1] if observer else None,
        structure,
        bool(_TRAIN.search(words)),
        animal[1] if animal else None,
        tuple(word.lstrip("0") or "0" for word in key),
        "_".join(re.findall(r"[a-z0-9]+", rest)),
    )


def _identity(file: _File) -> tuple[str | None, tuple[str, ...]]:
    return file.group, file.key


def _animal(file: _File) -> str:
    return f"{'native' if file.group == SETS[0] else 'contrast'} {file.animal}"


def _refuse_wordless(root: Path, images: Sequence[_File]) -> None:
    for what, lacking in (
        ("neither native nor contrast", [file for file in images if file.group is None]),
        ("no animal", [file for file in images if file.animal is None]),
    ):
        if lacking:
            raise InputError(
                f"{root}: {LOOKED_FOR}; {len(lacking)} of {len(images)} scan(s) name {what}: "
                f"{some(file.path.relative_to(root) for file in lacking)}. {HOW_TO_GET}"
            )


def _refuse_twice(root: Path, files: Iterable[_File]) -> None:
    seen: dict[tuple, Path] = {}
    for file in files:
        identity = (*_identity(file), file.observer, file.structure)
        if identity in seen:
            raise InputError(
                f"{root}: {seen[identity].relative_to(root)} and {file.path.relative_to(root)} are the same by "
                "the words of "
                "their paths, so it is not clear which one counts. Remove or rename one of them, or name the "
                "files in a table with --layout."
            )
        seen[identity] = file.path


def _scan(root: Path, image: _File, contours: Sequence[_File]) -> Scan:
    _refuse_twice(root, contours)
    references, broken = {}, ""
    for observer in sorted({file.observer for file in contours}):
        own = [file for file in contours if file.observer == observer]
        masks = {file.structure: file.path for file in own if file.structure is not None}
        if masks and len(own) > len(masks):
            raise InputError(
                f"{root}: {some(file.path.relative_to(root) for file in own)} are a label map and masks of one "
                "observer, so it is not clear which one counts. Keep one kind."
            )
        if masks:
            references[observer] = Reference(masks=masks)
        else:
            references[observer] = Reference(own[0].path, _names_of(own[0].path, root))
    if "1" not in references:
        broken = f"{image.path}: there are no contours of observer 1, who is the paper's reference."
    case = f"{'native' if image.group == SETS[0] else 'contrast'} {image.name}"
    return Scan(case, _animal(image), image.group, image.path, references, broken)


def _names_of(path: Path, root: Path) -> dict[int, str]:
    """Return what the values of a label map stand for, from the nearest dataset.json or labels.json above it."""
    if path.name.lower().endswith(".seg.nrrd"):
        return {}
    for folder in path.parents:
        for name in ("labels.json", "dataset.json"):
            if (folder / name).is_file():
                return {value: key_of(word) for value, word in labels_in(folder / name).items()}
        if folder == root:
            break
    raise InputError(
        f"{path}: which label is which organ is not written anywhere. Put a labels.json beside it or in a "
        "folder above, such "
        'as {"labels": {"1": "heart", "2": "spinal cord", "3": "right lung", "4": "left lung"}}, or use --layout.'
    )


def _incomparable(scans: Sequence[Scan], files: Sequence[_File]) -> list[str]:
    """Return why the cohort is not the paper's."""
    reasons = []
    for group, (scans_there, animals_there) in EXPECTED.items():
        own = [scan for scan in scans if scan.group == group]
        animals = {scan.animal for scan in own}
        if own and (len(own), len(animals)) != (scans_there, animals_there):
            reasons.append(
                f"{group} has {len(own)} scans of {len(animals)} animals, the paper's {scans_there} of "
                f"{animals_there}"
            )
    if not any(file.training or _TEST.search(file.path.as_posix().lower()) for file in files):
        reasons.append(
            "the listing does not tell training from test scans, so animals that a model was trained on may be "
            "among them"
        )
    return reasons
