"""Every loss equals its formula, computed another way in 64 bits: with sets, scipy, scikit-image, MONAI, nnU-Net."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from thoraxseg.training.batch import IGNORE
from thoraxseg.training.losses import build_loss

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"2-D": (24, 19), "3-D": (13, 12, 14)}
CASES = [
    pytest.param(
        channels, size, ignored, id=f"{channels} logits, {name}{', some ignored' if ignored else ''}"
    )
    for channels in (1, 2, 3)
    for name, size in SIZES.items()
    for ignored in (False, True)
]
every_case = pytest.mark.parametrize(("channels", "size", "ignored"), CASES)


def made(channels, size, ignored, images=3, seed=0):
    """Logits that know a little of the labels, which have compact shapes; the last image has no foreground."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, channels, *size)) * 2
    smooth = np.stack([ndimage.gaussian_filter(rng.normal(size=size), 2) for _ in range(images)])
    labels = (smooth > 0.02).astype(np.int64) + (smooth > 0.07) * (channels > 2)
    labels[-1] = 0
    if channels == 1:
        logits[:, 0] += 2 * labels - 1
    else:
        logits += 2 * (labels[:, None] == np.arange(channels).reshape(-1, *[1] * len(size)))
    if ignored:
        labels[rng.random(labels.shape) < 0.1] = IGNORE
    return logits, labels


def loss_of(name, logits, labels, weights=None, **parameters):
    loss = build_loss(name, parameters, classes=logits.shape[1])
    tensors = [torch.from_numpy(np.asarray(one)) for one in (logits, labels)]
    return loss(*tensors, None if weights is None else torch.from_numpy(weights)).item()


def probabilities(logits):
    if logits.shape[1] == 1:
        return np.concatenate([special.expit(-logits), special.expit(logits)], axis=1)
    return special.softmax(logits, axis=1)


def true_and_predicted(logits, labels, whole_batch):
    """For each group (image or batch) a list over classes of (p, y) at the voxels that count."""
    p = np.moveaxis(probabilities(logits), 1, -1)
    groups = [slice(None)] if whole_batch else range(len(labels))
    return [
        [(p[g][labels[g] != IGNORE][:, c], labels[g][labels[g] != IGNORE] == c) for c in range(p.shape[-1])]
        for g in groups
    ]


def p_true(logits, labels):
    """Probability of the true class and the class, at the voxels that count."""
    p, y = np.moveaxis(probabilities(logits), 1, -1)[labels != IGNORE], labels[labels != IGNORE]
    return p[np.arange(len(y)), y], y


def class_weights(channels):
    return np.array([1, 15]) if channels < 3 else np.array([1, 5, 15])


def cross_entropy(logits, labels, weights=None, smoothing=0.0):
    p = np.moveaxis(probabilities(logits), 1, -1)[labels != IGNORE]
    y = labels[labels != IGNORE]
    w = np.ones(p.shape[1]) if weights is None else weights
    total = 0.0
    for c in range(p.shape[1]):
        target = (1 - smoothing) * (y == c) + smoothing / p.shape[1]
        total -= (w[c] * target * np.log(p[:, c])).sum()
    return total / w[y].sum()


def focal(logits, labels, alpha, gamma=2.0):
    p, y = p_true(logits, labels)
    return (np.broadcast_to(alpha, 3)[y] * (1 - p) ** gamma * -np.log(p)).mean()


def dice_of_sets(p, y, smooth=1e-5):
    return (2 * p[y].sum() + smooth) / (p.sum() + np.count_nonzero(y) + smooth)


def soft_dice(logits, labels, whole_batch=False):
    groups = true_and_predicted(logits, labels, whole_batch)
    return 1 - np.mean([dice_of_sets(p, y) for group in groups for p, y in group[1:]])


def lovasz(logits, labels):
    """The Lovász extension written as the sum over growing sets of wrong voxels, Δ(M) = |M| / |{y = c} ∪ M|."""
    means = []
    for group in true_and_predicted(logits, labels, whole_batch=False):
        terms = []
        for p, y in group:
            errors = np.abs(y - p)
            wrong = np.zeros(len(y), bool)
            before = term = 0.0
            for voxel in np.argsort(-errors):
                wrong[voxel] = True
                after = wrong.sum() / (wrong | y).sum()
                term += errors[voxel] * (after - before)
                before = after
            if y.any():
                terms.append(term)
        means.append(np.mean(terms))
    return np.mean(means)


