"""Task06_Lung of the Medical Segmentation Decathlon: `imagesTr`, `labelsTr` and `dataset.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thoraxseg.errors import InputError
from thoraxseg.reproduce.cohort import (
    Cohort,
    Reference,
    Scan,
    check_cohort,
    check_folder,
    found_in,
    key_of,
    some,
)

LABELED_CASES = 63
HOW_TO_GET = (
    "The data are at http://medicaldecathlon.com (Task06_Lung.tar); unpack the archive and give its folder "
    "with --data, or name the files in a table with --layout."
)
MAX_JSON = 4 << 20


def read_decathlon(root: Path) -> Cohort:
    """Return the labeled cases that `dataset.json` lists; each is a person of its own.

    A listed case whose files are not there is in the cohort, as broken. Raises InputError where the folder is not
    laid out so, a case is listed twice, or is listed for training and test.
    """
    check_folder(root)
    home = _home(root)
    data = _dataset(home / "dataset.json")
    labels = _named(data.get("labels"), home / "dataset.json")
    if "tumors" not in map(key_of, labels.values()):
        raise InputError(
            f"{home / 'dataset.json'}: expected a label for the tumor (cancer), its labels are "
            f"{', '.join(labels.values()) or 'none'}. {HOW_TO_GET}"
        )
    scans = [_scan(home, pair, labels) for pair in _pairs(data, home / "dataset.json")]
    tests = [path if isinstance(path, str) else path.get("image", "") for path in data.get("test", [])]
    check_cohort(scans, [_case(path) for path in tests], home)
    listed = {scan.image.name for scan in scans}
    unlisted = sorted(
        path.name for path in (home / "labelsTr").iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in listed
    )  # fmt: skip
    notes = []
    if unlisted:
        notes.append(
            f"{len(unlisted)} file(s) in labelsTr are not in dataset.json and were left out: {some(unlisted)}."
        )
    if len(scans) != LABELED_CASES:
        notes.append(f"The data set lists {len(scans)} labeled cases, the published one {LABELED_CASES}.")
    return Cohort(tuple(scans), tuple(notes))


def labels_in(path: Path) -> dict[int, str]:
    """Return label -> name from the `labels` of a JSON file, without background.

    They are written as `{"1": "cancer"}` or, as nnU-Net 2 does, `{"cancer": 1}`. Raises InputError for anything else.
    """
    return _named(_dataset(path).get("labels"), path)


def _named(labels: Any, where: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        number, name = (key, value) if isinstance(value, str) else (value, key)
        if isinstance(number, bool) or not str(number).isdigit() or int(number) in found:
            raise InputError(f'{where}: expected labels such as {{"1": "cancer"}}, got {labels!r:.120}.')
        found[int(number)] = name
    found.pop(0, None)
    if not found:
        raise InputError(f'{where}: expected labels such as {{"1": "cancer"}}, got {labels!r:.120}.')
    return found


def _home(root: Path) -> Path:
    """Return the folder with `imagesTr`: the root or one folder below."""
    homes = [path for path in (root, *sorted(root.iterdir())) if (path / "imagesTr").is_dir()]
    if len(homes) != 1 or not (homes[0] / "labelsTr").is_dir() or not (homes[0] / "dataset.json").is_file():
        raise InputError(
            f"{root}: expected the folders imagesTr and labelsTr and the file dataset.json, as in Task06_Lung, "
            f"found {found_in(root)}. {HOW_TO_GET}"
        )
    return homes[0]


def _dataset(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"{path}: expected a list of cases of at most {MAX_JSON >> 20} MiB.")
        data = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, got: {error}. Unpack the archive again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected an object with labels and training, got {data!r:.80}.")
    return data


def _pairs(data: dict[str, Any], where: Path) -> list[tuple[str, str]]:
    listed = data.get("training")
    pairs = [
        (item.get("image"), item.get("label"))
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict)
    ]
    if not pairs or not all(isinstance(one, str) for pair in pairs for one in pair):
        raise InputError(
            f'{where}: expected "training" to list pairs of image and label, got {listed!r:.120}. {HOW_TO_GET}'
        )
    return pairs


def _scan(home: Path, pair: tuple[str, str], labels: dict[int, str]) -> Scan:
    image, label = (home / path for path in pair)
    inside = [home.resolve() in path.resolve().parents for path in (image, label)]
    broken = (
        "" if all(inside) else f"{home / 'dataset.json'}: lists {pair}, which lies outside of its folder."
    )
    missing = [str(path) for path in (image, label) if not path.is_file()]
    if missing:
        broken = f"{' and '.join(missing)}: listed in dataset.json, but not there. Unpack the archive again."
    case = _case(pair[0])
    return Scan(case, case, "labeled", image, {"1": Reference(label, labels)}, broken)


def _case(path: str) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")
