"""The ledger read: how long each scan took each operator, and what that saves against contouring by hand.

The mouse CT paper (Malimban et al. 2022) says 98 %: its Table 4 gives 40 s for a whole run of nnU-Net 3d_fullres, from
data preparation to exported contours, and its text about 40 min by hand, so 100 (1 - 40 / (60 x 40)) = 98.33. With
preprocessing and inference alone (5 + 27 s) it would be 98.67, so the whole run is meant. Nobody looks at the
contours in that figure; the other one here counts looking, editing and contouring by hand too.

A verdict is on the automated contours. Editing them after it takes it away until the next one; contouring by hand does
not, since it is what a rejection leaves to do. A rejected scan still has to be contoured by hand: that counts
with the manual reference, or with what the same operator logged where this is more.
"""

from __future__ import annotations

import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from thoraxseg.errors import OptionError
from thoraxseg.study.events import RUN_PARTS, TAKE_BACK, VERDICTS, WORK, structure_key
from thoraxseg.study.store import Store, checked_minutes

PAPER_MANUAL_MIN = 40.0
"""Malimban et al. 2022, Results: "roughly 40 min to create the manual contours per animal". Offered, never assumed."""
PAPER_RUNTIME_S = 40.0
"""Table 4 there, nnU-Net 3d_fullres: 5 s preprocessing, 27 s inference, 40 s in all."""

MEASURED: Literal["measured"] = "measured"

DEFINITIONS = {
    "verdict": "What the operator said last of the automated contours: accepted, needs work or rejected; editing them "
    "after it takes it away, contouring by hand does not.",
    "runtime_s": "The last run of the scan, from data preparation to exported contours, as in Table 4 of Malimban "
    "et al. 2022; preprocessing_s, inference_s and export_s are parts of it and other_s is the rest.",
    "compute_s": "All runs of the scan. Runs belong to the scan: each operator's row of the scan shows them.",
    "looking_s": "Time in the activity look; time beyond the idle limit after the last touch is left out.",
    "editing_s": "Time in the activity edit, all structures; idle time left out as above. Structures whose names "
    "differ in upper and lower case only are one.",
    "manual_s": "Contouring from nothing, by hand; idle time left out as above.",
    "waiting_s": "Time in which the operator waited for the computer.",
    "idle_s": "Time beyond the idle limit after the last touch, between activities, and while the machine slept.",
    "total_active_s": "looking_s + editing_s + manual_s.",
    "total_s": "total_active_s + waiting_s + idle_s: the operator's clock while the scan was open.",
    "spent_s": "compute_s + looking_s + editing_s + manual_s: what the contours cost with the software, contouring by "
    "hand beside it or after a rejection included.",
    "spent_share_of_manual": "spent_s / (60 manual_reference_min), so far: 0.25 is a quarter of the time by hand.",
    "saved_percent_paper": "100 (1 - runtime_s / (60 manual_reference_min)), as Malimban et al. 2022: 40 s against "
    "40 min gives 98.33. It counts nobody's looking or editing.",
    "saved_min_paper": "manual_reference_min - runtime_s / 60.",
    "saved_percent_with_review": "100 saved_min / manual_reference_min.",
    "saved_min": "manual_reference_min - spent_s / 60 for accepted contours. Rejected ones still have to be made by "
    "hand: what is missing of the reference in manual_s is taken off, too, so that they never save. Undefined until "
    "one of the two is said.",
    "withdrawn": "Entries that were taken back; they count nowhere.",
}
"""What each key means, in one sentence; stands in every file that is written."""

_SAVED = (
    "saved_min_paper",
    "saved_percent_paper",
    "saved_min",
    "saved_percent_with_review",
    "spent_share_of_manual",
)
_SCAN_KEYS = (*RUN_PARTS, "other_s", "runtime_s", "compute_s", "saved_min_paper", "saved_percent_paper")
_REVIEW_KEYS = (
    *("looking_s", "editing_s", "manual_s", "waiting_s", "idle_s", "total_active_s", "spent_s"),
    *("saved_min", "saved_percent_with_review"),
)