def ms_ssim(logits, labels):
    """With scipy's filters; each class of each image alone."""
    values = []
    p, size = probabilities(logits), logits.shape[2:]
    scales = next(m for m in (5, 4, 3, 2, 1) if min(size) // 2 ** (m - 1) >= 11)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights /= weights.sum()
    inner = (slice(5, -5),) * len(size)
    for n, c in np.ndindex(p.shape[:2]):
        a, b = p[n, c] * (labels[n] != IGNORE), (labels[n] == c).astype(float)
        value = 1.0
        for scale in range(scales):
            mean = lambda t: ndimage.gaussian_filter(t, 1.5, radius=5)[inner]  # noqa: E731
            ma, mb = mean(a), mean(b)
            contrast = (2 * (mean(a * b) - ma * mb) + 0.0009) / (
                mean(a * a) - ma**2 + mean(b * b) - mb**2 + 0.0009
            )
            full = contrast * (2 * ma * mb + 0.0001) / (ma**2 + mb**2 + 0.0001)
            value *= (full if scale == scales - 1 else contrast).mean() ** weights[scale]
            for axis in range(len(size)):
                even = a.shape[axis] // 2 * 2
                a, b = (
                    (t.take(range(0, even, 2), axis) + t.take(range(1, even, 2), axis)) / 2 for t in (a, b)
                )
        values.append(value)
    return 1 - np.mean(values)


def iou(logits, labels):
    (group,) = true_and_predicted(logits, labels, whole_batch=True)
    return 1 - np.mean([p[y].sum() / (p.sum() + y.sum() - p[y].sum()) for p, y in group])


def generalized_dice(logits, labels):
    (group,) = true_and_predicted(logits, labels, whole_batch=True)
    present = [(p, y, 1 / y.sum() ** 2) for p, y in group if y.any()]
    return 1 - 2 * sum(w * p[y].sum() for p, y, w in present) / sum(
        w * (p.sum() + y.sum()) for p, y, w in present
    )


def hardest(logits, labels, count):
    return np.sort(-np.log(p_true(logits, labels)[0]))[-count:].mean()


def close(value, expected):
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-9)


