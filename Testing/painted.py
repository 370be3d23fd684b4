"""Images painted from known labels, and checkpoints that find just these: what the model says is the truth.

A painted image shows every structure in a gray value of its own, with a little noise, so that a network of plain
intensity bands tells all of them apart, right from left too. No anatomy is known to it: for tests of what lies
around a model, where right answers have to be known voxel for voxel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.phantoms import Phantom, mouse_micro_ct, mouse_mri

GRAY_STEP = 100
"""Gray value of background and of each further label; the noise is never more than 6."""
DOUBT_STEP = 42
"""How much brighter the structures are in the doubtful slice: nearly half way to the next one."""
NAMES = {"mouse-thorax": "painted-thorax", "lung-tumor": "painted-lung-tumor"}
STRUCTURES = {
    "mouse-thorax": ("heart", "spinal_cord", "right_lung", "left_lung"),
    "lung-tumor": ("lungs", "tumors"),
}
SPACING_MM = 0.5


def painted(phantom: Phantom, seed: int = 0) -> Phantom:
    """Return the phantom with an image that is painted from its labels: 100 x (label + 1) and noise, int16.

    In one slice, `doubtful_slice`, the structures are 42 brighter: found right, but with doubt.
    """
    labels = phantom.truth.labels
    noise = np.random.default_rng(seed).normal(0, 2, labels.shape).clip(-6, 6)
    image = GRAY_STEP * (labels.astype(float) + 1) + noise
    k = doubtful_slice(phantom)
    image[k] += DOUBT_STEP * (labels[k] > 0)
    return replace(phantom, volume=replace(phantom.volume, array=np.rint(image).astype(np.int16)))


def doubtful_slice(phantom: Phantom) -> int:
    """Return the index k of the slice of a painted image that its checkpoint doubts most: the one with most labels."""
    return int((phantom.truth.labels > 0).sum(axis=(1, 2)).argmax())


def painted_thorax(
    seed: int = 1, spacing_mm: float | Sequence[float] = SPACING_MM, axis_codes: str = "LPS"
) -> Phantom:
    """Return a painted mouse micro-CT: heart 1, spinal cord 2, right lung 3, left lung 4."""
    return painted(mouse_micro_ct(seed=seed, spacing_mm=spacing_mm, axis_codes=axis_codes), seed)


def painted_lung_tumor(
    seed: int = 1,
    spacing_mm: float | Sequence[float] = SPACING_MM,
    axis_codes: str = "RIA",
    tumors: int | Sequence[float] = (5.0, 4.0, 0.3),
) -> Phantom:
    """Return a painted mouse MRI: lungs 1, tumors 2; one of the three tumors is small (below 0.4 mm3)."""
    return painted(mouse_mri(seed=seed, spacing_mm=spacing_mm, axis_codes=axis_codes, tumors=tumors), seed)


def painted_checkpoint(
    folder: Path, task: str = "mouse-thorax", changes: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint for the painted images of a task into `folder/NAME` and return that folder.

    Put under `THORAXSEG_HOME/checkpoints` it is a checkpoint of the catalog. `changes` replace members of the card.
    """
    from safetensors.numpy import save_file

    name, keys = NAMES[task], STRUCTURES[task]
    place = Path(folder) / name
    place.mkdir(parents=True)
    centers = [float(GRAY_STEP * (label + 1)) for label in range(len(keys) + 1)]
    weights = place / f"{name}.safetensors"
    bands = {"centers": centers, "widths": [GRAY_STEP / 5.0] * len(centers)}
    save_file({key: np.array(values, np.float32) for key, values in bands.items()}, weights)
    data = weights.read_bytes()
    ct = task == "mouse-thorax"
    card = {
        "schema": 1,
        "name": name,
        "title": f"Painted {task} phantom",
        "description": "Intensity bands for painted phantoms; for tests.",
        "task": task,
        "species": "mouse",
        "modality": "micro-CT" if ct else "MRI",
        "labels": {str(n): key for n, key in enumerate(keys, 1)},
        "channels": [{"name": "CT" if ct else "MRI", "source": "image"}],
        "architecture": {"name": "threshold", "window": 1, "dimensions": 3, **bands},
        "input": {
            "orientation": "LPS" if ct else "RIA",
            "spacing_mm": [SPACING_MM] * 3,
            "spacing_tolerance": 0.5,
            "side_known": True,
            "stack_spacing_mm": None,
            "stack_shape": None,
            "intensity": [
                {
                    "stage": "input",
                    "statistic": "mean",
                    "low": 90,
                    "high": 400,
                    "reason": "painted phantoms",
                    "remedy": "Paint the phantom.",
                }
            ],
        },
        "preprocess": [],
        "inference": {
            "mode": "sliding-window",
            "patch_size": [32, 32, 32],
            "step": 0.5,
            "blending": "gaussian",
            "averaging": "probabilities",
            "temperature": 1,
            "temperature_reason": "none",
        },
        "nnunet": None,
        "previous": None,
        "lungs_from": None,
        "postprocess": {"regions": [], "rules": []},
        "tumors": None if ct else {"label": 2, "connectivity": 18, "small_below_mm3": 0.4, "host_label": 1},
        "weights": [
            {
                "name": weights.name,
                "member": "",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_bytes": len(data),
            }
        ],
        "samples": [],
        "source": {"kind": "local", "requirement": "", "archive_sha256": ""},
        "license": "Apache-2.0",
        "citation": "none",
        "validation": "None, and none is meant: it knows no anatomy.",
        "assumed": [],
    }
    (place / "card.json").write_text(json.dumps(card | dict(changes or {}), indent=2), encoding="utf-8")
    return place
