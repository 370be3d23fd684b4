"""Tiny data sets and settings that make a run of seconds of every system."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from thoraxseg.io import write_scalar_nrrd
from thoraxseg.volume import geometry_from_spacing

SHAPE = (20, 24, 28)
TINY_2D = (
    "network.filters=4",
    "preprocess.0.size_px=[32,32]",
    "sampling.patch_size=[1,32,32]",
    "sampling.batch_size=4",
)
TINY_LE_SAUT = (
    "network.filters=4",
    "network.groups=2",
    "settings.steps_per_epoch=2",
    "settings.accumulate=1",
)
TINY_MONAI = (
    "network.channels=[4,8]",
    "network.strides=[2]",
    "sampling.patch_size=[16,16,16]",
    "sampling.batch_size=2",
    "sampling.patches_per_case=1",
    "inference.patch_size=[16,16,16]",
    "settings.stop_at=null",
)
TINY = {
    "unet": TINY_2D,
    "unet3plus": (*TINY_2D, "network.filters=2"),
    "deepmeta": TINY_2D,
    "aimos": (
        "network.features=[4,8]",
        "preprocess.1.size_px=[32,32]",
        "sampling.patch_size=[1,32,32]",
        "sampling.batch_size=4",
    ),
    "monai-unet": TINY_MONAI,
    "monai-unet-isample": TINY_MONAI,
    "deepmedic": (
        "network.features=[4,4,4,4]",
        "network.dense=[8]",
        "sampling.patch_size=[33,33,33]",
        "sampling.batch_size=2",
        "inference.patch_size=[33,33,33]",
    ),
    **dict.fromkeys(
        ("rrc-unet", "rrc-unet-concat", "unet-residual", "unet-recurrent", "unet-cgpd"),
        (*TINY_LE_SAUT, "preprocess.3.shape=[16,32,32]"),
    ),
    "coordinate-unet": (*TINY_LE_SAUT, "preprocess.2.shape=[16,32,32]"),
}
"""System -> overrides of its recipe."""


def image_and_labels(seed: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A dark ellipsoid (lungs, 1) with a bright ball (tumors, 2) in a gray body, noisy, uint8 both."""
    rng = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    labels = np.zeros(shape, dtype=np.uint8)
    labels[(k / 0.7) ** 2 + (j / 0.6) ** 2 + (i / 0.7) ** 2 < 1] = 1
    center = rng.uniform(-0.25, 0.25, 3)
    labels[(k - center[0]) ** 2 + (j - center[1]) ** 2 + (i - center[2]) ** 2 < 0.08] = 2
    image = np.array([120, 40, 220])[labels] + rng.normal(0, 8, shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_data(folder: Path, cases: int = 4, modality: str = "MRI", names=("lungs", "tumors")) -> Path:
    """Write a raw data set of nnU-Net whose every case is an animal, and return its folder."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    geometry = geometry_from_spacing((0.5, 0.5, 0.5), "RIA" if modality == "MRI" else "LPS")
    for seed in range(cases):
        image, labels = image_and_labels(seed)
        write_scalar_nrrd(folder / "imagesTr" / f"m{seed}_0000.nrrd", image, geometry, {})
        write_scalar_nrrd(folder / "labelsTr" / f"m{seed}.nrrd", np.minimum(labels, len(names)), geometry, {})
    about = {
        "name": "tiny",
        "channel_names": {"0": modality},
        "labels": {"background": 0, **{name: label for label, name in enumerate(names, 1)}},
        "file_ending": ".nrrd",
        "numTraining": cases,
        "species": "mouse",
        "modality": modality,
    }
    (folder / "dataset.json").write_text(json.dumps(about), "utf-8")
    rows = ["case,animal", *(f"m{seed},mouse {seed}" for seed in range(cases))]
    (folder / "animals.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder
