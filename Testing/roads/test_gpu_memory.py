"""When the memory of a GPU does not suffice: the CPU does the work and that is said, or the choice is respected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg import inference
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.errors import DeviceMemoryError
from thoraxseg.inference import nnunet
from thoraxseg.io import read_volume
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
    assert full_gpu[:3] == ["cuda"] * 3 and set(full_gpu[3:]) == {"cpu"}
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


# nnU-Net: first the sums go to the host, then everything to the CPU


@pytest.fixture
def looks(pretended_gpu, monkeypatch):
    """Answer nnU-Net's looks on a pretended GPU; `fits` says whether one does. Returns (device, sums) of each."""
    tried, real = [], nnunet.predict_scores

    def predict(image, plan, networks, device, sums_on, axes, progress):
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
