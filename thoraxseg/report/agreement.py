"""Sections of words, tables and figures -> one self-contained HTML page for a scientist's paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoraxseg import RESEARCH_USE
from thoraxseg.report.publication import Picture
from thoraxseg.report.words import printable

DENSE_TABLE, SIDEWAYS_TABLE = 8, 16
"""A table with more columns than this is printed in smaller letters, and on a page turned sideways."""
LONGEST_WORD = 26
"""Letters up to which all cells of a column are short enough to stay on one line."""
_NUMBER = re.compile(
    r"[<>=~\N{ALMOST EQUAL TO}\s(]*[+\-\N{MINUS SIGN}\N{PLUS-MINUS SIGN}]?\.?\d[\d.,\seE%*/|():;+\-"
    r"\N{MINUS SIGN}\N{PLUS-MINUS SIGN}\N{EN DASH}\N{MULTIPLICATION SIGN}\u2020\u2021\u00a7]*"
    r"(?:to [\d.,eE+\-\N{MINUS SIGN})\s]+)?"
)
_EMPTY = {"", "-", "\N{EN DASH}", "\N{EM DASH}", "*"}


@dataclass(frozen=True)
class DataTable:
    """A table as it is read: every cell is a text, footnotes say what the signs in it mean."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    footnotes: Sequence[str] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each column holds: `number` (set to the right), `word` (kept on one line) or `text`."""
        return tuple(_kind([row[n] for row in self.rows]) for n in range(len(self.columns)))

    @property
    def starts_group(self) -> tuple[bool, ...]:
        """Which rows begin a group of rows with the same first cell; none where no cell repeats."""
        first = [row[0] for row in self.rows]
        differs = [n > 0 and first[n] != first[n - 1] for n in range(len(first))]
        return tuple(differs) if sum(differs) < len(first) - 1 else (False,) * len(first)


@dataclass(frozen=True)
class Section:
    """One part of the page: words first, then tables, then figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[DataTable] = ()
    pictures: Sequence[Picture] = ()


def render_report(
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    warnings: Sequence[str],
    notes: Sequence[str],
    definitions: Mapping[str, str],
    provenance: Mapping[str, str],
) -> str:
    """Return the page as HTML without scripts or links to other files; all text from outside is escaped.

    `facts` are (value, what it is) for the head of the page. `definitions` says of every column what it is,
    `provenance` what the numbers were made from. What is empty leaves no heading behind.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("thoraxseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template("agreement.html.j2").render(
        title=title,
        subtitle=subtitle,
        facts=facts,
        sections=sections,
        warnings=warnings,
        notes=notes,
        definitions=definitions,
        provenance=provenance,
        notice=RESEARCH_USE,
        dense=DENSE_TABLE,
        sideways=SIDEWAYS_TABLE,
    )


def _finalize(value: Any) -> Any:
    """Make every text on the page printable, wherever it comes from."""
    return printable(value) if isinstance(value, str) else value


def _kind(cells: Sequence[str]) -> str:
    said = [cell.strip() for cell in cells if cell.strip() not in _EMPTY]
    if said and all(_NUMBER.fullmatch(cell) for cell in said):
        return "number"
    return "word" if max(map(len, said), default=0) <= LONGEST_WORD else "text"
