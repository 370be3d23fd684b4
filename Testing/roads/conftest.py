"""Small models and images for the roads: random nnU-Nets, networks that do what they say, and two-channel ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thoraxseg.volume import Volume


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """All of these tests run small networks."""


@pytest.fixture
def nnunet_checkpoint(a_plans_card, tmp_path):
    """Make a checkpoint of a plan with random weights, one file a fold, whose answers vary over the image."""
    import torch

    from thoraxseg.checkpoints import Checkpoint
    from thoraxseg.models import build_network

    number = itertools.count()

    def make(plan, folds=1, previous=None, changes=None):
        paths = []
        for _ in range(folds):
            at = next(number)
            torch.manual_seed(100 + at)
            network = build_network(plan.architecture, plan.architecture_arguments)
            for name, values in network.named_parameters():
                if "seg_layers" in name and name.endswith("weight"):
                    torch.nn.init.normal_(values, std=2.0)
            paths.append(tmp_path / f"fold_{at}.pth")
            torch.save(network.state_dict(), paths[-1])
        return Checkpoint(a_plans_card(plan, changes), tuple(paths), previous=previous)

    return make


@pytest.fixture
def phantom(a_geometry):
    """Make an image of smooth noise with a border of zeros, on axes and with spacing as asked for."""
    from scipy.ndimage import gaussian_filter

    def make(
        codes="RAS", spacing_mm=(1.0, 1.0, 1.0), shape=(14, 16, 12), seed=0, degrees=(0, 0, 0), border=1
    ):
        array = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
        array = (array / array.std() * 100 + 1000).astype(np.float32)
        if border:
            inside = np.zeros(shape, bool)
            inside[(slice(border, -border),) * 3] = True
            array[~inside] = 0
        return Volume(array, a_geometry(codes, spacing_mm, degrees, (3, -20, 7)), name="phantom")

    return make


@pytest.fixture
def a_predictor(a_card):
    """Make a predictor of modules, on a card with changes as for `a_card`; intensity is not checked."""
    from thoraxseg.checkpoints import Checkpoint
    from thoraxseg.inference import Predictor

    def make(*networks, changes=None, **parts):
        plain = {
            "name": "network",
            "nnunet": None,
            "previous": None,
            "input.orientation": "RAS",
            "input.spacing_mm": None,
            "input.intensity": [],
            "preprocess": [],
            "inference.mode": "whole",
            "inference.averaging": "logits",
            "postprocess": {"regions": [], "rules": []},
            "channels": [{"name": "MRI", "source": "image"}],
            "labels": {"1": "lungs", "2": "tumors"},
            "tumors": None,
        }
        below = {name: part.checkpoint for name, part in parts.items()}
        checkpoint = Checkpoint(a_card(plain | (changes or {})), (), **below)
        return Predictor(checkpoint, networks, "cpu", **parts)

    return make
