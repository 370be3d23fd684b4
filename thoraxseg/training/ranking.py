"""Which scans to correct next: those that the model doubts or that look wrong, and not ten times the same.

A correction teaches most where the model was in doubt or wrong, and where nothing like it was corrected before. Both
are measured on what `thoraxseg segment` wrote. The cohort is every result that can be read, also of scans that are
accepted already: they say what is usual.

Robust z: z(x) = (x - median) / max(1.4826 MAD, floor), over the cohort. Squashed: s(x) = x / (1 + x) for x of 0 or
more, so that 0.5 is one unit and nothing counts more than 1.

score = 0.4 doubt + 0.2 volume + 0.1 physiology + 0.15 anatomy + 0.15 missing, each from 0 to 1:

- doubt (`entropy`, or `fold_disagreement` where the map compares folds): (1 + z / (1 + |z|)) / 2, where z is the mean
  over the structures of the z of the mean doubt in the structure and its rim of one voxel, among results of the same
  checkpoint and the same kind of map. So 0.5 is usual, and one structure far out counts more than all a little. 1 where
  an organ was not found. Without a map of doubt the score takes 0.5.
- volume: s(max(0, max |z| - 2)) over the structures, z that of the logarithm of the volume.
- physiology, mice only: s of the largest |log2| by which a volume lies outside half to twice what was measured in mice
  (`ranking_score.MOUSE_MM3`; DEFINITIONS 11.1).
- anatomy: s of the number of sentences of `measure.check_anatomy`.
- missing: organs that were not found, as a share of all organs. No tumor is a normal answer.

Order: again and again the scan with the highest score + 0.5 novelty is taken, among the animals that have had the
fewest, so that no animal has a second scan before each had one. Novelty is s(d), d the distance to the nearest scan
that was taken before or is accepted already: root of the mean squared difference of z (cut at 5) of the logarithm of
each volume (-5 where not found), the doubt of each structure, the logarithm of the voxel size, and the gray values
where images are at hand; what is not known is 0. Before any scan was taken, novelty is 1 for all. Ties go by name.

The weights are a choice, not a measurement. After Settles (2009), "Active learning literature survey", uncertainty
sampling with a term for diversity; the greedy step is that of Gonzalez (1985), farthest first.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg import RESEARCH_USE
from thoraxseg.errors import InputError
from thoraxseg.files import check_free, publish_together
from thoraxseg.progress import Progress, silent
from thoraxseg.study import AcceptedCase, KnownScan, Store, acceptance, known_scans
from thoraxseg.study.accepted import ACCEPTED
from thoraxseg.tables import read_table, write_csv
from thoraxseg.training.data.animals import assign_animals
from thoraxseg.training.ranked_results import Contoured, find_results, read_results
from thoraxseg.training.ranking_score import WEIGHTS, Judged, judge, squashed

NOVELTY = 0.5
PARTS = ("entropy", "fold_disagreement", "volume", "physiology", "anatomy", "missing")
FILES = ("ranking.csv", "ranking.json")


@dataclass(frozen=True)
class Ranked:
    """A scan in its place."""

    place: int
    case: str
    animal: str
    score: float
    """How useful a correction is, 0 to 1, whatever was taken before it."""
    novelty: float
    """How far it is from what was taken before it or is accepted already, 0 to 1."""
    parts: dict[str, float | None]
    """What the score is made of, each 0 to 1, by `PARTS`; None where it is not known."""
    reason: str
    record: Path
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """All scans in order, and what is in no order."""

    ranked: tuple[Ranked, ...]
    left_out: tuple[tuple[str, str], ...]
    """Scans that need no correction, with the sentence that says why: accepted, or another result of a scan."""
    broken: tuple[tuple[str, str], ...]
    """Results that cannot be read, by their path, with the sentence that says why."""
    notes: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "notice": RESEARCH_USE,
            "formula": (__doc__ or "").split("\n\n", 2)[-1],
            "weights": {**WEIGHTS, "novelty": NOVELTY},
            "ranked": [
                {
                    "place": one.place,
                    "case": one.case,
                    "animal": one.animal,
                    "score": one.score,
                    "novelty": one.novelty,
                    "parts": one.parts,
                    "reason": one.reason,
                    "warnings": list(one.warnings),
                    "record": str(one.record),
                }
                for one in self.ranked
            ],
            "left_out": [{"case": case, "reason": reason} for case, reason in self.left_out],
            "broken": [{"result": path, "reason": reason} for path, reason in self.broken],
            "notes": list(self.notes),
        }


def rank_cases(
    results: Sequence[Contoured],
    animals: Mapping[Path, str] | None = None,
    done: Iterable[Path] = (),
    names: Mapping[Path, str] | None = None,
) -> list[Ranked]:
    """Return results in the order in which to correct them, by the formula of this module.

    `animals` and `names` are by record; without them each result is an animal of its own and has its own name. `done`
    are the records of scans that are accepted: they belong to the cohort and are far from nothing, but have no place.
    """
    ready = {*done}
    judged = [
        Judged(one, (names or {}).get(one.record, one.case), (animals or {}).get(one.record, str(one.record)))
        for one in sorted(results, key=lambda one: str(one.record))
    ]
    judge(judged)
    before = [one for one in judged if one.of.record in ready]
    return _in_order([one for one in judged if one.of.record not in ready], before)


def rank(
    places: Sequence[Path],
    study: Store | None = None,
    animals: Path | str | None = None,
    done: Sequence[Path] = (),
    images: Mapping[str, Path] | None = None,
    progress: Progress = silent,
) -> Ranking:
    """Return the order in which to correct the results in folders, or those that a study knows, or both.

    Scans that the study has as accepted, and cases that the tables `done` (with a column case) name, are left out.
    `animals` is a table (case, animal), a pattern or `case`, as for training; the study knows those of its runs.
    `images` are files by case, for their gray values. Raises InputError where there is no result that can be read, and
    as `assign_animals`.
    """
    known = known_scans(study) if study is not None else []
    own = {record.resolve(): scan for scan in known for record in scan.records}
    records = {path.resolve(): path for path in find_results(places)}
    if not places:
        records = {path: path for path in sorted(own) if path.exists()}
    found, broken = read_results(sorted(records.values()), dict(images or {}), progress)
    gone = (
        []
        if places
        else [(str(path), "the record is not there any more.") for path in sorted(own) if not path.exists()]
    )
    broken = [*((str(path), reason) for path, reason in broken), *gone]
    if not found:
        reasons = "; ".join(reason for _, reason in broken[:3])
        raise InputError(
            f"expected results of 'thoraxseg segment', got none that can be read. {reasons or 'Give their folder.'}"
        )
    left_out: list[tuple[str, str]] = []
    found = _newest(found, left_out)
    names = _names(found)
    labeled = _labeled_in(done)
    accepted = list(acceptance(study).cases) if study is not None else []
    ready: set[Path] = set()
    for one in found:
        reason = _why_done(one, names, accepted, labeled, own)
        if reason:
            ready.add(one.record)
            left_out.append((names[one.record], reason))
    by_study = {one.record: own[one.record.resolve()].animal for one in found if one.record.resolve() in own}
    unsaid = [names[one.record] for one in found if one.record not in by_study]
    assigned, notes = assign_animals(unsaid, animals, None) if unsaid else ({}, ())
    if unsaid and animals is None:  # its words are about training
        notes = (
            f"Nothing says which animal {len(unsaid)} of the results are of: each counts as an animal of its own. If "
            "one was scanned several times, give --animals a table (case, animal) or a pattern such as '(.+)_day'.",
        )
    animal_of = {one.record: by_study.get(one.record) or assigned[names[one.record]] for one in found}
    ranked = rank_cases(found, animal_of, ready, names)
    kinds = {(one.checkpoint, one.measure.key if one.measure else "no map of doubt") for one in found}
    if len(kinds) > 1:
        notes = (
            *notes,
            "Results of several checkpoints or kinds of doubt: each was compared among its own kind.",
        )
    return Ranking(tuple(ranked), tuple(left_out), tuple(broken), tuple(notes))


def write_ranking(folder: Path, ranking: Ranking) -> None:
    """Write ranking.csv and ranking.json, both or none; raises OutputError where one is there already."""
    folder = Path(folder)
    check_free(folder, FILES)
    columns = ["place", "case", "animal", "score", "novelty", *PARTS, "reason", "record"]
    rows = [
        {**one.parts, "place": one.place, "case": one.case, "animal": one.animal, "score": one.score}
        | {"novelty": one.novelty, "reason": one.reason, "record": str(one.record)}
        for one in ranking.ranked
    ]
    with publish_together(folder) as scratch:
        write_csv(scratch / FILES[0], columns, rows)
        text = json.dumps(ranking.to_record(), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / FILES[1]).write_text(text + "\n", encoding="utf-8", errors="replace")


def _newest(found: Sequence[Contoured], left_out: list[tuple[str, str]]) -> list[Contoured]:
    """Return one result for each image: the one that was edited by hand, else the latest."""
    by_image: dict[str, list[Contoured]] = defaultdict(list)
    for one in found:
        by_image[one.image_sha256].append(one)
    kept = []
    for same in by_image.values():
        same = sorted(same, key=lambda one: (one.is_edited, one.finished_utc, str(one.record)))
        kept.append(same[-1])
        left_out += [
            (str(one.record), f"another result of this scan counts: {same[-1].record}.") for one in same[:-1]
        ]
    return kept


def _names(found: Sequence[Contoured]) -> dict[Path, str]:
    """Return the name of each result: its case; with its folder where several are called so."""
    counts = Counter(one.case for one in found)
    return {
        one.record: one.case if counts[one.case] == 1 else f"{one.record.parent.name}/{one.case}"
        for one in found
    }


def _labeled_in(tables: Sequence[Path]) -> set[str]:
    return {row["case"] for path in tables for row in read_table(path, ("case",)).rows}


def _why_done(
    one: Contoured,
    names: Mapping[Path, str],
    accepted: Sequence[AcceptedCase],
    labeled: set[str],
    own: Mapping[Path, KnownScan],
) -> str:
    """Return why a scan needs no correction any more; "" where it does."""
    scan = own.get(one.record.resolve())
    for case in accepted:
        if case.image_sha256 == one.image_sha256 or (scan is not None and scan.case == case.case):
            return f"accepted by {case.operator}."
        # Without a digest in common only a name tells, and only where it can mean one scan.
        alike = sum(names[record] in (case.case, case.scan) for record in names) == 1
        unique = sum(other.scan == case.scan for other in accepted) == 1
        if alike and (names[one.record] == case.case or (unique and names[one.record] == case.scan)):
            return f"accepted by {case.operator}, as its name says."
    if scan is not None and scan.verdict == ACCEPTED:
        return "accepted, but its files are not at hand: 'thoraxseg study export-dataset' says why."
    return "labeled already, as a table says." if {one.case, names[one.record]} & labeled else ""


def _in_order(open_ones: Sequence[Judged], before: Sequence[Judged]) -> list[Ranked]:
    """Return the scans in the order in which they are taken."""
    if not open_ones:
        return []
    had = Counter(one.animal for one in before)
    nearest = np.full(len(open_ones), np.inf)
    table = np.array([one.features for one in open_ones])
    for one in before:
        nearest = np.minimum(nearest, _distances(table, one.features))
    left = list(range(len(open_ones)))
    ranked: list[Ranked] = []
    while left:
        fewest = min(had[open_ones[n].animal] for n in left)
        fresh = [n for n in left if had[open_ones[n].animal] == fewest]
        novelty = {n: 1.0 if math.isinf(nearest[n]) else squashed(float(nearest[n])) for n in fresh}
        # Rounded, so that sums that differ by rounding alone go by name.
        gain = {n: round(open_ones[n].score + NOVELTY * novelty[n], 12) for n in fresh}
        best = min(fresh, key=lambda n: (-gain[n], open_ones[n].case, str(open_ones[n].of.record)))
        one = open_ones[best]
        ranked.append(_ranked(one, len(ranked) + 1, novelty[best], had[one.animal]))
        had[one.animal] += 1
        left.remove(best)
        nearest = np.minimum(nearest, _distances(table, one.features))
    return ranked


def _distances(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((table - row) ** 2, axis=1))


def _ranked(one: Judged, place: int, novelty: float, earlier: int) -> Ranked:
    said = [sentence for _, sentence in sorted(one.said, key=lambda pair: -pair[0])][:2]
    if not [weight for weight, _ in one.said if weight > 0]:
        said.insert(0, "nothing stands out")
        said.append("little like it was taken before" if novelty > 0.5 else "much like others")
    if one.of.is_edited:
        said.append("somebody changed these contours already")
    if earlier:
        said.append(f"animal {one.animal} has {earlier} scan(s) before it")
    text = "; ".join(said)
    return Ranked(
        place,
        one.case,
        one.animal,
        round(one.score, 6),
        round(novelty, 6),
        {name: None if one.parts[name] is None else round(one.parts[name], 6) for name in PARTS},  # type: ignore[arg-type]
        text[:1].upper() + text[1:] + ".",
        one.of.record,
        one.of.implausible,
    )