def saved_percent(spent_s: float, manual_reference_min: float) -> float:
    """Return how many percent of the time by hand are saved, 100 (1 - spent / manual); below 0 where it took longer."""
    return 100.0 * (1.0 - spent_s / (60.0 * manual_reference_min))


@dataclass(frozen=True)
class Run:
    """The seconds of one automatic run; parts that nobody gave are None."""

    seconds: float
    preprocessing_s: float | None
    inference_s: float | None
    export_s: float | None

    @property
    def other_s(self) -> float | None:
        """What of the whole run is in no part; None where no part is known."""
        known = [part for part in (self.preprocessing_s, self.inference_s, self.export_s) if part is not None]
        return max(0.0, self.seconds - sum(known)) if known else None


@dataclass
class Review:
    """All that one operator did with one scan, over all sessions, and the runs of the scan."""

    animal_id: int
    case_id: int
    operator_id: int
    animal: str
    scan: str
    operator: str
    opened_utc: str
    manual_reference_min: float | None
    runs: list[Run] = field(default_factory=list)
    looking_s: float = 0.0
    editing: dict[str, float] = field(default_factory=dict)
    manual: dict[str, float] = field(default_factory=dict)
    waiting_s: float = 0.0
    idle_s: float = 0.0
    verdict: str = ""
    verdict_event: int = 0
    """The event that said so first, and has not been contradicted or edited away since; 0 without a verdict."""
    verdict_utc: str = ""
    edited_since: bool = False
    sessions: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    live: set[int] = field(default_factory=set)
    idle_after_s: set[float] = field(default_factory=set)
    overlaps: bool = False
    own_runs: int = 0
    seen: bool = False
    withdrawn: int = 0

    @property
    def editing_s(self) -> float:
        """Editing of all structures."""
        return sum(self.editing.values(), 0.0)

    @property
    def manual_s(self) -> float:
        """Contouring by hand of all structures."""
        return sum(self.manual.values(), 0.0)

    @property
    def by_hand(self) -> bool:
        """Whether the operator contoured from nothing, and neither ran a model on the scan nor reviewed contours."""
        judged = self.rejected or (self.verdict and self.runs)
        return self.manual_s > 0 and not (self.looking_s or self.editing or self.own_runs or judged)

    @property
    def all_by_hand(self) -> bool:
        """Whether the time by hand made all contours: no others were there, or they were rejected."""
        return self.manual_s > 0 and (self.by_hand or self.rejected or not self.runs)

    @property
    def only_ran(self) -> bool:
        """Whether a run is all that there is, as of a program that contours a cohort: nobody looked under this name."""
        return self.own_runs > 0 and not (self.seen or self.manual_s)

    @property
    def rejected(self) -> bool:
        """Whether the contours were of no use."""
        return self.verdict == VERDICTS["reject"]

    @property
    def finished(self) -> bool:
        """Whether the contours were accepted or rejected, and not edited since."""
        return self.verdict in (VERDICTS["accept"], VERDICTS["reject"])

    @property
    def compute_s(self) -> float | None:
        """All runs of the scan; None where none is logged."""
        return sum(run.seconds for run in self.runs) if self.runs else None

    @property
    def runtime_s(self) -> float | None:
        """The last run of the scan; None where none is logged."""
        return self.runs[-1].seconds if self.runs else None

    @property
    def total_active_s(self) -> float:
        """The operator's work."""
        return self.looking_s + self.editing_s + self.manual_s

    @property
    def spent_s(self) -> float | None:
        """What the contours cost with the software; None where no run is logged or they were made by hand."""
        if self.compute_s is None or self.by_hand:
            return None
        return self.compute_s + self.total_active_s

    def row(self) -> dict[str, Any]:
        """Return the row of `times`; what cannot be said is None, and `undefined` says why, by key."""
        last = self.runs[-1] if self.runs else None
        found: dict[str, Any] = {
            "animal": self.animal,
            "scan": self.scan,
            "operator": self.operator,
            "contouring": "by hand" if self.by_hand else "run only" if self.only_ran else "reviewed",
            "verdict": self.verdict or "none",
            "accepted": self.verdict == VERDICTS["accept"],
            "finished": self.finished,
            "opened_utc": self.opened_utc,
            "sessions": len(self.sessions),
            "runs": len(self.runs),
            **{name: getattr(last, name, None) for name in (*RUN_PARTS, "other_s")},
            "runtime_s": self.runtime_s,
            "compute_s": self.compute_s,
            "looking_s": self.looking_s,
            "editing_s": self.editing_s,
            "editing_by_structure_s": dict(self.editing),
            "manual_s": self.manual_s,
            "manual_by_structure_s": dict(self.manual),
            "waiting_s": self.waiting_s,
            "idle_s": self.idle_s,
            "total_active_s": self.total_active_s,
            "total_s": self.total_active_s + self.waiting_s + self.idle_s,
            "spent_s": self.spent_s,
            "withdrawn": self.withdrawn,
            "idle_after_s": sorted(self.idle_after_s),
            "manual_reference_min": self.manual_reference_min,
        }
        saved, undefined = self._saved()
        return {**found, **saved, "notes": self._notes(), "undefined": undefined}

    def _saved(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """Return what is saved by key, None where it is undefined, and why it is."""
        by_hand_min, runtime_s, spent_s = self.manual_reference_min, self.runtime_s, self.spent_s
        reason = ""
        if self.by_hand:
            reason = "contoured by hand: there is nothing to save"
        elif by_hand_min is None:
            reason = "no manual reference is set for this study"
        if reason or by_hand_min is None or runtime_s is None or spent_s is None:
            reason = reason or "no run is logged for this scan"
            return dict.fromkeys(_SAVED), dict.fromkeys(_SAVED, reason)
        found: dict[str, float | None] = dict.fromkeys(_SAVED)
        found["saved_min_paper"] = by_hand_min - runtime_s / 60
        found["saved_percent_paper"] = saved_percent(runtime_s, by_hand_min)
        found["spent_share_of_manual"] = spent_s / (60 * by_hand_min)
        if not self.finished:
            reason = "nobody accepted or rejected these contours, so more time may come"
            return found, dict.fromkeys(_SAVED[2:4], reason)
        # Who logged half of what a rejection leaves to do by hand has not saved the other half.
        left_min = max(by_hand_min - self.manual_s / 60, 0.0) if self.rejected else 0.0
        found["saved_min"] = by_hand_min - left_min - spent_s / 60
        found["saved_percent_with_review"] = saved_percent(spent_s + 60 * left_min, by_hand_min)
        return found, {}

    def _notes(self) -> list[str]:
        notes = []
        if self.edited_since:
            notes.append("edited after the verdict, which no longer counts")
        if open_ones := len(self.live - self.closed):
            notes.append(
                f"{open_ones} session(s) not closed: open now, or ended by a crash that cost the last seconds"
            )
        if self.overlaps:
            notes.append("a session overlaps with another of the same operator: time may count twice")
        return notes


def times(
    store: Store, manual_reference_min: float | Literal["measured"] | None = None
) -> list[dict[str, Any]]:
    """Return one row per animal, scan and operator, in the order in which they were first opened.

    `manual_reference_min` stands in for that of the study; "measured" takes the mean of the scans contoured by hand in
    it; where neither says one, all that is saved is undefined. Keys: `DEFINITIONS`, `editing_by_structure_s`,
    `undefined` (why a value is None, by key), `notes`. An empty study gives no row. Raises InputError as `open_study`
    does, OptionError for a reference of 0 or less, or none measured.
    """
    return [review.row() for review in reviews(store, manual_reference_min)]


def totals(store: Store, manual_reference_min: float | Literal["measured"] | None = None) -> dict[str, Any]:
    """Return `{"study": sums, "operators": [{"operator": name, **sums}]}`; see `sum_up`. Arguments as `times`."""
    return all_totals(reviews(store, manual_reference_min))


def all_totals(found: Sequence[Review]) -> dict[str, Any]:
    """Return the totals of reviews, for the study and for each operator in order of their names."""
    groups: dict[tuple[str, int], list[Review]] = {}
    for review in found:
        groups.setdefault((review.operator, review.operator_id), []).append(review)
    operators = [{"operator": name, **sum_up(groups[name, key])} for name, key in sorted(groups)]
    return {"study": sum_up(found), "operators": operators}


def sum_up(found: Sequence[Review]) -> dict[str, Any]:
    """Return counts and, by key, `{"n", "n_undefined", "sum", "mean", "sd", "median"}`; sd with n - 1, None for one.

    `per_scan` is over scans with a run, each once, whoever reviewed it. `per_review` is over finished reviews (accepted
    or rejected); a scan has one for each operator, and a structure that was not edited counts 0 s. `by_hand` is over
    scans all of whose contours were made by hand, also after a rejection. `unfinished` has the sums of the rest, which
    are in no mean. Rows that are a run and nothing else are counted in `per_scan` only.
    """
    assisted = [review for review in found if not review.by_hand]
    of_people = [review for review in assisted if not review.only_ran]
    done = [review for review in of_people if review.finished]
    left = [review for review in of_people if not review.finished]
    scans = [review.row() for review in {r.case_id: r for r in assisted if r.runs}.values()]
    rows = [review.row() for review in done]
    structures = sorted({name for review in done for name in review.editing})
    return {
        "animals": len({review.animal_id for review in found}),
        "scans": len({review.case_id for review in found}),
        "reviews": len(of_people),
        "accepted": sum(review.verdict == VERDICTS["accept"] for review in done),
        "rejected": sum(review.rejected for review in done),
        "contoured_by_hand": len(found) - len(assisted),
        "per_scan": {key: _summary(row[key] for row in scans) for key in _SCAN_KEYS},
        "per_review": {key: _summary(row[key] for row in rows) for key in _REVIEW_KEYS},
        "editing_by_structure_s": {
            name: _summary(review.editing.get(name, 0.0) for review in done) for name in structures
        },
        "by_hand": {"manual_s": _summary(review.manual_s for review in found if review.all_by_hand)},
        "unfinished": {
            "reviews": len(left),
            **{
                key: sum(getattr(review, key) for review in left)
                for key in ("looking_s", "editing_s", "manual_s", "idle_s")
            },
        },
    }


def reviews(store: Store, manual_reference_min: float | Literal["measured"] | None = None) -> list[Review]:
    """Return the reviews behind `times`, for totals and files; arguments and errors as there."""
    with store.reading() as db:
        db.row_factory = sqlite3.Row
        reference = manual_reference_min
        if reference is None:
            reference = db.execute("SELECT manual_reference_min FROM study").fetchone()[0]
        elif reference != MEASURED:
            reference = checked_minutes(reference)
        found = _collect(db)
    if reference == MEASURED:
        reference = _measured_min(found)
    for review in found:
        review.manual_reference_min = reference
    return found


def _measured_min(found: Iterable[Review]) -> float:
    by_hand = [review.manual_s for review in found if review.all_by_hand]
    if not by_hand:
        raise OptionError(
            "expected scans contoured by hand to measure the manual reference from, got none. Log them with 'thoraxseg "
            "study log STUDY manual', or give the minutes."
        )
    return statistics.fmean(by_hand) / 60


def _collect(db: sqlite3.Connection) -> list[Review]:
    found: dict[tuple[int, int], Review] = {}
    runs: dict[int, list[tuple[int, Run]]] = {}
    spellings: dict[str, str] = {}
    query = """SELECT events.*, sessions.source, sessions.idle_after_s, sessions.opened_utc, sessions.case_id,
            sessions.operator_id, cases.animal_id, cases.scan, animals.name AS animal, operators.name AS operator
        FROM events JOIN sessions ON sessions.id = session_id JOIN cases ON cases.id = case_id
        JOIN animals ON animals.id = animal_id JOIN operators ON operators.id = operator_id ORDER BY events.id"""
    events = db.execute(query).fetchall()
    rows = [row for row in events if row["withdrawn_utc"] is None]
    withdrawn = Counter(
        (row["case_id"], row["operator_id"]) for row in events if row["withdrawn_utc"] is not None
    )
    for row in rows:
        key = row["case_id"], row["operator_id"]
        if key not in found:
            names = ("animal_id", "case_id", "operator_id", "animal", "scan", "operator", "opened_utc")
            found[key] = Review(*(row[name] for name in names), manual_reference_min=None)
        structure = spellings.setdefault(structure_key(row["structure"]), row["structure"])
        _count(found[key], row, structure)
        if row["kind"] == "run":
            run = Run(row["seconds"], *(row[name] for name in RUN_PARTS))
            runs.setdefault(row["case_id"], []).append((row["operator_id"], run))
    _mark_overlaps(found, rows)
    for (case, operator), review in found.items():
        review.runs = [run for _, run in runs.get(case, [])]
        review.own_runs = sum(who == operator for who, _ in runs.get(case, []))
        review.withdrawn = withdrawn[case, operator]
    return list(found.values())


def _count(review: Review, row: sqlite3.Row, structure: str) -> None:
    """Add one event to the review that it belongs to; events come in the order in which they were written.

    `structure` is the spelling that the study uses for the event's.
    """
    kind, seconds = row["kind"], row["seconds"]
    review.sessions.add(row["session_id"])
    review.opened_utc = min(review.opened_utc, row["opened_utc"])
    if row["source"] == "live":
        review.live.add(row["session_id"])
        review.idle_after_s.add(row["idle_after_s"])
    review.idle_s += row["idle_s"]
    review.seen |= kind in ("open", "look", "edit", "wait", *VERDICTS)
    if kind == "look":
        review.looking_s += seconds
    elif kind == "wait":
        review.waiting_s += seconds
    elif kind in ("edit", "manual"):
        by_structure = review.editing if kind == "edit" else review.manual
        by_structure[structure] = by_structure.get(structure, 0.0) + seconds
        if kind == "edit" and review.verdict and seconds > 0:
            _judge(review, "", row)
            review.edited_since = True
    elif kind in VERDICTS or kind == TAKE_BACK:
        _judge(review, VERDICTS.get(kind, ""), row)
        review.edited_since = False
    elif kind == "close":
        review.closed.add(row["session_id"])


def _judge(review: Review, verdict: str, row: sqlite3.Row) -> None:
    """Note a verdict; the same one again changes nothing, so that its first event stays the one that counts."""
    if verdict != review.verdict:
        review.verdict = verdict
        review.verdict_event, review.verdict_utc = (row["id"], row["ended_utc"]) if verdict else (0, "")


def _mark_overlaps(found: dict[tuple[int, int], Review], rows: Sequence[sqlite3.Row]) -> None:
    """Mark reviews whose live activities lie in time over others of the same operator in another session."""
    work = [row for row in rows if row["source"] == "live" and row["kind"] in (*WORK, "wait")]
    latest: dict[int, sqlite3.Row] = {}
    for row in sorted(work, key=itemgetter("started_utc")):  # as text, stamps are in order
        before = latest.get(row["operator_id"])
        if (
            before is not None
            and before["session_id"] != row["session_id"]
            and row["started_utc"] < before["ended_utc"]
        ):
            for one in (before, row):
                found[one["case_id"], one["operator_id"]].overlaps = True
        if before is None or row["ended_utc"] > before["ended_utc"]:
            latest[row["operator_id"]] = row


def _summary(values: Iterable[float | None]) -> dict[str, float | int | None]:
    values = list(values)
    known = [value for value in values if value is not None]
    return {
        "n": len(known),
        "n_undefined": len(values) - len(known),
        "sum": sum(known) if known else None,
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "median": statistics.median(known) if known else None,
    }
