"""Numbers and text from outside -> words for people."""

from __future__ import annotations

import math
import unicodedata
from contextlib import suppress

DIGITS = 4
_CM3_FROM_MM3 = 10_000.0


def format_volume(volume_mm3: float) -> str:
    """Return a volume for people: four significant digits, in cm3 from 10 cm3 up, with its unit."""
    value, unit = volume_mm3, "mm\N{SUPERSCRIPT THREE}"
    if value >= _CM3_FROM_MM3:
        value, unit = value / 1000, "cm\N{SUPERSCRIPT THREE}"
    if value <= 0:
        return f"0 {unit}"
    digits = max(0, DIGITS - 1 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f} {unit}"


def printable(text: str) -> str:
    r"""Return outside text, such as a file name, with control characters and stray bytes as `\x1b`.

    So nothing a file is called can steer a terminal, hide in a page, or fail to be encoded. Bytes that an
    ASCII locale could not read are letters again.
    """
    with suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
