"""Small phantom cohorts in the layouts of the published sets, and stand-in checkpoints that look at brightness.

They show that the road from a folder to the tables holds. Their numbers say nothing about a paper: no animal or person
was imaged, nothing was trained, and the tumors are drawn brighter than they are so that a stand-in can see them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints import list_cards
from thoraxseg.checkpoints.card import CardFile, Cleanup, Region, Source, Step, card_text
from thoraxseg.files import sha256_file
from thoraxseg.phantoms import Phantom, human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.reproduce.deepmeta_layout import TEST_MICE
from thoraxseg.segmentation import STRUCTURES

WARNING = (
    "PHANTOM: these are computed drawings and stand-in networks that tell dark from bright. The numbers show "
    "that the protocol runs, and mean nothing about the paper or any model."
)
STAND_IN = "phantom-threshold"
_MRI_MM, _CT_MM, _HUMAN_MM = 0.5, 0.56, 8.0
_ORGANS = {"heart": 1, "spinal cord": 2, "right lung": 3, "left lung": 4}


def write_cohort(paper: str, folder: Path) -> Path:
    """Write the phantoms of a paper below a folder and return the data folder, laid out as published."""
    return {"kaniewski": _mice_mri, "malimban": _mice_ct}.get(paper, _people)(folder)


def _mice_mri(folder: Path) -> Path:
    """Four stacks: one healthy mouse, two with small tumors, one with large ones, as in the paper's test set."""
    import tifffile

    tumors = ((3.0, 2.0), (), (2.0, 1.5, 1.0), (5.0, 5.0, 5.0))
    for seed, (name, volumes) in enumerate(zip(TEST_MICE, tumors, strict=True)):
        phantom = mouse_mri(seed, _MRI_MM, tumors=volumes)
        labels = folder / "Test" / name / "3classes"
        labels.mkdir(parents=True)
        tifffile.imwrite(
            folder / "Test" / f"{name}.tif", _with_bright_tumors(phantom, 150), photometric="minisblack"
        )
        for k, plane in enumerate(phantom.truth.labels):
            tifffile.imwrite(labels / f"{k}.tif", plane, photometric="minisblack")
    return folder


def _mice_ct(folder: Path) -> Path:
    """Two native animals at two time points, two with contrast agent at one; three observers each."""
    native = [("native", seed, time) for seed in (1, 2) for time in (0, 24)]
    for group, seed, time in (*native, ("contrast", 3, 0), ("contrast", 4, 0)):
        agent = group == "contrast"
        phantom = mouse_micro_ct(seed, _CT_MM, contrast_agent=agent, noise_seed=100 * seed + time)
        home = folder / "test" / group / f"M{seed:02d}_{time:03d}h"
        _write_nifti(home / "ct.nii.gz", phantom.volume.array, phantom.volume.ijk_to_ras)
        for observer in (1, 2, 3):
            drawn = _drawn_by(observer, phantom.truth.labels, seed + time)
            _write_nifti(home / f"observer{observer}" / "contours.nii.gz", drawn, phantom.volume.ijk_to_ras)
            names = _ORGANS if observer < 3 else {"heart": 1, "lungs": 3}
            text = json.dumps({"labels": {"background": 0, **names}})
            (home / f"observer{observer}" / "labels.json").write_text(text, "utf-8")
    return folder


def _people(folder: Path) -> Path:
    """Three chests with tumors; the references have the lungs too, which Task06_Lung has not."""
    pairs = []
    for seed in range(3):
        phantom = human_chest_ct(seed, _HUMAN_MM, tumors=(33_000.0, 20_000.0))
        name = f"lung_{seed + 1:03d}.nii.gz"
        image = _with_bright_tumors(phantom, 700)
        labels = np.choose(phantom.truth.labels, [0, 2, 1]).astype(np.uint8)
        _write_nifti(folder / "imagesTr" / name, image, phantom.volume.ijk_to_ras)
        _write_nifti(folder / "labelsTr" / name, labels, phantom.volume.ijk_to_ras)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    data = {
        "name": "Lung phantoms",
        "labels": {"0": "background", "1": "cancer", "2": "lungs"},
        "training": pairs,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(data), "utf-8")
    return folder


def _with_bright_tumors(phantom: Phantom, value: int) -> np.ndarray:
    """Return the image with its tumors lifted to about a value, their noise kept."""
    image = phantom.volume.array.astype(np.int32)
    inside = phantom.truth.mask("tumors")
    if inside.any():
        image[inside] += value - int(image[inside].mean())
    limits = np.iinfo(phantom.volume.array.dtype)
    return np.clip(image, limits.min, limits.max).astype(phantom.volume.array.dtype)


