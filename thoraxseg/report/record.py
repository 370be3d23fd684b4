"""The machine-readable record of a case: measurements with units, timings, and where it all came from."""

from __future__ import annotations

import hashlib
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np

from thoraxseg import RESEARCH_USE, __version__
from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.card import card_text
from thoraxseg.report.words import printable
from thoraxseg.volume import Volume

RECORD_SCHEMA = 1
_PACKAGES = ("numpy", "scipy", "torch", "SimpleITK", "scikit-image")


class Quantity(Protocol):
    """What a map of doubt holds."""

    key: str
    words: str
    unit: str
    maximum: float


class CaseResult(Protocol):
    """What a finished case offers to the record."""

    volume: Volume
    uncertainty: np.ndarray | None
    quantity: Quantity | None
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
    return {
        "geometry": {
            "shape_kji": list(volume.shape),
            "spacing_mm_kji": list(volume.spacing_mm),
            "axes_ijk": volume.axis_codes,
            "ijk_to_ras_mm": volume.ijk_to_ras.tolist(),
            "assumed": volume.geometry_assumed,
        },
        "checkpoint": _about(checkpoint),
        "options": options,
        "device": device,
        "cpu_count": os.cpu_count(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "finished_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "timings_s": dict(timings_s),
    }


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what identifies a checkpoint and all that it builds on."""
    card = checkpoint.card
    about: dict[str, Any] = {
        "name": card.name,
        "title": card.title,
        "task": card.task,
        "species": card.species,
        "modality": card.modality,
        "architecture": card.architecture.name,
        "averaging": checkpoint.space or card.inference.averaging,
        "softmax_temperature": card.inference.temperature,
        "softmax_temperature_reason": card.inference.temperature_reason,
        "license": card.license,
        "citation": card.citation,
        "validation": card.validation,
        # Of a card that was made of other files: what it would say, plan and all.
        "card_sha256": card.sha256 or hashlib.sha256(card_text(card).encode()).hexdigest(),
        "weights": [file.name for file in card.weights],
        "files": [path.name for path in checkpoint.weights],
        "weights_sha256": [file.sha256 for file in card.weights],
        "assumed": list(checkpoint.assumed),
    }
    if card.nnunet is not None:
        about["nnunet"] = {
            "version": card.nnunet.origin.value,
            "configuration": card.nnunet.configuration,
            "trainer": card.nnunet.trainer,
        }
    for key, part in (("first_stage", checkpoint.previous), ("lung_map_from", checkpoint.lungs)):
        if part is not None:
            about[key] = _about(part)
    if checkpoint.members:
        parts = zip(checkpoint.members, checkpoint.shares, strict=True)
        about["members"] = [{"share": share, **_about(member)} for member, share in parts]
    return about


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
    return {
        "kind": result.quantity.words,
        "key": result.quantity.key,
        "unit": result.quantity.unit,
        "range": [0.0, result.quantity.maximum],
        "maximum_found": float(result.uncertainty.max()),
    }


def uncertainty_fields(quantity: Quantity) -> dict[str, str]:
    """Return the header fields that say what an uncertainty volume holds."""
    return {
        "thoraxseg_quantity": quantity.words,
        "thoraxseg_unit": quantity.unit,
        "thoraxseg_range": f"0 to {quantity.maximum:.6f}",
        "thoraxseg_notice": RESEARCH_USE,
    }


def versions() -> dict[str, str]:
    """Return the versions of ThoraxSeg, Python and the packages that compute."""
    found = {"thoraxseg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
