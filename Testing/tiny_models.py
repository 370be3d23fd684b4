"""Models of every kind that can be opened, small and with random weights, and a small image for them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from Testing.checkpoints import test_monai_bundle as monai
from Testing.checkpoints import test_nnunet_v1 as v1
from Testing.checkpoints import test_nnunet_v2 as v2
from thoraxseg.checkpoints import Checkpoint
from thoraxseg.io import write_scalar_nrrd
from thoraxseg.models import build_network
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import Result, segment
from thoraxseg.volume import Volume, geometry_from_spacing

QUICK = SegmentOptions(device="cpu", mirroring="none")
V2_NAME = "dataset601-mouse-3d-fullres"
MONAI = {"channels": [4, 6, 8], "strides": [2, 2], "num_res_units": 2, "norm": "BATCH"}


def v2_model(results: Path, configuration: str = "3d_fullres", folds=(0,), seed: int = 0, **changes) -> Path:
    """Write a model of nnU-Net 2 and return its folder; `changes` go to `dataset.json`."""
    torch.manual_seed(seed)
    return v2.save_model(results, v2.plans(), v2.dataset(**changes), configuration, folds)


def v2_cascade(results: Path) -> Path:
    """Write both stages of a cascade of nnU-Net 2 and return the folder of the second."""
    v2_model(results, "3d_lowres", seed=1)
    return v2_model(results, "3d_cascade_fullres", seed=2)


def v1_model(results: Path, configuration: str = "3d_fullres", folds=(0,), seed: int = 0) -> Path:
    """Write a model of nnU-Net 1 and return its folder."""
    torch.manual_seed(seed)
    return v1.postprocessing(v1.save_model(results, configuration, folds=folds), [], "None")


def v1_cascade(results: Path) -> Path:
    """Write both stages of a cascade of nnU-Net 1 and return the folder of the second."""
    v1_model(results, "3d_lowres", seed=1)
    return v1_model(results, "3d_cascade_fullres", seed=2)


def monai_bundle(folder: Path) -> Path:
    """Write a MONAI bundle of one network, called `Lung tumors`, and return its folder."""
    for name, content in {"inference": monai.INFERENCE, "metadata": monai.METADATA}.items():
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content), "utf-8")
    (folder / "models").mkdir()
    torch.save(
        state_of("monai_unet", {**MONAI, "in_channels": 1, "classes": 2}), folder / "models" / "model.pt"
    )
    return folder


def state_of(name: str, arguments: dict, seed: int = 7) -> dict[str, torch.Tensor]:
    """The tensors of a new network."""
    torch.manual_seed(seed)
    return build_network(name, arguments).state_dict()


def zipped(folder: Path, archive: Path, inside: Path | None = None) -> Path:
    """Pack a folder; names are relative to `inside`, by default to the folder itself."""
    paths = sorted(folder.rglob("*"))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            file.write(path, path.relative_to(inside or folder))
    return archive


def volume(shape=(10, 12, 14), spacing_mm=(0.3, 0.28, 0.3), seed: int = 0) -> Volume:
    """A small image of smooth noise, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(100, 40, shape).astype(np.float32)
    for axis in range(3):
        noise = (noise + np.roll(noise, 1, axis)) / 2
    return Volume(noise, geometry_from_spacing(spacing_mm, "RAS"), "tiny")


def image_file(path: Path, **changes) -> Path:
    """Write the small image and return its path."""
    made = volume(**changes)
    write_scalar_nrrd(path, made.array, made.ijk_to_ras, {})
    return path


def seen(checkpoint: Checkpoint, image: Volume | None = None, options: SegmentOptions = QUICK) -> Result:
    """What a checkpoint says about the small image."""
    return segment(image or volume(), checkpoint, options)


def same(one: Result, other: Result) -> bool:
    """Whether labels and doubt are equal bit for bit; fails where the answer is too plain to tell."""
    assert one.uncertainty.std() > 0
    return np.array_equal(one.segmentation.labels, other.segmentation.labels) and np.array_equal(
        one.uncertainty, other.uncertainty
    )


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)
