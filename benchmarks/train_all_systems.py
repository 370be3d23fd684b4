"""A short real training of every system on small phantoms: does it learn, and how far in a few minutes?

    python benchmarks/train_all_systems.py --output results --minutes 5 [--systems unet deepmeta ...]

Each system is trained in its short variant (`--fast`: fewer filters, smaller patches) for about as many minutes as
asked, on phantoms of its own kind of image: mouse MRI, mouse micro-CT or human CT. The table gives the Dice of each
structure on phantoms that were neither trained on nor chosen the best epoch by, on the grid of the image and after
clean-up; networks that take a lung map get the true one. A system whose row is in the output folder is not trained
again. No animal or person was imaged: the numbers say that a system learns, not how good it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.io import write_scalar_nrrd
from thoraxseg.options import SegmentOptions
from thoraxseg.phantoms import Phantom, human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.pipeline import segment
from thoraxseg.training.config import make_config
from thoraxseg.training.pictures import read_log
from thoraxseg.training.presets import PRESETS
from thoraxseg.training.run import train
from thoraxseg.volume import Volume

TRAINED, HELD_OUT = 8, 3
"""Phantoms; of the former two choose the best epoch."""
ORGANS = ("heart", "spinal_cord", "right_lung", "left_lung")
KINDS = {
    "mouse MRI": (
        lambda seed: mouse_mri(seed, 0.5, tumors=(6.0, 4.0, 3.0)),
        ("lungs", "tumors"),
        "mouse",
        "MRI",
    ),
    "mouse CT": (lambda seed: mouse_micro_ct(seed, 0.5), ORGANS, "mouse", "micro-CT"),
    "human CT": (lambda seed: human_chest_ct(seed, 7.0), ("lungs", "tumors"), "human", "CT"),
}
KIND_OF = {"unet": "mouse MRI", "unet3plus": "mouse MRI", "deepmeta": "mouse MRI", "aimos": "mouse CT"}
LOWRES = ("nnunet-3d_lowres", "nnunet-3d_cascade_fullres")


def main() -> None:
    """Train what was asked for and write the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="for each system")
    parser.add_argument("--systems", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = chosen.output / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    for system in chosen.systems:
        path = rows / f"{system}.json"
        if not path.exists():
            row = measured(system, chosen)
            path.write_text(json.dumps(row, indent=2) + "\n")
            print(json.dumps(row))
    table = markdown(
        [
            json.loads((rows / f"{name}.json").read_text())
            for name in PRESETS
            if (rows / f"{name}.json").exists()
        ]
    )
    (chosen.output / "train_all_systems.md").write_text(table)
    print(table)


def measured(system: str, chosen: argparse.Namespace) -> dict:
    """Return the row of one system: how long it was trained, and what it reached on held-out phantoms."""
    kind = KIND_OF.get(system, "mouse CT" if system.startswith("nnunet") else "human CT")
    data = cohort(chosen.output / "data" / kind.replace(" ", "-"), kind)
    trial, _ = trained(system, data, chosen, "trial", 1)
    log = chosen.output / f"trial-{system}" / "fold_0" / "log.csv"
    if log.exists():  # without what is done once: reading, checking, preparing
        trial = read_log(log)[0]["seconds"]
    epochs = max(2, int(60 * chosen.minutes / trial))
    seconds, done = trained(system, data, chosen, "run", epochs)
    card = open_checkpoint(done.checkpoint).card
    settings = done.summary["settings"]
    per_epoch = settings.get("steps_per_epoch", settings.get("changes", {}).get("iterations"))
    return {
        "system": system,
        "kind": kind,
        "parameters": done.summary.get("parameters"),
        "epochs": epochs,
        "steps": epochs * per_epoch,
        "seconds": round(seconds),
        "dice": held_out_dice(card, done.checkpoint, kind, system),
    }


def trained(system: str, data: Path, chosen: argparse.Namespace, name: str, epochs: int) -> tuple:
    """Train so many epochs in a folder of its own; returns seconds and the run."""
    words = [f"settings.epochs={epochs}"]
    if system.startswith("nnunet"):
        changes = {"iterations": 20, "validation_iterations": 4, "base_features": 8, "batch_size": 2}
        words += [f"settings.changes={json.dumps(changes)}"]
        words += ["settings.lowres_factor=1.5"] if system in LOWRES else []
    else:
        words += ["settings.patience=null", "settings.stop_at=null"]
    given = {"data": str(data), "animals": "case", "folds": 4, "device": chosen.device, "name": system}
    if system == "coordinate-unet":
        given["label_map"] = {"lungs": ["lungs", "tumors"]}
    config = make_config(system, given, words, fast=True)
    started = time.monotonic()
    done = train(config, chosen.output / f"{name}-{system}", quiet)
    return time.monotonic() - started, done


def quiet(fraction: float, message: str) -> None:
    """Say nothing."""


def cohort(folder: Path, kind: str) -> Path:
    """Write the phantoms to train on as a raw data set of nnU-Net, once."""
    if (folder / "dataset.json").exists():
        return folder
    _, keys, species, modality = KINDS[kind]
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in range(TRAINED):
        volume, labels = drawn(kind, seed)
        write_scalar_nrrd(folder / "imagesTr" / f"p{seed}_0000.nrrd", volume.array, volume.ijk_to_ras, {})
        write_scalar_nrrd(folder / "labelsTr" / f"p{seed}.nrrd", labels, volume.ijk_to_ras, {})
    about = {
        "name": f"{kind} phantoms",
        "channel_names": {"0": modality},
        "labels": {"background": 0, **{key: label for label, key in enumerate(keys, 1)}},
        "file_ending": ".nrrd",
        "numTraining": TRAINED,
        "species": species,
        "modality": modality,
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=2))
    return folder


def drawn(kind: str, seed: int) -> tuple[Volume, np.ndarray]:
    """Return image and labels of one phantom, labels in the order of the kind's structures."""
    make, keys, _, _ = KINDS[kind]
    phantom: Phantom = make(seed)
    labels = np.zeros(phantom.truth.labels.shape, dtype=np.uint8)
    for value, structure in phantom.truth.structures.items():
        key = "lungs" if "lungs" in keys and structure.key in ("right_lung", "left_lung") else structure.key
        if key in keys:
            labels[phantom.truth.labels == value] = 1 + keys.index(key)
    return phantom.volume, labels


def held_out_dice(card, folder: Path, kind: str, system: str) -> dict[str, float]:
    """Return the mean Dice of each structure on phantoms of other seeds."""
    checkpoint, keys = open_checkpoint(folder), KINDS[kind][1]
    options = SegmentOptions(device="cpu", uncertainty="none")
    found: dict[str, list[float]] = {structure.key: [] for structure in card.labels.values()}
    for seed in range(1000, 1000 + HELD_OUT):
        volume, labels = drawn(kind, seed)
        if system == "coordinate-unet":
            labels = np.minimum(labels, 1)
        further = (
            [Volume((labels > 0).astype(np.uint8), volume.ijk_to_ras, "lungs")]
            if len(card.channels) > 1
            else []
        )
        answer = segment(volume, checkpoint, options, channels=further).segmentation
        for value, structure in card.labels.items():
            mine, theirs = answer.labels == value, labels == 1 + keys.index(structure.key)
            found[structure.key].append(float(2 * (mine & theirs).sum() / max(1, mine.sum() + theirs.sum())))
    return {key: round(float(np.mean(values)), 3) for key, values in found.items()}


def markdown(rows: list[dict]) -> str:
    """Return the rows as a table."""
    lines = [
        "| system | phantoms | parameters | steps | seconds | Dice on held-out phantoms |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        dice = ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in row["dice"].items())
        size = "by plan" if row["parameters"] is None else f"{row['parameters']:,}"
        lines.append(
            f"| {row['system']} | {row['kind']} | {size} | {row['steps']:,} | {row['seconds']:,} | {dice} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
