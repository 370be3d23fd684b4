"""Samples of one image: augmented, with dropout, and folds; what they count and what they restore."""

import json
from itertools import pairwise

import numpy as np
import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.inference.sampling import RANGES, FoldSpread, Form, augmented, dropped_out
from thoraxseg.inference.spatial import Augmentation
from thoraxseg.progress import Cancelled, silent

SPACING = (2.0, 0.5, 0.8)
CENTER_MM = np.array([24.0, 9.0, 8.0])
RADIUS_MM = 5.0
FLIPS_ONLY = Augmentation(flip_probability=0.5)


def distance_mm(shape=(20, 48, 40)):
    """Distance of every voxel from the ball's center, which is not the image's."""
    grid = np.ogrid[tuple(map(slice, shape))]
    return np.sqrt(sum((g * s - c) ** 2 for g, s, c in zip(grid, SPACING, CENTER_MM, strict=True)))


def ball():
    return (1 / (1 + np.exp(distance_mm() - RADIUS_MM))).astype(np.float32)[None]


def by_intensity(image, progress):
    """Probabilities of two classes that only look at the voxel: softer than a threshold."""
    p = np.clip(image[0], 0, 1)
    return np.stack([1 - p, p])


def by_threshold(image, progress):
    """Region outputs: above a quarter, above a half."""
    return np.stack([image[0] > 0.25, image[0] > 0.5]).astype(np.float32)


def look(form=Form.WANG, predict=by_intensity, image=None, samples=8, seed=1, regions=False, **more):
    image = ball() if image is None else image
    more = {"flip_axes": (0, 1, 2), "continuous": (True,) * len(image), "progress": silent} | more
    return augmented(predict, image, SPACING, form, samples, seed, regions=regions, **more)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("regions", [False, True])
def test_a_ball_comes_back_where_it_was_on_an_anisotropic_grid(form, regions):
    found = look(form, by_threshold if regions else by_intensity, samples=12, regions=regions)
    distance = distance_mm()
    sure = found.probabilities[-1] if regions else (found.probabilities[1] - 0.5) * 2
    assert found.probabilities[-1][distance < RADIUS_MM - 2.5].min() > 0.75
    assert found.probabilities[-1][distance > RADIUS_MM + 2.5].max() < 0.25
    assert sure[distance < RADIUS_MM - 2.5].mean() > 0.8
    if not regions:
        np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-5)


def test_an_image_that_is_only_flipped_gives_the_plain_answer_bit_for_bit():
    image = np.random.default_rng(0).uniform(0, 1, (1, 4, 6, 5)).astype(np.float32)
    image = np.round(image * 64) / 64  # sums of such numbers have no rounding
    seen = []
    found = look(
        Form.MEAN_PROB,
        lambda changed, progress: seen.append(changed) or by_intensity(changed, progress),
        image,
        samples=16,
        ranges=FLIPS_ONLY,
    )
    np.testing.assert_array_equal(found.probabilities, by_intensity(image, silent))
    assert (found.valid == 16).all()
    assert len({changed.tobytes() for changed in seen}) > 4
    hard = look(Form.WANG, image=image, ranges=FLIPS_ONLY).probabilities
    np.testing.assert_array_equal(hard[1], image[0] > 0.5)


def test_axes_that_may_not_be_flipped_are_not():
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    seen = []
    keep = lambda changed, progress: seen.append(changed) or by_intensity(changed, progress)  # noqa: E731
    look(predict=keep, image=image, flip_axes=(2,), ranges=FLIPS_ONLY)
    assert {tuple(changed[0, 0, 0]) for changed in seen} == {(0, 1, 2, 3), (3, 2, 1, 0)}
    with pytest.raises(OptionError, match="flip_axes"):
        look(flip_axes=(3,))


@pytest.mark.parametrize("regions", [False, True])
def test_wang_counts_hard_labels_so_frequencies_are_whole_parts_of_the_valid_samples(regions):
    found = look(regions=regions)
    counts = found.probabilities * found.valid
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)
    assert len(np.unique(found.probabilities)) > 4
    if not regions:
        np.testing.assert_array_equal(np.round(counts).sum(0), found.valid)


def test_wang_gives_a_tie_to_the_lower_label_and_leaves_an_output_of_one_half_off():
    half = lambda image, progress: np.full((2, *image.shape[1:]), 0.5, np.float32)  # noqa: E731
    assert (look(predict=half).probabilities == [[[[1]]], [[[0]]]]).all()
    assert (look(predict=half, regions=True).probabilities == 0).all()


def test_mean_prob_averages_what_wang_has_already_decided():
    unsure = lambda image, progress: np.stack([np.full(image.shape[1:], v, np.float32) for v in (0.6, 0.4)])  # noqa: E731
    np.testing.assert_allclose(look(Form.MEAN_PROB, unsure).probabilities[0], 0.6, rtol=1e-5)
    assert (look(Form.WANG, unsure).probabilities[0] == 1).all()


