"""What a default checkpoint says of itself: its card, and the checkpoint that a run of it leaves behind.

`python -m thoraxseg.training.default_card NAME --run DIR --output DIR` writes the checkpoint of a run in its native
form; with `--ship` into this package, from where it is offered as built in.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import thoraxseg.checkpoints
from thoraxseg.checkpoints.card import Card, Source, card_text, parse_card
from thoraxseg.errors import InputError
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.training.defaults import ARCHITECTURE, DEFAULTS, PRIOR_IN_WORDS, STEP, Default
from thoraxseg.training.finish import write_checkpoint
from thoraxseg.training.trainer import BEST, LAST, kept_weights, read_state

_TITLES = {
    "mouse-ct-thorax-mini": "Built in: heart, spinal cord and lungs in mouse micro-CT",
    "mouse-mri-lung-tumor-mini": "Built in: lungs and lung tumors in mouse MRI",
    "human-ct-lung-tumor-mini": "Built in: lungs and lung tumors in human chest CT",
}
_SHARED = (
    "A small 3-D U-Net that learned from computed phantoms with random anatomy, contrast and pose alone, never from an "
    "animal or a person. It sees any scan at one voxel size, whatever the scan's own. Check every contour."
)


def card_of(default: Default, validation: str) -> Card:
    """Return the card of a default checkpoint, its weights not yet listed; `validation` says what was measured."""
    options = default.options
    mri, human = options.kind == "mouse-mri", options.kind == "human-ct"
    labels = {str(n + 1): STRUCTURES[key].key for n, key in enumerate(default.structures)}
    preprocess: list[dict[str, Any]] = [{"name": "resample_triangle", "spacing_mm": [options.spacing_mm] * 3}]
    if human:
        preprocess += [{"name": "clip", "low": -1024, "high": 2000}]
    preprocess += [{"name": "z_score"}]
    data = {
        "schema": 1,
        "name": default.name,
        "title": _TITLES[default.name],
        "description": f"{_SHARED} {PRIOR_IN_WORDS[options.kind]}",
        "task": "lung-tumor" if "tumors" in default.structures else "mouse-thorax",
        "species": "human" if human else "mouse",
        "modality": "MRI" if mri else "CT" if human else "micro-CT",
        "labels": labels,
        "channels": [{"name": "MRI" if mri else "CT", "source": "image"}],
        "architecture": {"name": ARCHITECTURE, **default.arguments},
        "input": {
            "orientation": "RAS",
            "spacing_mm": [options.spacing_mm] * 3,
            "spacing_tolerance": 2.0,
            "side_known": True,
            "stack_spacing_mm": None,
            "stack_shape": None,
            "intensity": [],
        },
        "preprocess": preprocess,
        "inference": {
            "mode": "sliding-window",
            "patch_size": list(options.patch_size),
            "step": STEP,
            "blending": "gaussian",
            "averaging": "logits",
            "temperature": 1,
            "temperature_reason": "none: the map shows the network's own doubt, which was not calibrated",
        },
        "nnunet": None,
        "previous": None,
        "lungs_from": None,
        "postprocess": _postprocess(default),
        "tumors": _tumors(default),
        "weights": [
            {"name": f"{default.name}.safetensors", "member": "", "sha256": "0" * 64, "size_bytes": 0}
        ],
        "samples": [],
        "source": {"kind": "local", "requirement": "", "archive_sha256": ""},
        "license": "Apache-2.0",
        "citation": "ThoraxSeg; domain randomization after Billot et al. 2023 (SynthSeg)",
        "validation": validation,
        "assumed": [],
    }
    return parse_card(data)


def _postprocess(default: Default) -> dict[str, Any]:
    """Return rules: one heart and one lung a side, the largest; nothing that is smaller than any organ."""
    human = default.options.kind == "human-ct"
    if "tumors" not in default.structures:
        regions = [
            {"name": key, "labels": [n + 1], "write": n + 1} for n, key in enumerate(default.structures)
        ]
        rules = [
            {"name": "keep_largest", "region": key, "connectivity": 26}
            for key in ("heart", "right_lung", "left_lung")
        ]
        least = {"spinal_cord": 1.0}
    else:
        regions = [
            {"name": "lungs", "labels": [1, 2], "write": 1},
            {"name": "tumors", "labels": [2], "write": 2},
        ]
        rules, least = [], {"lungs": 50_000.0, "tumors": 50.0} if human else {"lungs": 10.0, "tumors": 0.05}
    rules += [
        {"name": "drop_small_components", "region": key, "min_volume_mm3": volume, "connectivity": 26}
        for key, volume in least.items()
    ]
    return {"regions": regions, "rules": rules}


def _tumors(default: Default) -> dict[str, Any] | None:
    if "tumors" not in default.structures:
        return None
    small = 1_767.0 if default.options.kind == "human-ct" else 0.4
    return {"label": 2, "connectivity": 18, "small_below_mm3": small, "host_label": 1}


def write_default(name: str, run: Path, folder: Path, validation: str, best: bool = False) -> Path:
    """Write the checkpoint of a training run of a default, weights in 16 bits, and return its folder.

    Of the run the last epoch counts, the end of its schedule, or the `best` one. Raises InputError for a folder
    without a run.
    """
    path = Path(run) / (BEST if best else LAST)
    if not path.exists():
        raise InputError(f"{run}: expected the folder of a training run, it has no {path.name}.")
    return write_checkpoint(
        card_of(DEFAULTS[name], validation), kept_weights(read_state(path)), folder, half=True
    )


def ship(folder: Path) -> Path:
    """Put a checkpoint of `write_default` into this package and return the path of its card."""
    opened = thoraxseg.checkpoints.open_checkpoint(folder)
    card, home = opened.card, Path(thoraxseg.checkpoints.__file__).parent
    file = replace(card.weights[0], name=f"{card.name}.safetensors")
    shutil.copyfile(opened.weights[0], home / "weights_bundled" / file.name)
    path = home / "cards" / f"{card.name}.json"
    shipped = replace(card, weights=(file,), source=Source("bundled", "", ""))
    path.write_text(card_text(shipped), encoding="utf-8")
    return path


def _main() -> None:
    import argparse
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(DEFAULTS))
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--validation", type=Path, help="text file: what was measured, for the card")
    parser.add_argument("--best", action="store_true", help="the best epoch instead of the last")
    parser.add_argument("--ship", action="store_true", help="put it into this package as well")
    given = parser.parse_args()
    text = given.validation.read_text("utf-8").strip() if given.validation else "Nothing was measured yet."
    folder = write_default(given.name, given.run, given.output, text, given.best)
    sys.stderr.write(f"{folder}\n")
    if given.ship:
        sys.stderr.write(f"{ship(folder)}\n")


if __name__ == "__main__":
    _main()
