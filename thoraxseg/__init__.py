"""ThoraxSeg: contours, volumes and doubt maps of the thorax of mice and people.

Research use only. Importing this package loads numpy and nothing heavier; torch, SimpleITK and
the rest are imported by the function that needs them.
"""

from __future__ import annotations

import logging

__version__ = "0.1.0"

RESEARCH_USE = "Research use only. Not for diagnosis or treatment."
"""What every interface, record and page says."""

_PUBLIC = {
    "Volume": "thoraxseg.volume",
    "Segmentation": "thoraxseg.segmentation",
    "SegmentOptions": "thoraxseg.options",
    "read_volume": "thoraxseg.io",
    "open_checkpoint": "thoraxseg.checkpoints",
    "segment": "thoraxseg.pipeline",
    "write_case": "thoraxseg.pipeline",
    "Cancelled": "thoraxseg.progress",
    "ThoraxSegError": "thoraxseg.errors",
}
__all__ = ["__version__", *_PUBLIC]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str):
    """Import a public name on first use, so that `import thoraxseg` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'thoraxseg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
