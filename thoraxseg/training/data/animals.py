"""Which animal each case is of: from a table, a pattern, or said to be its own; never guessed.

Scans of one animal look alike. Where one is trained on and another is validated on, the score says how well the
animal was remembered. So names that look like repeated scans are refused until somebody says what they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from thoraxseg.errors import InputError, OptionError
from thoraxseg.tables import is_there, read_table
from thoraxseg.training.data.words import some

CASE_IS_ANIMAL = "case"
"""Says that every case is an animal of its own."""
BESIDE = "animals.csv"
"""The table that is looked for beside the data set."""
HOW = (
    f"Say which animal each case is of: put a table {BESIDE} with the columns case and animal beside the data set, or "
    "give --animals a table or a pattern whose first group is the animal, such as '(.+)_day'. Where every case is an "
    f"animal (or person) of its own, say --animals {CASE_IS_ANIMAL}."
)

_UNIT = r"(?:d|day|days|w|wk|wks|week|weeks|mo|month|months|h|hr|hrs|hour|hours|min)"
_COUNTED = r"(?:t|tp|time|timepoint|ses|session|visit|rep|repeat|run|acq)"
_OCCASION = re.compile(
    rf"""{_UNIT}\d* | \d+{_UNIT} | {_COUNTED}\d* | scan\d*
    | (?:19|20)\d\d (?:0[1-9]|1[0-2]) (?:0[1-9]|[12]\d|3[01])
    | baseline | base | followup | follow | fu\d* | up | pre | post | before | after | early | late | first | second
    | native | contrast | enhanced | ce | nce | inspiration | expiration | insp | exp
    | rot\d+ | elastic | flip | flipped | aug\d*""",
    re.VERBOSE,
)
"""Words in names that tell scans of one animal apart: when it was scanned, how often, with what, how copied."""


def assign_animals(
    ids: Sequence[str], given: Path | str | None, beside: Path | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return case -> animal, and what is to be said of it.

    `given` is a table (case, animal), a pattern, or `case`; without it the table `beside` the data set counts.
    Raises InputError for cases that are in no table or do not fit the pattern, for spellings that may be one animal,
    and for names that look like repeated scans where nobody said what they are; OptionError for a pattern that is none.
    """
    if given is None and beside is not None and beside.is_file():
        given = beside
    if given is None:
        if groups := _repeated(ids):
            raise InputError(
                f"{' and '.join(some(group) for group in groups[:2])} look like several scans of one animal, and "
                "nothing says so. If one were trained on and another validated on, the score would be too good. "
                f"{HOW}"
            )
        return {name: name for name in ids}, (
            f"No table says which animal each case is of: all {len(ids)} cases count as animals of their own. If one "
            f"was scanned twice, scores on held-out cases are too good. {HOW}",
        )
    if given == CASE_IS_ANIMAL:
        return {name: name for name in ids}, (
            f"Each of the {len(ids)} cases is an animal of its own, as was said.",
        )
    is_table = isinstance(given, Path) or given.lower().endswith(".csv") or is_there(Path(given))
    animals, notes = _by_table(ids, Path(given)) if is_table else (_by_pattern(ids, given), ())
    check_spelling(animals.values())
    told = Path(given).name if is_table else given
    return animals, (
        *notes,
        f"{len(ids)} cases are of {len({*animals.values()})} animals, by {told!r}.",
    )


def check_spelling(animals: Iterable[str]) -> None:
    """Raise InputError where two names of animals differ in upper and lower case, blanks or leading zeros only."""
    seen: dict[str, str] = {}
    for animal in animals:
        plain = re.sub(r"0*(\d+)", r"\1", "".join(animal.casefold().split()))
        if seen.setdefault(plain, animal) != animal:
            raise InputError(
                f"the animals {seen[plain]!r:.80} and {animal!r:.80} may be one, written in two ways. Write the name "
                "of an animal in one way, or give them names that differ more."
            )


def _by_table(ids: Sequence[str], path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    table = read_table(path, required=("case", "animal"))
    found: dict[str, str] = {}
    for row in table.rows:
        case, animal = row["case"], row["animal"]
        if not case or not animal:
            raise InputError(
                f"{table.where(row)}: expected a case and an animal, got {case!r:.80} and {animal!r:.80}."
            )
        if found.setdefault(case, animal) != animal:
            raise InputError(
                f"{table.where(row)}: the case {case!r:.80} is of {found[case]!r:.80} further up."
            )
    if missing := [name for name in ids if name not in found]:
        raise InputError(
            f"{path}: expected the animal of each case, {some(missing)} is not in the table. Add it."
        )
    more = [name for name in found if name not in {*ids}]
    notes = (
        (f"{path.name} names {len(more)} case(s) that are not in the data set: {some(more)}.",)
        if more
        else ()
    )
    return {name: found[name] for name in ids}, notes


def _by_pattern(ids: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError(
            f"--animals: expected a table, a pattern or 'case'; {pattern!r:.80}: {error}."
        ) from error
    if compiled.groups != 1:
        raise OptionError(
            f"--animals: expected a table (.csv), 'case', or a pattern with one group that is the animal, such as "
            f"'(.+)_day', got {pattern!r:.80}."
        )
    found = {name: match[1] for name in ids if (match := compiled.search(name)) and match[1]}
    if missing := [name for name in ids if name not in found]:
        raise InputError(f"--animals {pattern}: there is no animal in the name of {some(missing)}. {HOW}")
    return found


def _repeated(ids: Sequence[str]) -> list[list[str]]:
    """Return groups of cases that look like scans of one animal.

    They are alike but for words of time and the like, as `M7_day3` and `M7_day10`; or several stems with a number of
    their own come with counters, as `A12_1`, `A12_2`, `B3_1`. One stem for all, as in `ct280_001`, is the data set.
    """
    by_occasion, by_counter = defaultdict(list), defaultdict(list)
    for name in ids:
        words = _words(name)
        kept = [word for word in words if not _OCCASION.fullmatch(word)]
        if kept and len(kept) < len(words):
            by_occasion[tuple(kept)].append(name)
        if (
            len(kept) > 1
            and re.fullmatch(r"\d{1,3}|[a-z]", kept[-1])
            and re.search(r"\d", "".join(kept[:-1]))
        ):
            by_counter[tuple(kept[:-1])].append(name)
    found = [group for group in by_occasion.values() if len(group) > 1]
    # Cases without any such word may be the first scan: `M7` beside `M7_day10`.
    for name in ids:
        words = tuple(_words(name))
        if words in by_occasion and name not in by_occasion[words]:
            found.append([name, *by_occasion[words]])
    if len(by_counter) > 1:
        found += [group for group in by_counter.values() if len(group) > 1]
    return found


def _words(name: str) -> list[str]:
    """Return the words of a name: a date, `day 3` or `ses-01` is one word, `m7d10` is two."""
    name = re.sub(r"((?:19|20)\d\d)[-_.](\d\d)[-_.](\d\d)", r"\1\2\3", name.lower())
    name = re.sub(rf"(?<![a-z0-9])({_UNIT}|{_COUNTED})[\W_]+(?=\d)", r"\1", name)
    name = re.sub(rf"(?<=\d)(?=(?:{_UNIT}|{_COUNTED})\d+(?![a-z0-9]))", " ", name)
    return [word for word in re.split(r"[\W_]+", name) if word]
