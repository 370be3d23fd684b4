"""Parameters as they come from a file -> checked numbers, or an OptionError that names what is wrong."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thoraxseg.errors import OptionError

PUBLISHED_CLASS_WEIGHTS = {2: (1.0, 15.0), 3: (1.0, 5.0, 15.0)}
"""Kaniewski's weights of background, (lungs,) tumors, by number of classes."""


def call_with(build: Callable, what: str, parameters: Mapping[str, Any], **fixed: Any) -> Any:
    """Return `build(**fixed, **parameters)`; OptionError for a parameter it does not know or lacks."""
    signature = inspect.signature(build).parameters
    known = [name for name in signature if name not in fixed]
    unknown = [name for name in parameters if name not in known]
    if unknown:
        listed = ", ".join(known) if known else "none"
        raise OptionError(f"{what}: unknown parameter {unknown[0]!r}; it knows {listed}.")
    lacking = [
        name
        for name in known
        if signature[name].default is inspect.Parameter.empty and name not in parameters
    ]
    if lacking:
        raise OptionError(f"{what}: the parameter {lacking[0]!r} is missing.")
    return build(**fixed, **parameters)


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return `value` as a float when it is a finite number from `low` to `high`; OptionError otherwise."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise OptionError(f"{name}: expected a number {limits}, got {value!r}.")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return `value` as a float when it is a finite number above 0; OptionError otherwise."""
    if number(name, value, 0) == 0:
        raise OptionError(f"{name}: expected a number above 0, got {value!r}.")
    return float(value)


def whole(name: str, value: Any, low: int) -> int:
    """Return `value` when it is a whole number of at least `low`; OptionError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise OptionError(f"{name}: expected a whole number of at least {low}, got {value!r}.")
    return value


def flag(name: str, value: Any) -> bool:
    """Return `value` when it is true or false; OptionError otherwise."""
    if not isinstance(value, bool):
        raise OptionError(f"{name}: expected true or false, got {value!r}.")
    return value


def one_of(name: str, value: Any, words: Sequence[str]) -> str:
    """Return `value` when it is one of `words`; OptionError that lists them otherwise."""
    if not isinstance(value, str) or value not in words:
        raise OptionError(f"{name}: expected one of {', '.join(words)}, got {value!r}.")
    return value


def class_numbers(name: str, value: Any, classes: int) -> list[float]:
    """Return one number above 0 for each class, background first; OptionError otherwise."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence) or len(value) != classes:
        raise OptionError(
            f"{name}: expected {classes} numbers, one a class and the background first, got {value!r}."
        )
    return [positive(name, one) for one in value]


def balanced_weights(counts: Sequence[float]) -> list[float]:
    """Return N / (classes x n_c) of counts n_c that sum to N (Deepmeta_v2's weights); 0 for a class without a voxel."""
    total = sum(counts)
    return [total / (len(counts) * count) if count > 0 else 0.0 for count in counts]


def published_weights(what: str, classes: int) -> list[float]:
    """Return Kaniewski's class weights; OptionError where the paper has none for so many classes."""
    if classes not in PUBLISHED_CLASS_WEIGHTS:
        raise OptionError(
            f"{what}: no weights of {classes} classes are published; give class_weights, one number a class, "
            "background first, or class_counts."
        )
    return list(PUBLISHED_CLASS_WEIGHTS[classes])
