"""The mouse MRI set of DeepMeta as Zenodo has it: `Test/NAME.tif` and `Test/NAME/3classes/SLICE.tif`.

Layout, ids and the dark batch: the project's definitions, section 13. Nothing of it was verified on the data
themselves; what a folder does not show is said, never assumed.
"""

from __future__ import annotations

import re
from pathlib import Path

from thoraxseg.errors import InputError
from thoraxseg.io import StackGeometry
from thoraxseg.reproduce.cohort import Cohort, Reference, Scan, check_cohort, check_folder, found_in, some

TEST_MICE = ("8_m2PL_day25", "28_2Pc_day50", "56_2PLc_day106", "m2Pc_c1_10Corr_1")
LABELS = {1: "lungs", 2: "tumors"}
SLICES_PER_STACK = 128
FIRST_BRIGHT_ID = 87
"""Stacks with a smaller id are of the dark batch."""
GEOMETRY = StackGeometry(
    (0.15625, 0.1953125, 0.15625),
    "RIA",
    "the field of view of the DeepMeta stacks; slice-wise scores do not depend on it",
)
HOW_TO_GET = (
    "The data are at https://doi.org/10.5281/zenodo.7014776 (deepmeta_dataset.zip); unpack the archive and give its "
    "folder with --data, or name the files in a table with --layout."
)


def read_deepmeta(root: Path) -> Cohort:
    """Return the test mice of the set in a folder.

    A mouse without all its label slices is in the cohort, as broken. Raises InputError where there is no test
    folder, a mouse is there twice, or is trained on too.
    """
    check_folder(root)
    test = _test_folder(root)
    stacks = sorted(path for path in test.iterdir() if path.suffix.lower() in (".tif", ".tiff"))
    folders = {path.name for path in test.iterdir() if path.is_dir() and not path.name.startswith(".")}
    stacks = [path for path in stacks if not path.name.startswith(".")]
    if not stacks:
        raise InputError(
            f"{test}: expected the stacks of the test mice ({', '.join(TEST_MICE)}, each as NAME.tif), found "
            f"{found_in(test)}. {HOW_TO_GET}"
        )
    scans = [_scan(path) for path in stacks]
    scans += [
        Scan(
            name,
            _animal(name),
            "test",
            test / f"{name}.tif",
            {},
            f"{test / name}: has labels, but there is no {name}.tif.",
        )
        for name in sorted(folders - {path.stem for path in stacks})
    ]
    check_cohort(scans, _trained_on(test.parent), root)
    others = sorted({scan.case for scan in scans} ^ {*TEST_MICE})
    incomparable = (
        (f"the mice are not the four of the paper ({some(others)} is too many or missing)",) if others else ()
    )
    return Cohort(tuple(scans), (), incomparable, GEOMETRY)


def is_dark(name: str) -> bool:
    """Return whether a stack is of the dark batch: its name begins with an id below 87."""
    number = re.match(r"(\d+)_", name)
    return number is not None and int(number[1]) < FIRST_BRIGHT_ID


def _animal(name: str) -> str:
    number = re.match(r"(\d+)_", name)
    return f"mouse {int(number[1])}" if number else name


def _test_folder(root: Path) -> Path:
    """Return the folder `Test` in the root or up to two folders below: archives add one of their own."""
    found = [
        path for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern)
        if path.is_dir() and path.name.lower() == "test" and not path.name.startswith(".")
    ]  # fmt: skip
    if root.name.lower() == "test":
        return root
    if len(found) != 1:
        what = "found none" if not found else f"found {some(path.relative_to(root) for path in found)}"
        raise InputError(
            f"{root}: expected one folder Test with NAME.tif and NAME/3classes/SLICE.tif for each test mouse, "
            f"{what}; the folder has {found_in(root)}. {HOW_TO_GET}"
        )
    return found[0]


def _scan(stack: Path) -> Scan:
    labels = stack.parent / stack.stem / "3classes"
    return Scan(
        stack.stem,
        _animal(stack.stem),
        "test",
        stack,
        {"1": Reference(labels, LABELS)},
        _broken(stack, labels),
        is_dark(stack.stem),
    )


def _broken(stack: Path, labels: Path) -> str:
    """Return what is wrong with the label slices of a stack, as far as their names tell; empty: nothing."""
    if not labels.is_dir():
        return f"{labels}: expected the label slices of {stack.name}, but there is no such folder."
    slices = [path for path in labels.iterdir() if path.suffix.lower() in (".tif", ".tiff")]
    numbers = sorted(int(path.stem) for path in slices if path.stem.isdigit())
    if len(numbers) < len(slices) or not numbers:
        return f"{labels}: expected slices named by their number, such as 0.tif, found {found_in(labels)}."
    missing = sorted({*range(numbers[0], numbers[-1] + 1)} - {*numbers})
    if missing or len({*numbers}) < len(numbers):
        return f"{labels}: expected one label slice for each of the stack, missing or double are {some(missing)}."
    return ""


def _trained_on(root: Path) -> set[str]:
    """Return the mice with slices among the training labels, whose file number is id x 128 + slice."""
    folders = ("3classes/Labels", "3classes/Images", "Lungs/Labels", "Metastases/Labels")
    numbers = {
        int(path.stem) for name in folders for path in (root / name).glob("*.tif") if path.stem.isdigit()
    }
    return {f"mouse {number // SLICES_PER_STACK}" for number in numbers}