def test_probabilities_of_classes_sum_to_one_after_interpolation_but_outputs_of_regions_stay_alone():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0, 1, (3, 20, 48, 40)).astype(np.float32)
    rough = 1.002 * raw / raw.sum(0)  # as half precision makes them; the plain image's are not interpolated
    found = look(Form.MEAN_PROB, lambda image, progress: rough)
    np.testing.assert_allclose(found.probabilities.sum(0), 1 + 0.002 / found.valid, atol=1e-6)
    alone = look(Form.MEAN_PROB, lambda image, progress: np.full_like(raw, 0.75), regions=True)
    np.testing.assert_allclose(alone.probabilities, 0.75, rtol=1e-6)


@pytest.mark.parametrize("form", Form)
def test_a_seed_gives_the_same_bits_again_and_another_seed_does_not(form):
    first, again, other = look(form), look(form), look(form, seed=2)
    assert first.probabilities.tobytes() == again.probabilities.tobytes()
    assert (first.valid == again.valid).all()
    assert (first.probabilities != other.probabilities).any()


def test_a_sample_does_not_depend_on_how_many_there_are_and_the_first_is_the_image_itself():
    few, many = [], []
    for seen, samples in ((few, 3), (many, 6)):
        look(predict=lambda i, p, s=seen: s.append(i.copy()) or by_intensity(i, p), samples=samples)
    assert len(few) == 3 and len(many) == 6
    assert all((a == b).all() for a, b in zip(few, many[:3], strict=True))
    np.testing.assert_array_equal(few[0], ball())
    assert all((a != b).any() for a, b in pairwise(many))


def test_the_image_itself_is_never_written_to():
    image = ball()
    image.flags.writeable = False
    look(image=image)


def test_noise_is_a_part_of_the_spread_of_each_continuous_channel_and_maps_get_none():
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(0, 40, (30, 30, 30)), rng.integers(0, 2, (30, 30, 30))]).astype(np.float32)
    seen = []
    keep = lambda i, p: seen.append(i) or by_intensity(i, p)  # noqa: E731
    ranges = Augmentation(noise_sd=0.05)
    look(predict=keep, image=image, continuous=(True, False), samples=2, ranges=ranges)
    assert abs((seen[1] - image)[0].std() - 0.05 * 40) < 0.05
    np.testing.assert_array_equal(seen[1][1], image[1])


def test_a_sample_counts_only_where_the_network_saw_the_voxel():
    # Everything moves by 3 voxels along z, so the last 3 slices were only seen in the plain image.
    ranges = Augmentation(translation_fraction=(0.15, 0.15))
    bright_where_padded = lambda image, progress: by_intensity(1 - image, progress)  # noqa: E731
    image = np.ones((1, 20, 40, 40), np.float32)
    image[0, 0, 0, 0] = 0  # the padding
    found = look(predict=bright_where_padded, image=image, samples=5, ranges=ranges, flip_axes=())
    assert found.valid.dtype == np.uint16
    assert (found.valid[17:] == 1).all() and (found.valid[:17, :34, :34] == 5).all()
    assert (found.probabilities[1][image[0] == 1] == 0).all()


def test_with_rotation_the_center_is_always_seen_and_a_corner_hardly_ever():
    found = look(samples=20)
    assert found.valid[10, 24, 20] == 20
    assert 1 <= found.valid.min() <= found.valid[0, 0, 0] < 12


def test_the_record_says_everything_that_was_drawn_from_and_is_plain():
    parameters = look(samples=np.int64(4), flip_axes=(2, 0)).parameters
    assert json.loads(json.dumps(parameters)) == parameters
    wanted = {"form": "wang", "samples": 4, "seed": 1, "includes_identity": True, "flip_axes": [0, 2]}
    assert wanted.items() <= parameters.items()
    assert parameters["scale"] == [0.8, 1.2] and parameters["noise_sd"] == 0.05
    assert look(Form.MEAN_PROB).parameters["form"] == "mean-prob"
    assert RANGES[Form.WANG].rotation_rad == (0, 2 * np.pi)


@pytest.mark.parametrize(("form", "samples"), [(Form.WANG, 1), (Form.MEAN_PROB, 0), (Form.WANG, 70000)])
def test_too_few_or_too_many_samples_are_refused_with_a_usual_number(form, samples):
    with pytest.raises(OptionError, match="20 to 40"):
        look(form, samples=samples)


def test_a_seed_that_cannot_be_used_is_refused():
    for seed in (-1, 1.5):
        with pytest.raises(OptionError, match="seed"):
            look(seed=seed)


def test_progress_spans_all_samples_and_can_stop_between_two():
    said, seen = [], []

    def watched(image, progress):
        seen.append(1)
        progress(0.5, "half")
        return by_intensity(image, progress)

    look(predict=watched, samples=4, progress=lambda f, m: said.append((f, m)))
    fractions = [fraction for fraction, _ in said]
    assert fractions == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]
    assert said[2][1] == "Looking at sample 2 of 4"

    def cancel(fraction, message):
        if fraction >= 0.5:
            raise Cancelled

    seen.clear()
    with pytest.raises(Cancelled):
        look(predict=watched, samples=4, progress=cancel)
    assert len(seen) == 2


