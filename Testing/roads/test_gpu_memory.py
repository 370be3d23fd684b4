"""When the memory of a GPU does not suffice: less at a time, then the CPU, and that is said; choices are respected."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from thoraxseg import inference
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.errors import DeviceMemoryError
from thoraxseg.inference import nnunet, nnunet_windows, sparing
from thoraxseg.inference.sparing import Sparing, in_tiles, is_local, lowest_dice, tiles_along
from thoraxseg.io import read_volume
from thoraxseg.models import build_network
from thoraxseg.models.threshold import Threshold
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.pipeline import segment

SAID = "The memory of the GPU did not suffice: the network ran on the CPU."
FULL = "CUDA out of memory"


@pytest.fixture
def mouse(mouse_file):
    return read_volume(mouse_file)


@pytest.fixture
def checkpoint(quick_checkpoint):
    return open_checkpoint(quick_checkpoint)


@pytest.fixture
def full_gpu(pretended_gpu, monkeypatch):
    """A GPU that takes the weights of the stand-in but not its work; returns where networks tried to work."""
    places, work = [], Threshold.forward

    def forward(self, image):
        places.append(self.place)
        if self.place == "cuda" and places.count("cuda") > 2:  # some windows fit
            raise torch.OutOfMemoryError(FULL)
        return work(self, image)

    monkeypatch.setattr(Threshold, "forward", forward)
    return places


def test_the_work_starts_again_on_the_cpu_and_says_so(checkpoint, mouse, full_gpu):
    found = segment(mouse, checkpoint, SegmentOptions())
    # Two windows fit; the third does not, nor do tiles of either size.
    assert full_gpu[:5] == ["cuda"] * 5 and set(full_gpu[5:]) == {"cpu"}
    assert found.warnings.count(SAID) == 1
    assert found.provenance["device"] == "cpu"
    plain = segment(mouse, checkpoint, SegmentOptions(device="cpu"))
    assert SAID not in plain.warnings
    np.testing.assert_array_equal(found.segmentation.labels, plain.segmentation.labels)
    np.testing.assert_array_equal(found.uncertainty, plain.uncertainty)


def test_a_gpu_that_was_asked_for_by_name_is_not_exchanged(checkpoint, mouse, full_gpu):
    with pytest.raises(
        DeviceMemoryError, match=r"too little free memory.*Close other programs.*--device cpu"
    ):
        segment(mouse, checkpoint, SegmentOptions(device="cuda"))
    assert set(full_gpu) == {"cuda"}


def test_a_loaded_predictor_goes_on_using_the_gpu_for_the_next_image(checkpoint, mouse, full_gpu):
    loaded = inference.load_predictor(checkpoint, Device.AUTO)
    assert loaded.device == "cuda"
    segment(mouse, checkpoint, SegmentOptions(), predictor=loaded)
    assert loaded.device == loaded.networks[0].place == "cuda"
    full_gpu.clear()  # the memory is free again
    small = replace(mouse, array=mouse.array[:4, :4, :4])
    found = segment(small, checkpoint, SegmentOptions(), predictor=loaded)
    assert found.provenance["device"] == "cuda" and set(full_gpu) == {"cuda"}


def test_weights_that_do_not_fit_on_the_gpu_are_said_too(checkpoint, mouse, full_gpu, monkeypatch):
    pretended = torch.nn.Module.to

    def to(self, *arguments, **kwargs):
        if arguments[:1] == ("cuda",):
            raise torch.OutOfMemoryError(FULL)
        return pretended(self, *arguments, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    found = segment(mouse, checkpoint, SegmentOptions())
    assert found.warnings.count(SAID) == 1 and found.provenance["device"] == "cpu"
    assert set(full_gpu) == {"cpu"}


def test_progress_does_not_fall_when_the_work_starts_again(checkpoint, mouse, full_gpu):
    told = []
    segment(mouse, checkpoint, SegmentOptions(), lambda fraction, message: told.append(fraction))
    assert told == sorted(told) and told[-1] == 1 and "cpu" in full_gpu


def test_an_ensemble_goes_to_the_cpu_as_a_whole(checkpoint, mouse, full_gpu):
    both = ensemble_of([checkpoint, checkpoint])
    found = segment(mouse, both, SegmentOptions())
    assert found.warnings.count(SAID) == 1 and found.provenance["device"] == "cpu"
    plain = segment(mouse, both, SegmentOptions(device="cpu"))
    np.testing.assert_array_equal(found.segmentation.labels, plain.segmentation.labels)


# Smaller tiles: only where the answer is the same


@pytest.fixture
def small_gpu(pretended_gpu, monkeypatch):
    """A GPU that takes images of `fits` voxels; returns (device, shape) of each look."""
    looks, work = [], Threshold.forward

    def forward(self, image):
        looks.append((self.place, tuple(image.shape)))
        if self.place == "cuda" and image.numel() > forward.fits:
            raise torch.OutOfMemoryError(FULL)
        return forward.work(self, image)

    forward.work, forward.looks = work, looks
    monkeypatch.setattr(Threshold, "forward", forward)
    return forward


@pytest.mark.parametrize(("fits", "parts"), [(24**3, 2), (16**3, 4)])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_windows_that_do_not_fit_are_cut_into_tiles_that_give_the_same_contours(
    checkpoint, mouse, small_gpu, fits, parts, device
):
    small_gpu.fits = fits
    told = []
    found = segment(mouse, checkpoint, SegmentOptions(device=device), lambda f, words: told.append(words))
    said = [one for one in found.warnings if "memory of the GPU" in one]
    assert len(said) == 1 and f"smaller tiles, {parts} x {parts} x {parts} in each window" in said[0]
    assert "lowest Dice 1.00000" in said[0] and found.provenance["device"] == "cuda"
    assert any(words.endswith("(smaller tiles, since the GPU's memory is short)") for words in told)
    on_cpu = [shape for place, shape in small_gpu.looks if place == "cpu"]
    assert on_cpu == [(1, 1, 32, 32, 32)] * len(on_cpu) and 1 <= len(on_cpu) <= 3  # until one shows something
    whole = segment(mouse, checkpoint, SegmentOptions(device="cpu"))
    np.testing.assert_array_equal(found.segmentation.labels, whole.segmentation.labels)
    np.testing.assert_allclose(found.uncertainty, whole.uncertainty, atol=1e-5)


def test_tiles_that_give_other_contours_are_not_used(checkpoint, mouse, small_gpu):
    work = small_gpu.work
    small_gpu.work = lambda self, image: work(self, image - image.mean() + 20)  # looks at the whole window
    small_gpu.fits = 24**3
    found = segment(mouse, checkpoint, SegmentOptions())
    assert found.warnings.count(SAID) == 1 and found.provenance["device"] == "cpu"
    assert not any("tiles" in one for one in found.warnings)
    whole = segment(mouse, checkpoint, SegmentOptions(device="cpu"))
    np.testing.assert_array_equal(found.segmentation.labels, whole.segmentation.labels)
    with pytest.raises(DeviceMemoryError, match="too little free memory"):
        segment(mouse, checkpoint, SegmentOptions(device="cuda"))


def test_a_network_that_normalizes_over_the_window_is_not_even_tried_in_tiles(
    checkpoint, mouse, small_gpu, monkeypatch
):
    monkeypatch.setattr(sparing, "is_local", lambda network: False)
    small_gpu.fits = 24**3
    found = segment(mouse, checkpoint, SegmentOptions())
    assert [shape for place, shape in small_gpu.looks if place == "cuda"] == [(1, 1, 32, 32, 32)]
    assert found.warnings.count(SAID) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("monai_unet", {"norm": "BATCH"}, True),
        ("monai_unet", {"norm": "INSTANCE"}, False),
        ("rrc_unet_3d", {}, False),
        ("coordinate_unet_3d", {}, False),
        ("unet", {"dimensions": 3}, True),
    ],
)
def test_which_networks_normalize_over_the_window_is_known(name, arguments, expected):
    if name == "monai_unet":
        arguments = {**arguments, "in_channels": 1, "classes": 2, "channels": [4, 8], "strides": [2]}
        arguments["num_res_units"] = 2
    assert is_local(build_network(name, arguments)) is expected


@pytest.mark.parametrize(("channels", "is_same"), [((4, 6, 8), True), ((4, 6, 8, 10), False)])
def test_a_network_that_looks_farther_than_a_tiles_margin_shows_in_the_comparison(
    channels, is_same, one_thread
):
    """Three levels look 30 voxels far, four levels twice as far; the margin in a window of 128 is 32."""
    torch.manual_seed(3)
    arguments = {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 2}
    network = build_network("monai_unet", {**arguments, "norm": "BATCH", "in_channels": 1, "classes": 3})
    window = np.random.default_rng(0).normal(size=(128, 128, 128)).astype(np.float32)
    window = window + 30 * gaussian_filter(window, 8)
    window = (window / window.std())[None, None]
    for layer in network.modules():
        if hasattr(layer, "momentum"):
            layer.momentum = None  # running statistics as after a training

    def look(batch):
        with torch.inference_mode():
            return network(torch.from_numpy(batch)).numpy()

    with torch.inference_mode():
        network.train()(torch.from_numpy(window))
    network.eval()
    agreement = lowest_dice(in_tiles(look, window, 2), look(window))
    assert (agreement > 0.99999) if is_same else (agreement < sparing.MIN_DICE)


@pytest.mark.parametrize("size", [7, 20, 32, 64, 80, 96, 128])
@pytest.mark.parametrize("parts", [2, 4])
def test_tiles_cover_a_window_once_and_are_smaller(size, parts):
    tiles = tiles_along(size, parts)
    kept = [voxel for _, _, low, high in tiles for voxel in range(low, high)]
    assert kept == list(range(size))
    assert all(0 <= begin <= low < high <= end <= size for begin, end, low, high in tiles)
    assert max(end - begin for begin, end, _, _ in tiles) < size


def test_an_answer_of_background_only_tells_nothing_of_tiles():
    background = np.zeros((1, 2, 4, 4, 4))
    background[:, 0] = 1
    assert lowest_dice(background, background) is None
    other = background.copy()
    other[0, 1, 0, 0, 0] = 2
    assert lowest_dice(background, other) == 0 and lowest_dice(other, other) == 1


# Slices: fewer at a time


@pytest.fixture
def sliced(quick_checkpoint, tmp_path):
    """The stand-in as a network of slices."""
    folder = tmp_path / "sliced"
    shutil.copytree(quick_checkpoint, folder)
    card = json.loads((folder / "card.json").read_text("utf-8"))
    card["architecture"]["dimensions"] = 2
    card["inference"] |= {"mode": "slices", "patch_size": None, "step": 1}
    (folder / "card.json").write_text(json.dumps(card), "utf-8")
    return open_checkpoint(folder)


@pytest.mark.parametrize("slices", [4, 1])
def test_slices_that_do_not_fit_are_looked_at_a_few_at_a_time(sliced, mouse, small_gpu, slices):
    small_gpu.fits = slices * 50 * 50
    told = []
    found = segment(mouse, sliced, SegmentOptions(), lambda f, words: told.append((f, words)))
    assert [one for one in found.warnings if "GPU" in one] == [
        f"The memory of the GPU was short: the network looked at {slices} slice(s) at a time, which does not change "
        "the contours."
    ]
    batches = [shape[0] for place, shape in small_gpu.looks]
    assert batches[0] == 16 and set(batches[2:]) == {slices} and found.provenance["device"] == "cuda"
    assert any(words.endswith(f"({slices} at a time, since the GPU's memory is short)") for _, words in told)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    whole = segment(mouse, sliced, SegmentOptions(device="cpu"))
    np.testing.assert_array_equal(found.segmentation.labels, whole.segmentation.labels)
    np.testing.assert_allclose(found.uncertainty, whole.uncertainty, atol=1e-5)


def test_one_slice_that_does_not_fit_goes_to_the_cpu(sliced, mouse, small_gpu):
    small_gpu.fits = 10
    found = segment(mouse, sliced, SegmentOptions())
    assert [one for one in found.warnings if "GPU" in one] == [SAID]  # what was tried before did not count
    assert [shape[0] for place, shape in small_gpu.looks if place == "cuda"] == [16, 4, 1]


def test_the_next_image_starts_with_all_slices_again(sliced, mouse, small_gpu):
    loaded = inference.load_predictor(sliced, Device.AUTO)
    small_gpu.fits = 4 * 50 * 50
    segment(mouse, sliced, SegmentOptions(), predictor=loaded)
    small_gpu.looks.clear()
    small_gpu.fits = 10**9
    found = segment(mouse, sliced, SegmentOptions(), predictor=loaded)
    assert {shape[0] for _, shape in small_gpu.looks} <= {16, 8}  # 40 slices
    assert not [one for one in found.warnings if "GPU" in one]


def test_slices_of_nnunet_are_looked_at_a_few_at_a_time_too(a_plan, monkeypatch):
    monkeypatch.setitem(nnunet_windows.SLICES_PER_CALL, "cpu", 16)
    plan, sizes = a_plan(patch_size=(8, 8), mirror_axes=(1,)), []
    torch.manual_seed(0)
    network = build_network(plan.architecture, plan.architecture_arguments)

    def answer(batch):
        sizes.append(len(batch))
        if len(batch) > answer.fits:
            raise torch.OutOfMemoryError(FULL)
        return network(batch)

    image = np.random.default_rng(0).normal(size=(1, 20, 8, 8)).astype(np.float32)
    told = []
    answer.fits = 5
    few = Sparing()
    found = nnunet.predict_scores(
        image, plan, [answer], progress=lambda fraction, words: told.append(fraction), sparing=few
    )
    assert (
        sizes[0] == 16
        and set(sizes[1:]) == {4}
        and "at 4 slice(s) at a time" in next(iter(few.said.values()))
    )
    assert told == sorted(told) and told[-1] == 1
    answer.fits = 16
    np.testing.assert_allclose(found, nnunet.predict_scores(image, plan, [answer]), atol=1e-5)


# The machine's own memory


def test_a_machine_without_memory_says_so_and_does_not_blame_the_checkpoint(checkpoint, mouse, monkeypatch):
    def forward(self, image):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Threshold, "forward", forward)
    with pytest.raises(MemoryError, match="can't allocate memory"):
        segment(mouse, checkpoint, SegmentOptions(device="cpu"))


# nnU-Net: first the sums go to the host, then everything to the CPU


@pytest.fixture
def looks(pretended_gpu, monkeypatch):
    """Answer nnU-Net's looks on a pretended GPU; `fits` says whether one does. Returns (device, sums) of each."""
    tried, real = [], nnunet.predict_scores

    def predict(image, plan, networks, device, sums_on, axes, progress, sparing):
        tried.append((device, sums_on))
        progress(0.5, "Looking at windows")
        if device == "cuda" and not predict.fits(sums_on):
            raise torch.OutOfMemoryError(FULL)
        return real(image, plan, networks, "cpu", None, axes, progress=progress)

    monkeypatch.setattr(nnunet, "predict_scores", predict)
    predict.tried = tried
    return predict