@every_case
def test_cross_entropy(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    close(loss_of("cross-entropy", logits, labels), cross_entropy(logits, labels))
    w = np.arange(1, max(channels, 2) + 1) / 2
    expected = cross_entropy(logits, labels, w, smoothing=0.1)
    close(loss_of("cross-entropy", logits, labels, class_weights=w.tolist(), label_smoothing=0.1), expected)


def test_cross_entropy_with_balanced_weights_gives_every_class_the_same_say():
    logits, labels = made(3, SIZES["2-D"], ignored=True)
    counts = np.bincount(labels[labels != IGNORE])
    weights = counts.sum() / (3 * counts)
    close(
        loss_of("cross-entropy", logits, labels, class_weights="balanced"),
        cross_entropy(logits, labels, weights),
    )
    close(
        loss_of("cross-entropy", logits, labels, class_counts=counts.tolist()),
        cross_entropy(logits, labels, weights),
    )
    p, y = p_true(logits, labels)
    mean_of_means = np.mean([-np.log(p[y == c]).mean() for c in range(3)])
    close(loss_of("cross-entropy", logits, labels, class_weights="balanced"), mean_of_means)


@every_case
def test_weighted_cross_entropy(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    p, y = p_true(logits, labels)
    w = class_weights(channels)[y]
    close(loss_of("weighted-cross-entropy", logits, labels), -(w * np.log(p)).sum() / w.sum())
    weight_map = np.random.default_rng(3).random(labels.shape) + 0.5
    w = weight_map[labels != IGNORE]
    close(loss_of("weighted-cross-entropy", logits, labels, weight_map), -(w * np.log(p)).sum() / w.sum())


@every_case
def test_focal(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    close(loss_of("focal", logits, labels), focal(logits, labels, alpha=1))
    close(
        loss_of("focal", logits, labels, gamma=0.5, alpha=0.25), focal(logits, labels, alpha=0.25, gamma=0.5)
    )
    close(loss_of("focal", logits, labels, gamma=0), cross_entropy(logits, labels))
    alpha = class_weights(channels).tolist()
    close(loss_of("focal", logits, labels, alpha=alpha), focal(logits, labels, alpha=[*alpha, 0][:3]))


@every_case
def test_soft_dice(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    close(loss_of("dice", logits, labels), soft_dice(logits, labels))
    close(loss_of("dice", logits, labels, batch_dice=True), soft_dice(logits, labels, whole_batch=True))


@every_case
def test_iou(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    close(loss_of("iou", logits, labels), iou(logits, labels))


@every_case
def test_ms_ssim(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    close(loss_of("ms-ssim", logits, labels), ms_ssim(logits, labels))


@pytest.mark.parametrize(
    ("shortest", "scales"), [(11, 1), (21, 1), (22, 2), (64, 3), (128, 4), (175, 4), (176, 5)]
)
def test_ms_ssim_has_as_many_scales_as_its_window_fits(shortest, scales):
    from thoraxseg.training.losses.ms_ssim import count_scales

    assert count_scales(shortest) == scales


def test_ms_ssim_of_a_128_pixel_image_has_four_scales():
    logits, labels = made(2, (128, 128), ignored=False, images=1)
    close(loss_of("ms-ssim", logits, labels), ms_ssim(logits, labels))


def test_ms_ssim_in_32_bits_keeps_six_digits():
    logits, labels = made(3, (64, 64), ignored=False)
    logits *= 3
    assert loss_of("ms-ssim", logits.astype(np.float32), labels) == pytest.approx(
        ms_ssim(logits, labels), abs=1e-6
    )


def test_ms_ssim_of_one_scale_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity

    logits, labels = made(1, (20, 21), ignored=False, images=1)
    values = []
    for c, p in enumerate(probabilities(logits)[0]):
        _, image = structural_similarity(
            p,
            (labels[0] == c).astype(float),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            full=True,
        )
        values.append(image[5:-5, 5:-5].mean())
    close(loss_of("ms-ssim", logits, labels), 1 - np.mean(values))


def test_ms_ssim_of_four_scales_is_that_of_monai():
    from monai.metrics.regression import compute_ms_ssim

    logits, labels = made(2, (128, 128), ignored=False, images=2)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363])
    one_hot = torch.from_numpy(np.stack([labels == 0, labels == 1], axis=1)).float().reshape(4, 1, 128, 128)
    p = torch.from_numpy(probabilities(logits)).float().reshape(4, 1, 128, 128)
    expected = compute_ms_ssim(p, one_hot, spatial_dims=2, weights=weights / weights.sum())
    assert loss_of("ms-ssim", logits, labels) == pytest.approx(1 - expected.mean().item(), abs=2e-6)


def test_ms_ssim_of_opposites_stays_within_0_and_1_and_can_learn():
    labels = np.zeros((1, 40, 40), np.int64)
    labels[0, ::2, ::2] = 1
    opposite = torch.from_numpy(np.where(labels == 1, -1.0, 1.0)[:, None]).requires_grad_()
    loss = build_loss("ms-ssim", {}, classes=1)(opposite, torch.from_numpy(labels))
    loss.backward()
    assert 0.3 < loss < 1
    assert opposite.grad.isfinite().all() and opposite.grad.any()


def test_ms_ssim_of_a_patch_smaller_than_its_window_is_0_where_nothing_differs():
    labels = np.zeros((1, 7, 9, 8), np.int64)
    labels[0, 2:5, 2:6, 3:] = 1
    sure = np.where(labels == 1, 50.0, -50.0)[:, None]
    assert loss_of("ms-ssim", sure, labels) == pytest.approx(0, abs=1e-6)
    assert loss_of("ms-ssim", -sure, labels) > 0.5


@every_case
def test_lovasz(channels, size, ignored):
    logits, labels = made(channels, tuple(side // 2 for side in size), ignored)
    close(loss_of("lovasz", logits, labels), lovasz(logits, labels))


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
    labels = np.zeros((1, 6, 6), np.int64)
    labels[0, 1:5, 1:5] = 1
    predicted = np.zeros_like(labels)
    predicted[0, 2:6, 1:5] = 1
    logits = np.where(predicted == 1, 800.0, -800.0)[:, None]
    tumor, background = 1 - 12 / 20, 1 - 16 / 24
    close(loss_of("lovasz", logits, labels), (tumor + background) / 2)


def test_lovasz_on_logits_takes_the_errors_of_raw_logits():
    logits, labels = np.array([[[[0.2, 3.0]], [[0.5, -1.0]]]]), np.array([[[0, 1]]])
    # Class 0: errors |1 - 0.2| of its voxel, |0 - 3| of the other; class 1: |0 - 0.5|, |1 + 1| of its voxel.
    class_0 = 3.0 * 1 / 2 + 0.8 * (1 - 1 / 2)
    class_1 = 2.0 * 1 + 0.5 * 0
    close(loss_of("lovasz", logits, labels, on="logits"), (class_0 + class_1) / 2)


@every_case
def test_cross_entropy_plus_dice(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    for batch_dice in (False, True):
        expected = cross_entropy(logits, labels) + soft_dice(logits, labels, batch_dice)
        close(loss_of("cross-entropy-dice", logits, labels, batch_dice=batch_dice), expected)


@every_case
def test_top_k_plus_dice(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    count = int((labels != IGNORE).sum() * 0.1)
    expected = hardest(logits, labels, count) + soft_dice(logits, labels)
    close(loss_of("top-k-dice", logits, labels), expected)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_cross_entropy_plus_dice_is_that_of_nnunet(batch_dice, ignored):
    compound = pytest.importorskip(
        "nnunetv2.training.loss.compound_losses", reason="nnunetv2 is not installed"
    )
    dice = pytest.importorskip("nnunetv2.training.loss.dice")
    theirs = compound.DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        ignore_label=IGNORE if ignored else None,
        dice_class=dice.MemoryEfficientSoftDiceLoss,
    )
    logits, labels = made(3, SIZES["3-D"], ignored)
    expected = theirs(torch.from_numpy(logits), torch.from_numpy(labels)[:, None]).item() + 1
    assert loss_of("cross-entropy-dice", logits, labels, batch_dice=batch_dice) == pytest.approx(
        expected, abs=1e-6
    )


def test_top_k_plus_dice_is_that_of_nnunet():
    compound = pytest.importorskip(
        "nnunetv2.training.loss.compound_losses", reason="nnunetv2 is not installed"
    )
    soft_dice_options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    theirs = compound.DC_and_topk_loss(soft_dice_options, {"k": 10, "label_smoothing": 0.0})
    logits, labels = made(3, SIZES["3-D"], ignored=False)
    expected = theirs(torch.from_numpy(logits), torch.from_numpy(labels)[:, None]).item() + 1
    assert loss_of("top-k-dice", logits, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", [2, 3])
def test_dice_focal_and_generalized_dice_are_those_of_monai(channels):
    from monai import losses

    logits, labels = made(channels, SIZES["3-D"], ignored=False)
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)[:, None]
    dice = losses.DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    focal_loss = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2)
    generalized = losses.GeneralizedDiceLoss(
        to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0, batch=True
    )
    expected = channels * focal_loss(*tensors).item() + generalized(*tensors).item()
    assert loss_of("dice", logits, labels) == pytest.approx(dice(*tensors).item(), abs=1e-6)
    assert loss_of("focal-generalized-dice", logits, labels) == pytest.approx(expected, abs=1e-6)


def test_generalized_dice_leaves_out_a_class_that_the_batch_lacks():
    logits, labels = made(3, SIZES["2-D"], ignored=False)
    labels[labels == 2] = 1
    expected = focal(logits, labels, alpha=1) + generalized_dice(logits, labels)
    close(loss_of("focal-generalized-dice", logits, labels), expected)


@every_case
def test_focal_plus_generalized_dice(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    expected = focal(logits, labels, alpha=1) + generalized_dice(logits, labels)
    close(loss_of("focal-generalized-dice", logits, labels), expected)


@every_case
def test_aimos_dice(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    (group,) = true_and_predicted(logits, labels, whole_batch=True)
    expected = 1 - np.mean([2 * p[y].sum() / (p.sum() + y.sum() + 1e-7) for p, y in group])
    close(loss_of("aimos-dice", logits, labels), expected)


@every_case
def test_the_loss_of_unet3plus_has_three_terms(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    expected = focal(logits, labels, alpha=0.5) + ms_ssim(logits, labels) + iou(logits, labels)
    close(loss_of("focal-ms-ssim-iou", logits, labels), expected)


@every_case
def test_fusion(channels, size, ignored):
    logits, labels = made(channels, tuple(side // 2 for side in size), ignored)
    w = class_weights(channels)
    expected = (
        0.7 * cross_entropy(logits, labels, w, smoothing=0.1)
        + 0.4 * lovasz(logits, labels)
        + 0.2 * focal(logits, labels, alpha=[*w, 0][:3])
    )
    close(loss_of("fusion", logits, labels), expected)


def test_fusion_takes_the_weights_of_counts():
    logits, labels = made(3, (8, 9), ignored=False)
    counts = [700, 200, 100]
    w = 1000 / (3 * np.array(counts))
    expected = (
        0.7 * cross_entropy(logits, labels, w, smoothing=0.1)
        + 0.4 * lovasz(logits, labels)
        + 0.2 * focal(logits, labels, alpha=w)
    )
    close(loss_of("fusion", logits, labels, class_counts=counts), expected)


@every_case
def test_online_bootstrapping_keeps_voxels_below_its_threshold(channels, size, ignored):
    logits, labels = made(channels, size, ignored)
    p, _ = p_true(logits, labels)
    kept = p < 0.4
    assert 100 < kept.sum() < len(p)
    expected = -np.log(p[kept]).sum() / kept.sum()
    close(loss_of("top-k", logits, labels, threshold=0.4, pixels=100), expected)


def test_online_bootstrapping_raises_its_threshold_until_enough_voxels_stay():
    logits, labels = made(2, SIZES["3-D"], ignored=True)
    p, _ = p_true(logits, labels)
    assert (p < 1e-3).sum() < 512
    close(loss_of("top-k", logits, labels, threshold=1e-3), hardest(logits, labels, 512))
    close(
        loss_of("top-k", logits[:1, :, 0], labels[:1, 0]),
        -np.log(p_true(logits[:1, :, 0], labels[:1, 0])[0]).mean(),
    )


@every_case
def test_the_coursework_loss_scales_cross_entropy_to_the_first_dice_loss(channels, size, ignored):
    first = made(channels, size, ignored)
    second = made(channels, size, ignored, seed=1)
    loss = build_loss("bootstrapped", {"alpha": 0.3, "pixels": 10}, classes=channels)
    values = [loss(*(torch.from_numpy(one) for one in batch)).item() for batch in (first, second)]
    m, d = [], []
    for logits, labels in (first, second):
        counted = labels[labels != IGNORE]
        losses = -np.log(p_true(logits, labels)[0])
        fraction = (counted > 0).mean()
        # More of the target is tumor than max(10, 0.1 %), so the quantile of the text says which voxels count.
        m.append(losses[losses >= np.quantile(losses, 1 - fraction)].mean())
        d.append(soft_dice(logits, labels))
    assert values[0] == pytest.approx(d[0], abs=1e-6)
    # b0 and d0 are kept in 32 bits.
    assert values[1] == pytest.approx(0.3 * m[1] * d[0] / m[0] + 0.7 * d[1], abs=1e-6)


def test_the_coursework_loss_keeps_512_voxels_where_there_is_no_tumor():
    logits, labels = made(1, (40, 40), ignored=False)
    labels[:] = 0
    loss = build_loss("bootstrapped", {"alpha": 1.0}, classes=1)
    loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.b0.item() == pytest.approx(hardest(logits, labels, 512), rel=1e-6)
    loss = build_loss("bootstrapped", {"share": 0.25}, classes=1)
    loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.b0.item() == pytest.approx(hardest(logits, labels, math.ceil(4800 / 4)), rel=1e-6)
