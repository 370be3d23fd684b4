"""Values of a card's JSON, checked: each parser takes a value and where it stands, and returns the value.

A parser raises `FieldError` in words that name the place, since a card is written by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

Parser = Callable[[Any, str], Any]


class FieldError(Exception):
    """What is wrong with a value, before the file is known."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON whose keys are all different (for `object_pairs_hook`)."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise FieldError(f"key {key!r} is given twice")
        seen[key] = value
    return seen


def not_finite(text: str) -> float:
    """Refuse NaN and Infinity (for `parse_constant`)."""
    raise FieldError(f"{text} is not a finite number")


def record(cls: type, data: Any, where: str, parsers: Mapping[str, Parser]) -> Any:
    """Build a dataclass from an object whose keys are its fields, except those with a default.

    Each value goes through its parser; a field without one is text.
    """
    names = [f.name for f in fields(cls) if f.default is MISSING]
    return cls(**members(data, where, {name: parsers.get(name, text) for name in names}))


def members(data: Any, where: str, parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """Return the values of an object that must have exactly the keys of `parsers`."""
    if not isinstance(data, Mapping):
        raise FieldError(f"{where} must be an object, got {data!r:.80}")
    for key in data:
        if key not in parsers:
            raise FieldError(f"unknown key {key!r} in {where}; known are {', '.join(sorted(parsers))}")
    for key in parsers:
        if key not in data:
            raise FieldError(f"key {key!r} is missing in {where}")
    return {key: parse(data[key], f"{where}.{key}") for key, parse in parsers.items()}


def text(value: Any, where: str) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise FieldError(f"{where} must be text, got {value!r:.80}")
    return value


def matching(pattern: str, wanted: str) -> Parser:
    """Text that a regular expression matches as a whole; `wanted` says what it stands for."""

    def parse(value: Any, where: str) -> str:
        if not re.fullmatch(pattern, text(value, where), re.ASCII):
            raise FieldError(f"{where} must be {wanted}, got {value!r:.80}")
        return value

    return parse


name = matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", "a plain name of letters, digits, '.', '_' and '-'")
digest = matching(r"[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")


def one_of(*choices: str | int) -> Parser:
    """One of a few words or numbers."""

    def parse(value: Any, where: str) -> str | int:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise FieldError(f"{where} must be one of {', '.join(map(str, choices))}, got {value!r:.80}")
        return value

    return parse


def number(value: Any, where: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300:
        raise FieldError(f"{where} must be a finite number, got {value!r:.80}")
    return float(value)


def positive(value: Any, where: str) -> float:
    """A finite number above 0."""
    if number(value, where) <= 0:
        raise FieldError(f"{where} must be positive, got {value!r:.80}")
    return float(value)


def fraction(value: Any, where: str) -> float:
    """A number above 0 and at most 1."""
    if positive(value, where) > 1:
        raise FieldError(f"{where} must be at most 1, got {value!r:.80}")
    return float(value)


def count(value: Any, where: str) -> int:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise FieldError(f"{where} must be a whole number, not negative, got {value!r:.80}")
    return value


def size(value: Any, where: str) -> int:
    """A whole number from 1."""
    if count(value, where) < 1:
        raise FieldError(f"{where} must be 1 or more, got {value!r:.80}")
    return value


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise FieldError(f"{where} must be true or false, got {value!r:.80}")
    return value


def list_of(parse: Parser, length: int | None = None) -> Parser:
    """A list, of `length` if that is given, whose items go through `parse`; returned as a tuple."""

    def parse_list(value: Any, where: str) -> tuple:
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            wanted = "a list" if length is None else f"a list of {length}"
            raise FieldError(f"{where} must be {wanted}, got {value!r:.80}")
        return tuple(parse(item, f"{where}[{index}]") for index, item in enumerate(value))

    return parse_list


def maybe(parse: Parser) -> Parser:
    """Null, or what `parse` takes."""
    return lambda value, where: None if value is None else parse(value, where)
