"""Which scans of a study have contours that a person accepted, and where image and contours lie.

A verdict says nothing of files, so they are named with it, or later: the image, the mask, and what each label of the
mask stands for. From then on their digests count. Contours are used for training only where

- the verdict still stands (editing takes it away, as in `times`) and nobody objected later,
- the mask is the one that was named: a file that was changed afterwards was not judged as it is now.

Everything else is left out with a sentence that says why; nothing is guessed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from thoraxseg.errors import InputError, OptionError
from thoraxseg.files import safe_name, sha256_file
from thoraxseg.study.events import VERDICTS, Who
from thoraxseg.study.store import Store, utc_stamp
from thoraxseg.study.times import Review, reviews

ACCEPTED = VERDICTS["accept"]


@dataclass(frozen=True)
class AcceptedCase:
    """A scan whose contours a person accepted, as the study names them."""

    case: str
    """A name for files, of its own in the study: the animal and the scan."""
    animal: str
    scan: str
    operator: str
    """Who accepted."""
    image: Path
    mask: Path
    structures: Mapping[int, str]
    """What was reviewed: the key of the structure for each label of the mask, also for one without a voxel."""
    verdict_time: str
    """When it was accepted, UTC, such as `2026-11-21T15:37:07.123Z`."""
    corrected: bool
    """Whether anybody edited or contoured this scan by hand; else the contours were accepted as they came."""
    image_sha256: str
    """As `thoraxseg.io.hash_input` gives it, when the files were named; "" where nobody looked."""
    mask_sha256: str
    code: str
    """What stands for the scan where names must not: its place in the study file, such as `S003`."""
    animal_code: str


@dataclass(frozen=True)
class LeftOut:
    """A scan that was accepted, but whose contours cannot be used; `reason` is a sentence."""

    case: str
    animal: str
    reason: str


@dataclass(frozen=True)
class Acceptance:
    """What of a study can be trained on, what cannot, and how many scans nobody has accepted."""

    cases: tuple[AcceptedCase, ...]
    left_out: tuple[LeftOut, ...]
    others: int


@dataclass(frozen=True)
class KnownScan:
    """A scan as the study knows it."""

    case: str
    animal: str
    scan: str
    verdict: str
    """What was said of it last, by whomever; "" where no verdict stands."""
    records: tuple[Path, ...]
    """The records (CASE.json) of its runs that were named; they need not be there any more."""


@dataclass(frozen=True)
class _Contours:
    event: int
    image: Path
    image_sha256: str
    mask: Path
    mask_sha256: str
    structures: Mapping[int, str]


def accepted_cases(store: Store, operator: str | None = None) -> list[AcceptedCase]:
    """Return the scans that can be trained on; see `acceptance`, which also says what was left out and why."""
    return list(acceptance(store, operator).cases)


def acceptance(store: Store, operator: str | None = None) -> Acceptance:
    """Return which scans have accepted contours whose files are there and unchanged, in the order of the study.

    Where several people accepted different contours of one scan, or one objected after another had accepted, it is
    left out; with `operator` only the verdicts of this person count. The mask is read once for its digest, the image
    is not. Raises InputError as `open_study` does, OptionError for an operator who is not in the study.
    """
    named = _named(store)  # first: files that are named meanwhile belong to a later verdict
    found = reviews(store)
    if operator is not None and operator not in {review.operator for review in found}:
        known = ", ".join(sorted({review.operator for review in found})) or "nobody"
        raise OptionError(f"expected an operator of this study ({known}), got {operator!r:.80}.")
    names = _names(found)
    by_case: dict[int, list[Review]] = defaultdict(list)
    for review in found:
        by_case[review.case_id].append(review)
    cases, left_out, others = [], [], 0
    for case_id, all_own in by_case.items():
        own = [review for review in all_own if operator in (None, review.operator)]
        accepting = [review for review in own if review.verdict == ACCEPTED]
        if not accepting:
            others += 1
            continue
        try:
            chosen, contours = _chosen(own, accepting, named)
            _check_files(contours)
        except _LeftOutError as reason:
            left_out.append(LeftOut(names[case_id], all_own[0].animal, str(reason)))
            continue
        cases.append(
            AcceptedCase(
                case=names[case_id],
                animal=chosen.animal,
                scan=chosen.scan,
                operator=chosen.operator,
                image=contours.image,
                mask=contours.mask,
                structures=contours.structures,
                verdict_time=chosen.verdict_utc,
                corrected=any(one.editing_s or one.manual_s for one in all_own),
                image_sha256=contours.image_sha256,
                mask_sha256=contours.mask_sha256,
                code=f"S{case_id:03d}",
                animal_code=f"A{chosen.animal_id:03d}",
            )
        )
    return Acceptance(tuple(cases), tuple(left_out), others)


class _LeftOutError(Exception):
    """Why an accepted scan cannot be used."""


def _chosen(
    own: Sequence[Review], accepting: Sequence[Review], named: Mapping[tuple[int, int], Sequence[_Contours]]
) -> tuple[Review, _Contours]:
    """Return whose acceptance counts and the contours it is about; of several people with the same ones the latest."""
    latest = max(accepting, key=lambda review: review.verdict_event)
    for review in own:
        if review.verdict not in ("", ACCEPTED) and review.verdict_event > latest.verdict_event:
            raise _LeftOutError(
                f"{review.operator} said {review.verdict!r} after {latest.operator} had accepted."
            )
    pairs = []
    for review in accepting:
        # Files that were named for an earlier verdict, before an edit, are not what was accepted now.
        of_it = [
            one for one in named[review.case_id, review.operator_id] if one.event >= review.verdict_event
        ]
        pairs += [(review, of_it[-1])] if of_it else []
    if not pairs:
        raise _LeftOutError(
            f"accepted by {latest.operator}, but no files were named with this verdict. Name image and contours with "
            "'thoraxseg study files'."
        )
    if len({one.mask_sha256 for _, one in pairs}) > 1:
        people = " and ".join(sorted(review.operator for review, _ in pairs))
        raise _LeftOutError(f"{people} accepted different contours. Say whose count with --operator.")
    return max(pairs, key=lambda pair: pair[0].verdict_event)


def _check_files(contours: _Contours) -> None:
    for what, path in (("image", contours.image), ("mask", contours.mask)):
        if not path.exists():
            raise _LeftOutError(f"the {what} {path} is not there any more. Bring it back, or name it anew.")
    try:
        digest = sha256_file(contours.mask)
    except OSError as error:
        raise _LeftOutError(f"the mask {contours.mask} cannot be read: {error.strerror or error}.") from error
    if digest != contours.mask_sha256:
        raise _LeftOutError(
            f"the mask {contours.mask} was changed after it was accepted. Judge it again, then name it with 'thoraxseg "
            "study files'."
        )


def name_contours(
    store: Store,
    who: Who,
    image: Path,
    mask: Path,
    structures: Mapping[int, str],
    image_sha256: str = "",
    now: datetime | None = None,
) -> None:
    """Say where the image and the mask lie that `who` accepted last; naming them again takes the place of it.

    `structures` are all that was reviewed, key by label, also one that the mask has no voxel of: it was looked for and
    is not there. `image_sha256` is that of `thoraxseg.io.hash_input`. Raises OptionError where `who` has not accepted
    the scan or edited it since, or a structure is named twice; InputError for files that are not there; OutputError
    when the study cannot be written.
    """
    labels = _checked_structures(structures)
    image, mask = Path(image).absolute(), Path(mask).absolute()
    for path in (image, mask):
        if not path.exists():
            raise InputError(f"{path}: expected the file that was accepted, but it is not there.")
        _stored(path, store)
    try:
        digest = sha256_file(mask)
    except OSError as error:
        raise InputError(f"{mask}: cannot be read: {error.strerror or error}.") from error
    last = """SELECT max(events.id) FROM events JOIN sessions ON sessions.id = session_id
        WHERE case_id = ? AND operator_id = ? AND kind = 'accept' AND withdrawn_utc IS NULL"""
    review = _review_of(store, who)
    stamp = utc_stamp(now or datetime.now(timezone.utc))
    with store.writing() as db:
        event = db.execute(last, (review.case_id, review.operator_id)).fetchone()[0]
        db.execute("DELETE FROM contours WHERE event_id = ?", (event,))
        columns = "event_id, image, image_sha256, mask, mask_sha256, structures, named_utc"
        values = (event, _stored(image, store), image_sha256, _stored(mask, store), digest, labels, stamp)
        db.execute(f"INSERT INTO contours ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608


def _review_of(store: Store, who: Who) -> Review:
    """Return the review of a scan that `who` accepted; OptionError where it is not so."""
    wanted = (who.animal, who.scan, who.operator)
    found = [one for one in reviews(store) if (one.animal, one.scan, one.operator) == wanted]
    if found and found[0].verdict == ACCEPTED:
        return found[0]
    said = "edited it since" if found and found[0].edited_since else "did not accept it"
    raise OptionError(
        f"animal {who.animal!r}, scan {who.scan!r}: expected contours that {who.operator!r} accepted, but this person "
        f"{said}. Only accepted contours become training data: judge them first ('thoraxseg study log STUDY accept')."
    )


def name_result(store: Store, who: Who, record: Path, now: datetime | None = None) -> None:
    """Say which record (CASE.json) belongs to a scan that is in the study; again is no harm.

    Raises OptionError for a scan that is not in the study, OutputError when it cannot be written.
    """
    text = _stored(Path(record).absolute(), store)
    stamp = utc_stamp(now or datetime.now(timezone.utc))
    query = "SELECT cases.id FROM cases JOIN animals ON animals.id = animal_id WHERE animals.name = ? AND scan = ?"
    with store.writing() as db:
        row = db.execute(query, (who.animal, who.scan)).fetchone()
        if row is None:
            raise OptionError(
                f"animal {who.animal!r}, scan {who.scan!r}: there is no such scan in the study."
            )
        db.execute(
            "INSERT OR IGNORE INTO results (case_id, record, named_utc) VALUES (?, ?, ?)",
            (row[0], text, stamp),
        )


def known_scans(store: Store) -> list[KnownScan]:
    """Return all scans of a study, with the last verdict on each and the records of its runs."""
    records: dict[int, list[Path]] = defaultdict(list)
    with store.reading() as db:
        for case_id, text in db.execute("SELECT case_id, record FROM results ORDER BY id"):
            records[case_id].append(_path(text, store))
    found = reviews(store)
    names = _names(found)
    by_case: dict[int, list[Review]] = defaultdict(list)
    for review in found:
        by_case[review.case_id].append(review)
    scans = []
    for case_id, own in by_case.items():
        last = max(own, key=lambda review: review.verdict_event)
        scans.append(KnownScan(names[case_id], last.animal, last.scan, last.verdict, tuple(records[case_id])))
    return scans


def _names(found: Sequence[Review]) -> dict[int, str]:
    """Return a name for files for each scan, by its number; names that were one with others get a hash."""
    scans = {review.case_id: (review.animal, review.scan) for review in found}
    names = {
        case_id: safe_name(scan if scan.startswith(animal) else f"{animal}_{scan}")
        for case_id, (animal, scan) in scans.items()
    }
    counts = Counter(name.casefold() for name in names.values())
    return {
        case_id: name if counts[name.casefold()] == 1 else f"{name}-{_digest(*scans[case_id])}"
        for case_id, name in names.items()
    }


def _digest(animal: str, scan: str) -> str:
    return sha256(f"{animal}\0{scan}".encode()).hexdigest()[:8]


def _named(store: Store) -> dict[tuple[int, int], list[_Contours]]:
    """Return the files that were named, by scan and operator, in the order of the verdicts that they are about."""
    query = """SELECT case_id, operator_id, event_id, image, image_sha256, mask, mask_sha256, structures
        FROM contours JOIN events ON events.id = event_id JOIN sessions ON sessions.id = session_id
        WHERE withdrawn_utc IS NULL ORDER BY event_id"""
    found: dict[tuple[int, int], list[_Contours]] = defaultdict(list)
    with store.reading() as db:
        for case_id, operator_id, event, image, image_sha256, mask, mask_sha256, labels in db.execute(query):
            found[case_id, operator_id].append(
                _Contours(
                    event,
                    _path(image, store),
                    image_sha256,
                    _path(mask, store),
                    mask_sha256,
                    _structures(labels, store),
                )
            )
    return found


def _checked_structures(structures: Mapping[int, str]) -> str:
    """Return the structures as JSON; OptionError for none, labels below 1, keys that are empty or there twice."""
    keys = list(structures.values())
    if not keys or not all(keys) or len(set(keys)) < len(keys) or not all(label > 0 for label in structures):
        raise OptionError(
            "expected the structures that were reviewed, one or more, each with a label of its own from 1 up, got "
            f"{dict(structures)!r:.200}."
        )
    return json.dumps({str(label): key for label, key in sorted(structures.items())})


def _structures(text: str, store: Store) -> dict[int, str]:
    try:
        return {int(label): str(key) for label, key in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{store.path}: the study file is damaged (the structures of a verdict are none). Use a backup."
        ) from error


def _stored(path: Path, store: Store) -> str:
    """Return a path as the study keeps it: relative where it lies beside or below the file, so both can be moved."""
    home = store.path.absolute().parent
    text = path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: expected a name that is text; a study cannot keep others. Rename it."
        ) from error
    return text


def _path(text: str, store: Store) -> Path:
    return store.path.absolute().parent / text