@pytest.fixture
def network():
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 32, 3, padding=1), torch.nn.BatchNorm3d(32), torch.nn.Dropout3d(0.4)]
    layers += [torch.nn.Dropout(0.0), torch.nn.Conv3d(32, 3, 1)]
    return torch.nn.Sequential(*layers).eval()


def by_network(network, seen=None):
    def predict(image, progress):
        import torch

        if seen is not None:
            seen.append([module.training for module in network])
        with torch.inference_mode():
            return torch.softmax(network(torch.from_numpy(image)[None])[0], 0).numpy()

    return predict


def test_dropout_alone_is_switched_on_and_off_again_and_torch_goes_on_as_before(network):
    import torch

    modes, state, means = [], torch.get_rng_state(), network[1].running_mean.clone()
    image = ball()[:, :8, :8, :8]
    found = dropped_out(by_network(network, modes), [network], image, 5, 3, False)
    assert modes == [[False, False, True, False, False]] * 5
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network[1].running_mean, means)
    assert found.probabilities.dtype == np.float32 and (found.valid == 5).all()
    np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-5)
    assert np.abs(found.probabilities - by_network(network)(image, silent)).max() > 1e-3
    assert json.loads(json.dumps(found.parameters)) == found.parameters
    assert found.parameters["rates"] == [0.4] and found.parameters["layers"] == 1


def test_dropout_is_switched_off_and_torch_goes_on_as_before_when_the_work_is_cancelled(network):
    import torch

    state = torch.get_rng_state()

    def cancel(fraction, message):
        if fraction > 0:
            torch.rand(1)
            raise Cancelled

    with pytest.raises(Cancelled):
        dropped_out(by_network(network), [network], ball()[:, :8, :8, :8], 5, 3, False, cancel)
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_samples_differ_and_are_the_same_for_the_same_seed_however_many(network):
    image, few, many = ball()[:, :8, :8, :8], [], []
    for seen, samples in ((few, 2), (many, 4)):
        predict = lambda i, p, s=seen: s.append(by_network(network)(i, p)) or s[-1]  # noqa: E731
        found = dropped_out(predict, [network], image, samples, 3, False)
    assert all((a == b).all() for a, b in zip(few, many[:2], strict=True))
    assert all((a != b).any() for a, b in pairwise(many))
    np.testing.assert_allclose(found.probabilities, np.mean(many, axis=0), rtol=1e-5)
    other = dropped_out(by_network(network), [network], image, 4, 4, False)
    assert (other.probabilities != found.probabilities).any()


def test_networks_without_dropout_are_refused_with_another_way(network):
    import torch

    with pytest.raises(OptionError, match=r"no dropout layers.*another form"):
        dropped_out(by_network(network), [network[:2], torch.nn.Dropout(0.0)], ball(), 5, 3, False)
    with pytest.raises(OptionError, match="20 to 40"):
        dropped_out(by_network(network), [network], ball(), 1, 3, False)


def spread_of(folds, regions=False):
    spread = FoldSpread(regions)
    for fold in folds:
        spread.add(fold)
    return spread


def test_the_spread_of_folds_is_the_deviation_of_the_winning_class():
    rng = np.random.default_rng(0)
    folds = rng.dirichlet((1, 1, 1), (5, 4, 6, 5)).transpose(0, 4, 1, 2, 3).astype(np.float32)
    found = spread_of(folds)
    mean, sd = folds.mean(0, dtype=np.float64), folds.std(0, dtype=np.float64)
    np.testing.assert_allclose(found.mean(), mean, atol=1e-6)
    winner = mean.argmax(0)[None]
    np.testing.assert_allclose(found.spread(), np.take_along_axis(sd, winner, 0)[0], atol=1e-6)
    np.testing.assert_allclose(found.spread(np.full((4, 6, 5), 2)), sd[2], atol=1e-6)
    np.testing.assert_allclose(spread_of(folds, regions=True).spread(), sd.max(0), atol=1e-6)
    assert found.spread().dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        found.mean()[:] = 0


def test_the_spread_is_zero_for_equal_folds_tiny_for_tiny_differences_and_at_most_one_half():
    sure = np.full((2, 1, 1, 3), 0.9, np.float32)
    assert (spread_of([sure] * 5).spread() == 0).all()
    near = [sure, sure + np.float32(1e-4)]
    np.testing.assert_allclose(spread_of(near).spread(), 5e-5, rtol=1e-2)
    assert (spread_of([np.ones_like(sure), np.zeros_like(sure)] * 3).spread() == 0.5).all()


def test_fewer_than_two_folds_have_no_spread_and_folds_must_have_one_shape():
    fold = np.ones((2, 3, 3, 3), np.float32)
    for folds in ([], [fold]):
        with pytest.raises(OptionError, match=r"A fold is one of the networks.*entropy"):
            spread_of(folds).spread()
    with pytest.raises(InputError, match="every fold"):
        spread_of([fold, fold[:1]])
