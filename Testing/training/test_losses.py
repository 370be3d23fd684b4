"""What holds for every loss: gradients, extremes, ignored voxels, one logit, precision, learning, bad parameters."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.losses import LOSS_NAMES, build_loss

pytestmark = pytest.mark.usefixtures("one_thread")

every_loss = pytest.mark.parametrize("name", LOSS_NAMES)
every_size = pytest.mark.parametrize("size", [(13, 12), (11, 12, 11)], ids=["2-D", "3-D"])
SMALL = {"top-k": {"pixels": 20}, "bootstrapped": {"pixels": 20}}


def made(channels, size, images=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, channels, *size, generator=draw, dtype=torch.float64) * 2
    labels = torch.randint(0, max(channels, 2), (images, *size), generator=draw)
    labels[torch.rand(labels.shape, generator=draw) < 0.1] = IGNORE
    return logits, labels


def small(name, channels):
    return build_loss(name, SMALL.get(name, {}), classes=channels)


def gradient(loss, logits, labels):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert value.shape == () and value.isfinite()
    return value.detach(), logits.grad


@every_loss
@pytest.mark.parametrize(("channels", "size"), [(1, (6, 7)), (3, (6, 5)), (3, (3, 4, 3))])
def test_the_gradient_is_that_of_finite_differences(name, channels, size):
    logits, labels = made(channels, size)
    loss = small(name, channels)
    loss(logits + 0.1, labels)  # sets what the coursework's loss remembers
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), [logits.requires_grad_()], atol=1e-6)


@pytest.mark.parametrize("name", ["ms-ssim", "focal-ms-ssim-iou"])
def test_the_gradient_over_several_scales_is_that_of_finite_differences(name):
    logits, labels = made(1, (22, 23), images=1)
    loss = build_loss(name, {}, classes=1)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), [logits.requires_grad_()], atol=1e-6)


@every_loss
@every_size
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_gradients_are_finite_at_extreme_logits(name, size, scale):
    for channels in (1, 3):
        logits, labels = made(channels, size)
        for signed in (logits, logits.sign(), -logits):
            _, slope = gradient(small(name, channels), (signed * scale).float(), labels)
            assert slope.isfinite().all()


@every_loss
@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_batch_of_one_class_alone_has_a_finite_gradient(name, only):
    logits, labels = made(3, (12, 13))
    labels[labels != IGNORE] = only
    for scale in (1, 1e4):
        _, slope = gradient(small(name, 3), logits.float() * scale, labels)
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", ["focal", "focal-ms-ssim-iou", "fusion", "focal-generalized-dice"])
@pytest.mark.parametrize("gamma", [0, 0.3, 1, 5])
def test_focal_gradients_are_finite_for_every_gamma(name, gamma):
    logits, labels = made(3, (12, 12))
    for scale in (1, 1e3):
        _, slope = gradient(build_loss(name, {"gamma": gamma}, classes=3), logits.float() * scale, labels)
        assert slope.isfinite().all()


@every_loss
@every_size
def test_ignored_voxels_have_no_gradient_and_no_say(name, size):
    logits, labels = made(3, size)
    value, slope = gradient(small(name, 3), logits, labels)
    ignored = (labels == IGNORE)[:, None].expand_as(slope)
    assert not slope[ignored].any()
    assert slope[~ignored].any()
    others = torch.where(ignored, -3 * logits + 1, logits)
    assert torch.equal(small(name, 3)(others, labels), value)


@every_loss
def test_an_ignored_image_changes_no_gradient_of_the_others_but_for_its_share(name):
    logits, labels = made(3, (12, 13), images=3)
    labels[1] = IGNORE
    _, with_ignored = gradient(small(name, 3), logits, labels)
    _, without = gradient(small(name, 3), logits[[0, 2]], labels[[0, 2]])
    assert not with_ignored[1].any()
    # Means over images count an image that nothing is known about; all else does not.
    share = with_ignored[[0, 2]].norm() / without.norm()
    assert share == pytest.approx(1, abs=0.34)


@every_loss
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_that_is_all_ignored_gives_0_and_learns_nothing(name, channels):
    logits, labels = made(channels, (12, 12))
    labels[:] = IGNORE
    loss = build_loss(name, {}, classes=channels)
    before = {key: one.clone() for key, one in loss.state_dict().items()}
    value, slope = gradient(loss, logits, labels)
    assert value == 0
    assert slope is not None and not slope.any()
    for key, one in loss.state_dict().items():
        assert torch.equal(one.nan_to_num(-1), before[key].nan_to_num(-1))


@every_loss
@every_size
def test_one_logit_is_two_of_which_the_first_is_0(name, size):
    logits, labels = made(1, size)
    one = small(name, 1)(logits, labels)
    two = small(name, 2)(torch.cat([torch.zeros_like(logits), logits], dim=1), labels)
    assert one == two
    more = torch.where((labels == 0) & (logits[:, 0] > 0), 4, labels)
    assert small(name, 1)(logits, more) == one, "with one logit, label 1 alone is foreground"


@every_loss
def test_it_computes_in_32_bits_under_autocast(name):
    logits, labels = made(3, (12, 12))
    half = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = small(name, 3)(half, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, small(name, 3)(half.float(), labels))
    value.backward()
    assert half.grad.dtype == torch.bfloat16


@every_loss
@every_size
def test_a_perfect_prediction_has_next_to_no_loss_and_a_wrong_one_much(name, size):
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[:, 3:9, 3:9] = 1
    labels[:, 5:7, 5:7] = 2
    perfect = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double() * 40 - 20
    options = {"label_smoothing": 0} if name == "fusion" else SMALL.get(name, {})
    loss = build_loss(name, options, classes=3).eval()  # so that the coursework's loss remembers nothing
    assert loss(perfect, labels) < 1e-4
    assert loss(-perfect, labels) > 0.4


def network(channels, axes):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d if axes == 2 else torch.nn.Conv3d
    return torch.nn.Sequential(
        conv(1, 8, 3, padding=1),
        torch.nn.LeakyReLU(0.2),
        conv(8, 8, 3, padding=1),
        torch.nn.LeakyReLU(0.2),
        conv(8, channels, 1),
    )


@every_loss
@pytest.mark.parametrize(
    ("channels", "size"), [(1, (24, 24)), (3, (24, 24)), (1, (12, 12, 12)), (3, (12, 12, 12))]
)
def test_it_falls_when_a_network_learns_a_batch(name, channels, size):
    labels = torch.zeros(2, *size, dtype=torch.long)
    labels[:, 2:9, 3:10] = 1
    labels[:, 4:7, 5:8] = min(2, max(channels, 2) - 1)
    images = labels[:, None] + 0.1 * torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    labels[:, 0] = IGNORE
    learner, loss = network(channels, len(size)), small(name, channels)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(learner(images), labels)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.75 * values[0]
    predicted = learner(images) > 0 if channels == 1 else learner(images).argmax(dim=1, keepdim=True)
    right = (predicted[:, 0] == labels)[labels != IGNORE].float().mean()
    assert right > 0.8


@every_loss
def test_what_it_remembers_survives_the_state(name):
    loss, resumed = small(name, 3), small(name, 3)
    first, second = made(3, (12, 12)), made(3, (12, 12), seed=1)
    loss(*first)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed(*second), loss(*second))
    assert bool(loss.state_dict()) == (name == "bootstrapped")


def test_the_coursework_loss_remembers_the_first_training_batch_alone():
    loss = small("bootstrapped", 1)
    loss.eval()
    loss(*made(1, (12, 12), seed=5))
    assert loss.b0.isnan(), "a validation before the training must not set the scale"
    loss.train()
    logits, labels = made(1, (12, 12))
    loss(logits.masked_fill((labels == 1)[:, None], -torch.inf), labels)
    assert loss.b0.isnan(), "a batch that overflowed must not set the scale"
    loss(*made(1, (12, 12)))
    first = loss.b0.item(), loss.d0.item()
    loss(*made(1, (12, 12), seed=1))
    assert (loss.b0.item(), loss.d0.item()) == first
    assert not loss.b0.requires_grad and not loss.d0.requires_grad


@pytest.mark.parametrize("name", [name for name in LOSS_NAMES if name != "weighted-cross-entropy"])
def test_weights_of_voxels_are_refused_where_they_have_no_use(name):
    logits, labels = made(3, (12, 12))
    assert not small(name, 3).takes_weights
    with pytest.raises(OptionError, match="no use for weights"):
        small(name, 3)(logits, labels, torch.ones(labels.shape))


def test_a_map_of_weights_0_gives_0():
    logits, labels = made(3, (12, 12))
    loss = build_loss("weighted-cross-entropy", {}, classes=3)
    assert loss.takes_weights
    logits.requires_grad_()
    value = loss(logits, labels, torch.zeros(labels.shape))
    value.backward()
    assert value == 0 and not logits.grad.any()


@pytest.mark.parametrize(
    ("name", "parameters", "classes", "says"),
    [
        ("jaccard", {}, 2, "cross-entropy.*jaccard"),
        ("focal", {"gama": 2}, 2, "gama.*gamma"),
        ("iou", {"classes": 3}, 2, "unknown parameter 'classes'"),
        ("focal", {"gamma": -1}, 2, "gamma.*-1"),
        ("focal", {"gamma": float("nan")}, 2, "gamma.*nan"),
        ("focal", {"alpha": [1, 2, 3]}, 2, "expected 2 numbers"),
        ("focal", {"alpha": 0}, 2, "above 0"),
        ("focal", {"alpha": "equal"}, 2, "equal"),
        ("cross-entropy", {"class_weights": [1, -5]}, 2, "-5"),
        ("cross-entropy", {"class_weights": [1, 5], "class_counts": [1, 5]}, 2, "not both"),
        ("cross-entropy", {"class_counts": [1, 0]}, 2, "class_counts"),
        ("cross-entropy", {"label_smoothing": 1.5}, 2, "label_smoothing"),
        ("weighted-cross-entropy", {}, 5, "5 classes.*class_weights"),
        ("fusion", {}, 4, "4 classes"),
        ("fusion", {"lovasz_on": "probabilities"}, 3, "softmax, logits"),
        ("fusion", {"focal": -0.2}, 3, "-0.2"),
        ("dice", {"smooth": 0}, 2, "smooth"),
        ("dice", {"batch_dice": 1}, 2, "true or false"),
        ("top-k", {"pixels": 0}, 2, "pixels"),
        ("top-k", {"threshold": 2}, 2, "threshold"),
        ("top-k-dice", {"percent": 0}, 2, "percent"),
        ("bootstrapped", {"alpha": 1.1}, 1, "alpha"),
        ("dice", {}, 0, "classes"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(name, parameters, classes, says):
    with pytest.raises(OptionError, match=says):
        build_loss(name, parameters, classes)


def test_logits_and_labels_that_do_not_fit_are_refused():
    logits, labels = made(3, (12, 12))
    with pytest.raises(OptionError, match="built for 2 logits, but the network gives 3"):
        build_loss("dice", {}, classes=2)(logits, labels)
    with pytest.raises(InputError, match=r"labels: expected shape \(2, 12, 12\), got \(2, 12, 11\)"):
        build_loss("dice", {}, classes=3)(logits, labels[..., 1:])
    labels[0, 0, 0] = 7
    with pytest.raises(InputError, match=r"from 0 to 2 .*from 0 to 7"):
        build_loss("dice", {}, classes=3)(logits, labels)
    labels[0, 0, 0] = -1
    with pytest.raises(InputError, match="from -1 to 2"):
        build_loss("dice", {}, classes=3)(logits, labels)


def test_naming_the_losses_does_not_load_torch():
    import subprocess
    import sys

    code = "import sys, thoraxseg.training.losses, thoraxseg.training.optimizers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