@pytest.fixture
def nnunet_made(nnunet_checkpoint, a_plan):
    return nnunet_checkpoint(a_plan())


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_sums_that_do_not_fit_go_to_the_host_and_nothing_need_be_said(nnunet_made, phantom, looks, device):
    looks.fits = lambda sums_on: sums_on == "cpu"
    told, options = [], SegmentOptions(device=device)
    found = segment(phantom(), nnunet_made, options, lambda fraction, message: told.append(fraction))
    assert looks.tried == [("cuda", None), ("cuda", "cpu")]
    assert SAID not in found.warnings and found.provenance["device"] == "cuda"
    assert told == sorted(told)


def test_a_network_that_does_not_fit_runs_on_the_cpu_and_that_is_said(nnunet_made, phantom, looks):
    looks.fits = lambda sums_on: False
    found = segment(phantom(), nnunet_made, SegmentOptions())
    assert looks.tried == [("cuda", None), ("cuda", "cpu"), ("cpu", None)]
    assert found.warnings.count(SAID) == 1 and found.provenance["device"] == "cpu"
    plain = segment(phantom(), nnunet_made, SegmentOptions(device="cpu"))
    np.testing.assert_array_equal(found.segmentation.labels, plain.segmentation.labels)


def test_a_network_that_does_not_fit_is_refused_where_the_gpu_was_asked_for(nnunet_made, phantom, looks):
    looks.fits = lambda sums_on: False
    with pytest.raises(DeviceMemoryError, match=r"too little free memory.*--device cpu"):
        segment(phantom(), nnunet_made, SegmentOptions(device="cuda"))
    assert looks.tried == [("cuda", None), ("cuda", "cpu")]


def test_the_first_stage_of_a_cascade_goes_to_the_cpu_too(nnunet_checkpoint, a_plan, phantom, looks):
    previous = nnunet_checkpoint(a_plan(spacing_mm=(2.0, 2.0, 2.0)))
    checkpoint = nnunet_checkpoint(a_plan(previous_stage="3d_lowres"), previous=previous)
    looks.fits = lambda sums_on: len(looks.tried) < 2  # the first stage fits, the second does not
    found = segment(phantom(), checkpoint, SegmentOptions())
    devices = [device for device, _ in looks.tried]
    assert devices == ["cuda", "cuda", "cuda", "cpu", "cpu"]
    assert found.warnings.count(SAID) == 1
