"""Our numbers beside those of MedPy and MONAI, on phantoms and a real pair, wherever the definitions coincide.

| ours | MedPy | MONAI |
| --- | --- | --- |
| dsc, iou, precision, recall | dc, jc, precision, recall | compute_dice, compute_iou |
| msd_to_prediction_mm, msd_to_reference_mm | asd, one call a direction | compute_average_surface_distance |
| msd_mm | mean of both | mean of both |
| assd_pooled_mm | assd | the same with symmetric=True |
| hd95_mm | - | compute_hausdorff_distance(percentile=95) |
| hd95_pooled_mm | hd95 | - |
| hd_mm | hd | compute_hausdorff_distance |
| nsd | - | compute_surface_dice |
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thoraxseg.metrics.pair import compare_labels

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = [DATA / f"msd-lung-tumor-{name}.nii.gz" for name in ("label", "nnunet-prediction")]


def ellipsoids(shift):
    """Two organs and a nodule in it that touch the image border, `(40, 48, 44)`, two of them apart from the third."""
    k, j, i = np.ogrid[:40, :48, :44]
    labels = np.zeros((40, 48, 44), np.uint8)
    labels[((k - 18) / 15) ** 2 + ((j - 14 - shift) / 12) ** 2 + ((i - 10) / 14) ** 2 <= 1] = 1
    labels[((k - 20 - shift) / 18) ** 2 + ((j - 35) / 9) ** 2 + ((i - 24) / 19) ** 2 <= 1] = 2
    labels[(k - 20) ** 2 + (j - 35 + shift) ** 2 + (i - 24 - 2 * shift) ** 2 <= 16] = 3
    return labels


def hollow(shift):
    """A shell with a cavity and a hole in its wall."""
    k, j, i = np.ogrid[-16:17, -16:17, -16:17]
    radius = k**2 + j**2 + (i - shift) ** 2
    shell = (radius <= 14**2) & (radius >= (8 + shift) ** 2)
    return np.where(shell & ~((j > 0) & (abs(k) < 2) & (abs(i) < 3)), 1, 0).astype(np.uint8)


def noise(seed):
    return (np.random.default_rng(seed).random((20, 21, 22)) < 0.2).astype(np.uint8)


PAIRS = {
    "organs": (ellipsoids(0), ellipsoids(2), (0.14, 0.14, 0.14)),
    "organs, thick slices": (ellipsoids(0), ellipsoids(3), (2.5, 0.78, 0.7)),
    "shells": (hollow(0), hollow(2), (1.0, 0.5, 0.25)),
    "noise": (noise(1), noise(2), (1.0, 1.0, 1.0)),
}
CASES = [
    pytest.param(one, other, spacing, label, id=f"{name} {label}")
    for name, (one, other, spacing) in PAIRS.items()
    for label in range(1, one.max() + 1)
]


def medpy_numbers(reference, prediction, spacing):
    metric = pytest.importorskip("medpy.metric.binary", reason="MedPy is not installed")
    means = metric.asd(reference, prediction, spacing), metric.asd(prediction, reference, spacing)
    return {
        "dsc": metric.dc(prediction, reference),
        "iou": metric.jc(prediction, reference),
        "precision": metric.precision(prediction, reference),
        "recall": metric.recall(prediction, reference),
        "msd_mm": sum(means) / 2,
        "msd_to_prediction_mm": means[0],
        "msd_to_reference_mm": means[1],
        "assd_pooled_mm": metric.assd(prediction, reference, spacing),
        "hd95_pooled_mm": metric.hd95(prediction, reference, spacing),
        "hd_mm": metric.hd(prediction, reference, spacing),
    }


def monai_numbers(reference, prediction, spacing, tolerance_mm):
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    torch = pytest.importorskip("torch")
    one, other = (
        torch.from_numpy(np.stack([~mask, mask])[None].astype(np.uint8)) for mask in (reference, prediction)
    )
    space = {"spacing": list(spacing)}
    mean = metrics.compute_average_surface_distance
    means = mean(one, other, **space).item(), mean(other, one, **space).item()
    return {
        "dsc": metrics.compute_dice(other, one, include_background=False).item(),
        "iou": metrics.compute_iou(other, one, include_background=False).item(),
        "msd_mm": sum(means) / 2,
        "msd_to_prediction_mm": means[0],
        "msd_to_reference_mm": means[1],
        "assd_pooled_mm": mean(other, one, symmetric=True, **space).item(),
        "hd95_mm": metrics.compute_hausdorff_distance(other, one, percentile=95, **space).item(),
        "hd95_to_prediction_mm": metrics.compute_hausdorff_distance(
            one, other, percentile=95, directed=True, **space
        ).item(),
        "hd_mm": metrics.compute_hausdorff_distance(other, one, **space).item(),
        "nsd": metrics.compute_surface_dice(other, one, [tolerance_mm], **space).item(),
    }


def check(row, theirs, relative):
    for key, expected in theirs.items():
        assert row[key] == pytest.approx(expected, rel=relative, abs=1e-6), key


@pytest.mark.parametrize(("one", "other", "spacing", "label"), CASES)
def test_phantoms_have_the_numbers_of_medpy(one, other, spacing, label):
    row = compare_labels(one, other, {label: "it"}, spacing)[label]
    check(row, medpy_numbers(one == label, other == label, spacing), 1e-9)


@pytest.mark.parametrize(("one", "other", "spacing", "label"), CASES)
def test_phantoms_have_the_numbers_of_monai(one, other, spacing, label):
    # A tolerance between two distances that occur: MONAI compares in 32 bits.
    row = compare_labels(one, other, {label: "it"}, spacing, tolerance_mm=1.01 * max(spacing))[label]
    check(row, monai_numbers(one == label, other == label, spacing, 1.01 * max(spacing)), 1e-6)


def test_a_real_tumor_has_the_numbers_of_medpy_and_monai():
    if not all(path.exists() for path in REAL):
        pytest.skip("the real pair of ../shared/data is not here")
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    images = [nibabel.load(path) for path in REAL]
    reference, prediction = (np.asarray(image.dataobj).astype(np.uint8) for image in images)
    spacing = [float(step) for step in images[0].header.get_zooms()]
    row = compare_labels(reference, prediction, {1: "Tumor"}, spacing, tolerance_mm=1.0)[1]
    assert row["dsc"] == pytest.approx(0.949, abs=5e-4)
    assert row["undefined"] == {}
    # The others walk the whole image: give them the tumor and a margin.
    near = tuple(
        slice(max(0, places.min() - 3), places.max() + 4) for places in np.nonzero(reference | prediction)
    )
    masks = reference[near] == 1, prediction[near] == 1
    check(row, medpy_numbers(*masks, spacing), 1e-9)
    check(row, monai_numbers(*masks, spacing, 1.0), 1e-6)
