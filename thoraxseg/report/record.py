"""The machine-readable record of a case: measurements with units, timings, and where it all came from."""

from __future__ import annotations

import math
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np

from thoraxseg import __version__
from thoraxseg.checkpoints import Checkpoint
from thoraxseg.report.words import printable
from thoraxseg.volume import Volume

RECORD_SCHEMA = 1
RESEARCH_USE = "Research use only. Not for diagnosis or treatment."
_PACKAGES = ("numpy", "scipy", "torch", "SimpleITK", "scikit-image")


class CaseResult(Protocol):
    """What a finished case offers to the record."""

    volume: Volume
    uncertainty: np.ndarray | None
    measurements: dict[str, Any]
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def provenance(
    volume: Volume,
    checkpoint: Checkpoint,
    options: dict[str, Any],
    device: str,
    timings_s: dict[str, float],
) -> dict[str, Any]:
    """Return what is needed to make the same contours again: geometry, checkpoint, options, versions, times."""
    card = checkpoint.card
    return {
        "geometry": {
            "shape_kji": list(volume.shape),
            "spacing_mm_kji": list(volume.spacing_mm),
            "axes_ijk": volume.axis_codes,
            "ijk_to_ras_mm": volume.ijk_to_ras.tolist(),
            "assumed": volume.geometry_assumed,
        },
        "checkpoint": {
            "name": card.name,
            "title": card.title,
            "task": card.task,
            "species": card.species,
            "modality": card.modality,
            "architecture": card.architecture.name,
            "softmax_temperature": card.inference.temperature,
            "softmax_temperature_reason": card.inference.temperature_reason,
            "license": card.license,
            "citation": card.citation,
            "validation": card.validation,
            "card_sha256": card.sha256,
            "weights_sha256": [file.sha256 for file in card.weights],
        },
        "options": options,
        "device": device,
        "cpu_count": os.cpu_count(),
        "versions": {"thoraxseg": __version__, "python": platform.python_version(), **_versions()},
        "platform": f"{platform.system()} {platform.machine()}",
        "finished_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "timings_s": dict(timings_s),
    }


def case_record(
    case: str, input_sha256: str, result: CaseResult, writing_s: dict[str, float]
) -> dict[str, Any]:
    """Return the content of `CASE.json`; keys carry their units, undefined values are null."""
    source = dict(result.provenance)
    timings = {**source.pop("timings_s"), **writing_s}
    return {
        "schema": RECORD_SCHEMA,
        "notice": RESEARCH_USE,
        "case": case,
        "input": {
            "name": printable(result.volume.name),
            "sha256": input_sha256,
            **source.pop("geometry"),
        },
        "warnings": [printable(warning) for warning in result.warnings],
        "notes": [printable(note) for note in result.notes],
        "measurements": result.measurements,
        "uncertainty": None if result.uncertainty is None else _describe(result),
        "timings_s": {**timings, "total": round(sum(timings.values()), 3)},
        "provenance": source,
    }


def _describe(result: CaseResult) -> dict[str, Any]:
    classes = 1 + max(structure["label"] for structure in result.measurements["structures"])
    return {
        "kind": "entropy of the class probabilities",
        "unit": "nat",
        "range": [0.0, math.log(classes)],
        "maximum_found": float(result.uncertainty.max()),
    }


def uncertainty_fields(classes: int) -> dict[str, str]:
    """Return the header fields that say what an uncertainty volume holds."""
    return {
        "thoraxseg_quantity": "entropy of the class probabilities",
        "thoraxseg_unit": "nat",
        "thoraxseg_range": f"0 to ln {classes} = {math.log(classes):.6f}",
        "thoraxseg_notice": RESEARCH_USE,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
