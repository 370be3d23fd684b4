"""From a checkpoint to probabilities: what is averaged, what is refused, and that it is always the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from thoraxseg.checkpoints import Checkpoint
from thoraxseg.errors import CheckpointError, DependencyError, DeviceMemoryError
from thoraxseg.inference import Predictor, load_predictor
from thoraxseg.models import build_network
from thoraxseg.options import Device
from thoraxseg.progress import Cancelled


class Fixed(torch.nn.Module):
    """Answers the same logits everywhere."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image):
        shape = (1, -1) + (1,) * (image.ndim - 2)
        return self.logits.view(shape).expand(len(image), -1, *image.shape[2:])


@pytest.fixture(autouse=True)
def threads():
    """Give torch its number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def predictor_of(a_card):
    """Make a predictor of these networks; the card has 3 classes."""

    def make(*networks, **inference):
        plan = {"mode": "slices", "averaging": "probabilities", "temperature": 1, "step": 0.5} | inference
        card = a_card({f"inference.{key}": value for key, value in plan.items()})
        return Predictor(Checkpoint(card, ()), networks, "cpu")

    return make


IMAGE = np.zeros((1, 3, 4, 5), np.float32)
MODES = [
    pytest.param({"mode": "slices"}, id="slices"),
    pytest.param({"mode": "sliding-window", "patch_size": [2, 2, 2]}, id="windows"),
]
# Two folds, sure of different things: ln 4 and ln 9 make the averages plain numbers.
ONE, TWO = Fixed(np.log(4.0), 0.0, 0.0), Fixed(0.0, np.log(9.0), 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_of_folds_are_averaged_where_the_card_says_so(predictor_of, mode):
    found = predictor_of(ONE, TWO, averaging="probabilities", **mode).probabilities(IMAGE)
    assert found.shape == (3, *IMAGE.shape[1:]) and found.dtype == np.float32
    expected = np.mean([[4 / 6, 1 / 6, 1 / 6], [1 / 11, 9 / 11, 1 / 11]], axis=0)
    np.testing.assert_allclose(found[:, 1, 2, 3], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_logits_of_folds_are_averaged_where_the_card_says_so(predictor_of, mode):
    found = predictor_of(ONE, TWO, averaging="logits", **mode).probabilities(IMAGE)
    np.testing.assert_allclose(found[:, 1, 2, 3], np.array([2, 3, 1]) / 6, rtol=1e-5)  # sqrt 4, sqrt 9, 1


def test_the_temperature_flattens_probabilities_and_keeps_the_label(predictor_of):
    found = predictor_of(Fixed(np.log(9.0), 0.0, 0.0), temperature=2).probabilities(IMAGE)
    np.testing.assert_allclose(found[:, 0, 0, 0], np.array([3, 1, 1]) / 5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_sum_to_1(predictor_of, mode):
    network = build_network(
        "threshold", {"centers": [0, 5, 9], "widths": [1, 2, 3], "dimensions": 2 + ("patch_size" in mode)}
    )
    image = np.random.default_rng(0).random(IMAGE.shape, dtype=np.float32) * 10
    found = predictor_of(network, **mode).probabilities(image)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


def test_equal_classes_give_the_lower_label(predictor_of):
    found = predictor_of(Fixed(1.0, 1.0, 1.0)).probabilities(IMAGE)
    assert not found.argmax(axis=0).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_network_with_another_number_of_classes_is_refused_at_once(predictor_of, mode, classes):
    calls = []
    network = Fixed(*[0.0] * classes)
    network.register_forward_hook(lambda *arguments: calls.append(1))
    torch.set_num_threads(1)
    with pytest.raises(CheckpointError, match=r"expected 3 classes .* do not belong together"):
        predictor_of(network, **mode).probabilities(IMAGE)
    assert len(calls) == 1


def test_an_answer_that_is_no_number_is_refused(predictor_of):
    with pytest.raises(CheckpointError, match="expected finite probabilities"):
        predictor_of(Fixed(0.0, float("nan"), 0.0)).probabilities(IMAGE)


def test_an_image_the_network_cannot_take_is_refused_in_words(predictor_of):
    network = build_network("deepmeta", {"classes": 3})  # needs multiples of 16
    with pytest.raises(CheckpointError, match=r"phantom-threshold: its network failed on .* \(20, 20\)"):
        predictor_of(network).probabilities(np.zeros((1, 1, 20, 20), np.float32))


def test_a_full_gpu_is_said_with_the_way_out(predictor_of):
    class Full(torch.nn.Module):
        def forward(self, image):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DependencyError, match="--device cpu"):
        predictor_of(Full()).probabilities(IMAGE)


@pytest.mark.parametrize("mode", MODES)
def test_progress_rises_over_all_folds_and_can_cancel(predictor_of, mode):
    seen = []
    predictor = predictor_of(ONE, TWO, **mode)
    predictor.probabilities(IMAGE, lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0

    def cancel(fraction, message):
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        predictor.probabilities(IMAGE, cancel)


def random_deepmeta():
    torch.manual_seed(8)
    return build_network("deepmeta", {"classes": 3}).to(memory_format=torch.channels_last)


def test_the_answer_is_the_same_bit_for_bit_on_any_number_of_threads_and_in_every_run(predictor_of):
    predictor = predictor_of(random_deepmeta())
    image = np.random.default_rng(0).random((1, 5, 64, 64), dtype=np.float32)
    found = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        found.append(predictor.probabilities(image))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_windows_give_the_same_labels_on_any_number_of_threads(predictor_of):
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(8)
            self.first, self.last = torch.nn.Conv3d(1, 16, 3, padding=1), torch.nn.Conv3d(16, 3, 3, padding=1)

        def forward(self, image):
            return self.last(torch.relu(self.first(image)))

    predictor = predictor_of(Wide(), mode="sliding-window", patch_size=[16, 16, 16])
    image = np.random.default_rng(0).random((1, 20, 24, 28), dtype=np.float32)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(predictor.probabilities(image).argmax(axis=0))
    np.testing.assert_array_equal(*found)


def test_a_slice_does_not_depend_on_its_neighbors(predictor_of):
    predictor = predictor_of(random_deepmeta())
    image = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    whole = predictor.probabilities(image)
    np.testing.assert_array_equal(predictor.probabilities(image[:, 1:2])[:, 0], whole[:, 1])


def test_one_network_is_loaded_for_each_weights_file(a_card, tmp_path):
    paths = []
    for fold in range(2):
        paths.append(tmp_path / f"fold_{fold}.safetensors")
        state = {"centers": torch.tensor([0.0, 1.0, 2.0]) + fold, "widths": torch.ones(3)}
        save_file(state, paths[-1])
    predictor = load_predictor(Checkpoint(a_card(), tuple(paths)), Device.CPU)
    assert predictor.device == "cpu"
    assert [network.centers[0].item() for network in predictor.networks] == [0, 1]


def test_weights_that_do_not_fit_are_refused_with_checkpoint_and_file(a_card, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"centers": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"phantom-threshold, other\.safetensors: .*missing widths"):
        load_predictor(Checkpoint(a_card(), (path,)), Device.CPU)


def test_asking_for_a_gpu_that_is_not_there_is_refused(a_card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DependencyError, match=r"no CUDA GPU here\. Use --device cpu"):
        load_predictor(Checkpoint(a_card(), ()), Device.CUDA)


def test_auto_takes_the_cpu_where_there_is_no_gpu(a_card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_predictor(Checkpoint(a_card(), ()), Device.AUTO).device == "cpu"


# Channels, folds, whole images, one output, smaller answers


class Channels(torch.nn.Module):
    """Answers with the channels it sees, as logits."""

    def forward(self, image):
        return image


EVERY_MODE = [*MODES, pytest.param({"mode": "whole"}, id="whole")]


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_the_network_sees_all_channels_at_their_own_places(predictor_of, mode):
    channels = np.random.default_rng(0).random((3, 4, 5, 6), dtype=np.float32)
    predictor = predictor_of(Channels(), averaging="logits", **mode)
    np.testing.assert_allclose(predictor.scores(channels), channels, rtol=1e-5)
    expected = np.exp(channels) / np.exp(channels).sum(axis=0)
    np.testing.assert_allclose(predictor.probabilities(channels), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("folds", [[0], [1], [1, 0], [0, 0, 1]], ids=str)
def test_the_folds_that_are_asked_for_and_no_others_are_averaged(predictor_of, mode, folds):
    predictor = predictor_of(ONE, TWO, **mode)
    apart = [predictor.scores(IMAGE, folds=[fold]) for fold in (0, 1)]
    np.testing.assert_allclose(
        predictor.scores(IMAGE, folds=folds), np.mean([apart[fold] for fold in folds], axis=0), rtol=1e-6
    )
    assert not np.allclose(*apart)


def test_a_whole_image_is_seen_at_once_and_a_window_is_not(predictor_of):
    seen = []

    class Looks(Fixed):
        def forward(self, image):
            seen.append(tuple(image.shape))
            return super().forward(image)

    image = np.zeros((1, 4, 6, 8), np.float32)
    found = predictor_of(Looks(0.0, 1.0, 0.0), mode="whole").probabilities(image)
    assert seen == [(1, 1, 4, 6, 8)] and found.shape == (3, 4, 6, 8)


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_one_output_is_the_sigmoid_of_the_only_label(a_card, mode, averaging):
    inference = {"averaging": averaging, "temperature": 1, "step": 0.5} | mode
    only = {"labels": {"1": "tumors"}, "tumors": None, "postprocess": {"regions": [], "rules": []}}
    card = a_card({f"inference.{key}": value for key, value in inference.items()} | only)
    found = Predictor(Checkpoint(card, ()), (Fixed(np.log(3.0)),), "cpu").probabilities(IMAGE)
    np.testing.assert_allclose(found[:, 1, 2, 3], [0.25, 0.75], rtol=1e-6)


class Cropped(torch.nn.Module):
    """Answers for fewer voxels than it sees."""

    def __init__(self, margin, keep=None):
        super().__init__()
        self.margin, self.keep = margin, keep

    def forward(self, image):
        m = self.margin
        inner = image[:, :, m:-m, m:-m, m:-m] if self.keep is None else image[:, :, : self.keep]
        return torch.cat([inner, -inner, 0 * inner], dim=1)


@pytest.mark.parametrize(
    ("network", "mode"),
    [
        (Cropped(1), {"mode": "whole"}),
        (Cropped(1), {"mode": "sliding-window", "patch_size": [4, 4, 4]}),
        (Cropped(0, keep=1), {"mode": "whole"}),  # one slice would be spread over all of them
        (Cropped(0, keep=1), {"mode": "sliding-window", "patch_size": [4, 4, 4]}),
        (Cropped(0, keep=1), {"mode": "slices"}),
    ],
    ids=["whole", "windows", "one slice", "windows, one slice", "one row"],
)
def test_an_answer_of_another_size_is_refused_and_never_stretched(predictor_of, network, mode):
    with pytest.raises(CheckpointError, match=r"expected 3 classes for each of .* do not belong together"):
        predictor_of(network, **mode).probabilities(np.zeros((1, 6, 6, 6), np.float32))


def test_deepmedics_smaller_answers_are_put_at_their_places(a_card):
    """With one convolution a path, a patch of 15 voxels along each axis gets an answer for 9."""
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "classes": 3, "features": [4], "dense": [5]}
    network = build_network("deepmedic", arguments)
    card = a_card(
        {
            "architecture": {"name": "deepmedic", **arguments},
            "inference.mode": "sliding-window",
            "inference.patch_size": [15, 15, 15],
            "inference.averaging": "logits",
            "inference.step": 1,
        }
    )
    image = np.random.default_rng(0).random((1, 9, 9, 18), dtype=np.float32)
    found = Predictor(Checkpoint(card, ()), (network,), "cpu").scores(image)
    assert found.shape == (3, 9, 9, 18)
    padded = np.pad(image, [(0, 0), (3, 3), (3, 3), (3, 3)], mode="edge")
    for start in (0, 9):  # two windows side by side, each with 9 voxels of its own
        with torch.no_grad():
            alone = network(torch.from_numpy(padded[None, ..., start : start + 15].copy()))[0].numpy()
        np.testing.assert_allclose(found[..., start : start + 9], alone, atol=1e-5)


# When the GPU is full


class OnlyOnCpu(Fixed):
    """Does not fit on the GPU, which is only a word here."""

    place = "cuda"

    def to(self, place):
        self.place = place
        return self

    def forward(self, image):
        if self.place != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(image)


def test_going_to_the_cpu_leaves_the_predictor_on_the_gpu_as_it_was(a_card, pretended_gpu):
    card = a_card({"inference.mode": "slices"})
    inner = Predictor(Checkpoint(card, ()), (OnlyOnCpu(0.0, 1.0, 0.0),), "cuda")
    outer = Predictor(
        Checkpoint(card, ()),
        (OnlyOnCpu(1.0, 0.0, 0.0),),
        "cuda",
        previous=inner,
        lungs=inner,
        members=(inner, inner),
    )
    moved = outer.on_cpu()
    everything = [moved, moved.previous, moved.lungs, *moved.members]
    assert {one.device for one in everything} == {"cpu"}
    for one in everything:
        one.scores(IMAGE)
    for one in (outer, inner):
        assert one.device == "cuda" and one.networks[0].place == "cuda"
        with pytest.raises(DeviceMemoryError):
            one.scores(IMAGE)


def test_weights_that_do_not_fit_on_the_gpu_go_to_the_cpu_unless_it_was_asked_for(
    a_card, tmp_path, pretended_gpu, monkeypatch
):
    save_file({"centers": torch.zeros(3), "widths": torch.ones(3)}, tmp_path / "w.safetensors")
    checkpoint = Checkpoint(a_card(), (tmp_path / "w.safetensors",))
    assert load_predictor(checkpoint, Device.AUTO).device == "cuda"
    pretended = torch.nn.Module.to

    def full(self, *arguments, **kwargs):
        if arguments[:1] == ("cuda",):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pretended(self, *arguments, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", full)
    loaded = load_predictor(checkpoint, Device.AUTO)
    assert loaded.device == "cpu" and loaded.gpu_too_small
    assert not load_predictor(checkpoint, Device.CPU).gpu_too_small
    with pytest.raises(DeviceMemoryError, match=r"too little free memory.*--device cpu"):
        load_predictor(checkpoint, Device.CUDA)


def test_a_card_of_a_far_larger_network_than_its_weights_is_refused_before_memory_is_taken(a_card, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    huge = {"name": "unet", "filters": 1024, "dimensions": 3}
    with pytest.raises(CheckpointError, match=r"the network of its card has [\d,]+ numbers, its weights 3"):
        load_predictor(Checkpoint(a_card({"architecture": huge}), (tmp_path / "w.safetensors",)), Device.CPU)


def test_all_that_a_checkpoint_builds_on_is_loaded_with_it(a_card, tmp_path):
    save_file({"centers": torch.zeros(3), "widths": torch.ones(3)}, tmp_path / "w.safetensors")
    one = Checkpoint(a_card(), (tmp_path / "w.safetensors",))
    whole = Checkpoint(one.card, one.weights, previous=one, lungs=one, members=(one, one), shares=(0.5, 0.5))
    loaded = load_predictor(whole, Device.CPU)
    parts = [loaded, loaded.previous, loaded.lungs, *loaded.members]
    assert all(len(part.networks) == 1 and part.checkpoint.card is one.card for part in parts)
    assert (len(loaded.members), loaded.previous.previous, loaded.lungs.members) == (2, None, ())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_gives_the_labels_of_the_cpu(a_card, tmp_path):
    card = a_card({"inference.mode": "slices", "architecture": {"name": "deepmeta", "classes": 3}})
    torch.save(random_deepmeta().state_dict(), tmp_path / "w.pth")
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    labels = [
        load_predictor(Checkpoint(card, (tmp_path / "w.pth",)), device).probabilities(image).argmax(axis=0)
        for device in (Device.CPU, Device.CUDA)
    ]
    assert (labels[0] == labels[1]).mean() > 0.999
