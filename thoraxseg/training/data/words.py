"""Lists of names in sentences, and the JSON that describes data sets."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.errors import InputError

SHOWN = 5
"""More names than this in one sentence are counted."""
MAX_JSON = 16 << 20


def some(names: Collection[object]) -> str:
    """Return a few names in words, and how many more there are."""
    shown = [f"{name!s:.80}" for name in list(names)[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; InputError for keys given twice, numbers that are none, and other files."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"{path}: expected JSON of at most {MAX_JSON >> 20} MiB.")
        return json.loads(
            path.read_text("utf-8-sig"), object_pairs_hook=fields.unique, parse_constant=fields.not_finite
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError, FieldError) as error:
        raise InputError(f"{path}: expected JSON, got: {error}. Correct the file.") from error