def _drawn_by(observer: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return what an observer would draw: the truth, shifted by a voxel, or eroded heart and lungs without sides."""
    from scipy.ndimage import binary_erosion

    rng = np.random.default_rng([seed, observer])
    if observer == 1:
        return labels
    if observer == 2:
        return np.roll(labels, int(rng.choice((-1, 1))), axis=int(rng.integers(3)))
    drawn = np.zeros_like(labels)
    for label in (1, 3):
        mask = labels == 1 if label == 1 else labels >= 3
        drawn[binary_erosion(mask) | (mask & (rng.random(mask.shape) < 0.5))] = label
    return drawn


def _write_nifti(path: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def stand_ins(paper: str, folder: Path) -> list[tuple[str, str]]:
    """Write a stand-in checkpoint for some rows of a paper's tables and return (row, folder) for each."""
    made: list[tuple[str, str]] = []
    for index, (row, labels, bands, options) in enumerate(_STAND_INS[paper]()):
        place = folder / f"stand-in-{index + 1}"
        _write_stand_in(place, paper, labels, bands, **options)
        made.append((row, str(place)))
    return made


Bands = Sequence[tuple[float, float]]
"""Center and width of the brightness of each class, background first."""


def _write_stand_in(
    folder: Path,
    paper: str,
    labels: Mapping[int, str],
    bands: Bands,
    window: int = 1,
    rules: Sequence[Step] = (),
    steps: Sequence[Step] = (),
) -> None:
    from safetensors.numpy import save_file

    human = paper not in ("kaniewski", "malimban")
    folder.mkdir(parents=True)
    centers, widths = ([float(band[n]) for band in bands] for n in (0, 1))
    weights = folder / "bands.safetensors"
    save_file({"centers": np.array(centers, np.float32), "widths": np.array(widths, np.float32)}, weights)
    card = list_cards()[STAND_IN]
    arguments = {"centers": centers, "widths": widths, "window": window, "dimensions": 3}
    regions = tuple(Region(STRUCTURES[key].key, (label,), label) for label, key in labels.items())
    card = replace(
        card,
        name=f"phantom-{paper}-{folder.name}",
        title="Stand-in: intensity bands for a phantom cohort",
        description="Not a trained model. It tells dark from bright, to show that a protocol runs.",
        species="human" if human else "mouse",
        modality={"kaniewski": "MRI", "malimban": "micro-CT"}.get(paper, "CT"),
        labels={label: STRUCTURES[key] for label, key in labels.items()},
        architecture=Step("threshold", arguments),
        input=replace(
            card.input,
            orientation="ijk",
            spacing_mm=None,
            stack_spacing_mm=None,
            stack_shape=None,
            intensity=(),
        ),
        preprocess=tuple(steps),
        inference=replace(card.inference, mode="whole", patch_size=None),
        postprocess=Cleanup(regions, tuple(rules)),
        tumors=None,
        weights=(CardFile(weights.name, sha256_file(weights), weights.stat().st_size, ""),),
        source=Source("local", "", ""),
        sha256="",
    )
    (folder / "card.json").write_text(card_text(card), "utf-8")


def _for_mri() -> list[tuple[str, Mapping[int, str], Bands, dict]]:
    both, tumors = {1: "lungs", 2: "tumors"}, {1: "tumors"}
    rules = [
        Step("drop_small_blobs_in_slices", {"region": "lungs", "min_size_px": 10}),
        Step("drop_small_blobs_in_slices", {"region": "tumors", "min_size_px": 3}),
        Step("close_slices", {"region": "lungs"}),
        Step("close_slices", {"region": "tumors"}),
    ]
    # As DeepMeta's card: the dark batch is enhanced, and only that.
    steps = [
        Step("divide_by_maximum", {}),
        Step("enhance_contrast", {"clip_limit": 0.03, "when_mean_below": 0.15}),
    ]
    return [
        ("U-Net", both, [(60, 25), (8, 8), (150, 25)], {"rules": rules}),
        ("DeepMeta", both, [(0.55, 0.15), (0.2, 0.1), (0.95, 0.1)], {"rules": rules, "steps": steps}),
        ("2D nnU-Net", both, [(70, 30), (7, 9), (140, 20)], {}),
        ("U-Net", tumors, [(30, 30), (150, 30)], {}),
        ("nnU-Net 3D model", tumors, [(30, 40), (140, 40)], {"window": 3}),
    ]


def _for_ct() -> list[tuple[str, Mapping[int, str], Bands, dict]]:
    organs = {1: "heart", 2: "spinal_cord", 3: "right_lung", 4: "left_lung"}
    base = [(-1000, 150), (45, 20), (20, 20), (-520, 90), (-450, 90)]
    return [
        ("3d_fullres", organs, base, {"window": 3}),
        ("2d", organs, base, {}),
        ("AIMOS", organs, [(-1000, 150), (60, 25), (10, 20), (-540, 90), (-430, 90)], {}),
    ]


def _for_rrc() -> list[tuple[str, Mapping[int, str], Bands, dict]]:
    both = {1: "lungs", 2: "tumors"}
    return [
        ("RRc-UNet 3D", both, [(0, 250), (-850, 90), (700, 250)], {}),
        ("CGPD block", both, [(0, 250), (-850, 90), (700, 250)], {"window": 3}),
    ]


def _for_ensemble() -> list[tuple[str, Mapping[int, str], Bands, dict]]:
    tumors = {1: "tumors"}
    return [
        ("U-Net", tumors, [(0, 250), (650, 300)], {}),
        ("U-Net with isample", tumors, [(50, 250), (700, 250)], {}),
        ("DeepMedic", tumors, [(-500, 300), (300, 300)], {"window": 3}),
    ]


_STAND_INS: dict[str, Callable[[], list[tuple[str, Mapping[int, str], Bands, dict]]]] = {
    "kaniewski": _for_mri,
    "malimban": _for_ct,
    "rrc-unet": _for_rrc,
    "ensemble": _for_ensemble,
}
