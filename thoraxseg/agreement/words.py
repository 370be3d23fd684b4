"""Numbers -> words for tables and pages; what is undefined is a dash."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

DASH = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
MM3 = "mm\N{SUPERSCRIPT THREE}"
SHOWN = 5
"""More names than this in one sentence are counted."""


def fixed(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals."""
    return DASH if value is None else f"{value:,.{decimals}f}"


def decimals_of(*values: float | None) -> int:
    """Return how many decimals show the largest of some numbers with four significant digits, for all of them."""
    largest = max((abs(value) for value in values if value), default=1.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 9)


def percent(value: float | None) -> str:
    """Return a share in percent."""
    return DASH if value is None else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    """Return a p with four decimals, or its power of ten where they would all be 0."""
    if value is None:
        return DASH
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"


def mean_and_sd(mean: float | None, sd: float | None, decimals: int) -> str:
    """Return a mean with its SD; the SD of one value is a dash."""
    return DASH if mean is None else f"{fixed(mean, decimals)} {PLUS_MINUS} {fixed(sd, decimals)}"


def some(names: Iterable[object]) -> str:
    """Return names for a sentence: the first ones, and how many there are more."""
    names = [str(name) for name in names]
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def whys(undefined: Mapping[str, Any], shown: Collection[str] | None = None) -> list[str]:
    """Return a sentence for every reason why numbers are missing, with the keys that it holds for.

    `shown` are the keys to speak of; None: all.
    """
    of: dict[str, list[str]] = {}
    for key, why in undefined.items():
        if shown is None or key in shown:
            of.setdefault(why, []).append(key)
    return [f"{', '.join(keys)} undefined: {why}" for why, keys in of.items()]
