"""The record and its pictures -> one self-contained HTML page; all outside text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from thoraxseg.report.words import format_volume


def render_page(record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the report of one case as HTML without scripts or links to other files.

    `pictures` are PNG bytes by name: `contours`, `surfaces` and, where there is one, `uncertainty`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("thoraxseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["volume"] = format_volume
    environment.filters["words"] = lambda key: str(key).replace("_", " ")
    images = {name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()}
    return environment.get_template("case.html.j2").render(record=record, pictures=images)
