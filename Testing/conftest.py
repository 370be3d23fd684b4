"""What every test may use: a clean environment, cards made to measure, geometries, the published model."""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import thoraxseg
from thoraxseg.volume import directions_from_codes

# No deadline, since machines are busy; no database, so that every run tries the same way.
hypothesis.settings.register_profile("thoraxseg", deadline=None, database=None)
hypothesis.settings.load_profile("thoraxseg")

CARDS = Path(thoraxseg.__file__).parent / "checkpoints" / "cards"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell that runs the tests in the background tells them not to hear Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def environment():
    """Give back the environment and the working folder as they were."""
    before, folder = dict(os.environ), Path.cwd()
    yield
    # The command line logs to the standard error of this one test, which is closed afterwards.
    for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(handler)
    os.chdir(folder)
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for one another make small networks slow on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """An empty folder as the user's place for checkpoints."""
    folder = tmp_path / "home"
    monkeypatch.setenv("THORAXSEG_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def deepmeta_home():
    """The user's own place for checkpoints, with the published DeepMeta model in it; fetched once."""
    from thoraxseg.checkpoints import home, install
    from thoraxseg.errors import DownloadError

    try:
        install("deepmeta-mouse-mri")
    except DownloadError as error:
        pytest.skip(f"the published DeepMeta package cannot be fetched: {error}")
    return home()


@pytest.fixture
def card_json():
    """A whole card as plain data, free to be spoiled."""
    return copy.deepcopy(json.loads((CARDS / "phantom-threshold.json").read_text("utf-8")))


@pytest.fixture
def a_card(card_json, tmp_path):
    """Make a card from a whole one with changes such as `{"inference.step": 1}`."""
    from thoraxseg.checkpoints import read_card

    def make(changes=None):
        for place, value in (changes or {}).items():
            *path, last = place.split(".")
            target = card_json
            for key in path:
                target = target[key]
            target[last] = value
        path = tmp_path / "made-card.json"
        path.write_text(json.dumps(card_json), encoding="utf-8")
        return read_card(path)

    return make


@pytest.fixture
def a_geometry():
    """Make an `ijk_to_ras` along axis codes with spacing (k, j, i), turned by degrees about R, A and S."""

    def make(codes="RAS", spacing_mm=(1.0, 1.0, 1.0), degrees=(0.0, 0.0, 0.0), origin=(0.0, 0.0, 0.0)):
        x, y, z = np.radians(degrees)
        rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = rx @ ry @ rz @ directions_from_codes(codes) * np.array(spacing_mm)[::-1]
        matrix[:3, 3] = origin
        return matrix

    return make


@pytest.fixture
def a_plan():
    """Make the plan of a small nnU-Net model, with changes such as `patch_size=(8, 8)`; the network follows."""
    from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling

    def make(**changes):
        dimensions = len(changes.get("patch_size", (8, 8, 8)))
        spline = Resampling("spline", 1, 0, None)
        plan = {
            "origin": Origin.V2,
            "name": "Dataset999_Phantom",
            "configuration": "3d_fullres" if dimensions == 3 else "2d",
            "trainer": "nnUNetTrainer",
            "channels": (Channel("MRI", "zscore", False, {}),),
            "labels": {"heart": (1,), "tumor": (2,)},
            "regions_class_order": None,
            "ignore_label": None,
            "reader": "SimpleITKIO",
            "transpose_forward": (0, 1, 2),
            "spacing_mm": (1.0,) * dimensions,
            "patch_size": (8, 8, 8),
            "resample_data": Resampling("spline", 3, 0, None),
            "resample_segmentation": spline,
            "resample_probabilities": spline,
            "architecture": "plain_conv_unet",
            "previous_stage": None,
            "folds": {},
            "mirror_axes": (),
            "cleanup": (),
        } | changes
        plan.setdefault("transpose_backward", tuple(map(int, np.argsort(plan["transpose_forward"]))))
        values = {label for group in plan["labels"].values() for label in group}
        plan["architecture_arguments"] = {
            "in_channels": len(plan["channels"]) + (len(values) if plan["previous_stage"] else 0),
            "classes": len(plan["regions_class_order"] or range(len(values) + 1)),
            "dimensions": dimensions,
            "n_stages": 2,
            "features_per_stage": (4, 6),
            "kernel_sizes": ((3,) * dimensions,) * 2,
            "strides": ((1,) * dimensions, (2,) * dimensions),
            "n_conv_per_stage": (1, 1),
            "n_conv_per_stage_decoder": (1,),
            "conv_bias": True,
        } | plan.get("architecture_arguments", {})
        return NnunetPlan(**plan)

    return make


@pytest.fixture
def a_plans_card(a_card):
    """Make the card of an nnU-Net plan, with changes as for `a_card`."""
    from thoraxseg.checkpoints import plan_json, structures

    def make(plan, changes=None):
        named = {(plan.regions_class_order or [v[0] for v in plan.labels.values()])[n]: name
                 for n, name in enumerate(plan.labels)}  # fmt: skip
        labels = structures.all_different(
            {label: structures.named(name, label) for label, name in named.items()}
        )
        spacing = plan.spacing_mm
        return a_card(
            {
                "name": "nnunet",
                "labels": {str(label): structures.to_json(one) for label, one in labels.items()},
                "channels": [{"name": channel.name, "source": "image"} for channel in plan.channels],
                "architecture": {"name": plan.architecture, **plan.architecture_arguments},
                "input.orientation": "RAS" if plan.reader.endswith("WithReorient") else "ijk",
                "input.spacing_mm": [spacing[a] for a in plan.transpose_backward]
                if len(spacing) == 3
                else None,
                "input.intensity": [],
                "input.spacing_tolerance": 2.0,
                "preprocess": [],
                "inference.mode": "nnunet",
                "inference.averaging": "probabilities" if plan.origin.value == "v1" else "logits",
                "nnunet": plan_json.to_json(plan),
                "previous": "first-stage" if plan.previous_stage else None,
                "postprocess": {"regions": [], "rules": []},
                "tumors": None,
            }
            | (changes or {})
        )

    return make


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Take `cuda` for a device: tensors stay where they are, networks only remember where they were sent."""
    import torch

    move = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: self if a[:1] == ("cuda",) else move(self, *a, **k)
    )
    real = torch.nn.Module.to

    def to(self, *arguments, **kwargs):
        if arguments and arguments[0] in ("cuda", "cpu"):
            self.place = arguments[0]
            return self
        return real(self, *arguments, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture(scope="session")
def mouse_file(tmp_path_factory):
    """A small mouse MRI phantom as NRRD, 40 x 50 x 40 voxels of 0.5 mm, with three tumors."""
    from thoraxseg.io import write_scalar_nrrd
    from thoraxseg.phantoms import mouse_mri

    volume = mouse_mri(seed=1, spacing_mm=0.5, tumors=(5.0, 4.0, 3.0)).volume
    path = tmp_path_factory.mktemp("images") / "mouse.nrrd"
    write_scalar_nrrd(path, volume.array, volume.ijk_to_ras, {})
    return path


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory):
    """A folder with the stand-in checkpoint, changed to work on 0.5 mm voxels without resampling: fast."""
    from thoraxseg.checkpoints import open_checkpoint

    known = open_checkpoint("phantom-threshold")
    card = json.loads((CARDS / "phantom-threshold.json").read_text("utf-8"))
    card |= {"name": "quick", "preprocess": [], "source": {**card["source"], "kind": "local"}}
    card["input"]["spacing_mm"] = [0.5, 0.5, 0.5]
    card["inference"]["patch_size"] = [32, 32, 32]
    rules = card["postprocess"]["rules"]
    card["postprocess"]["rules"] = [rule for rule in rules if rule["name"] != "open_ball"]
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    for path in known.weights:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw one small picture instead of all: for tests that look at other files."""
    from thoraxseg import report

    monkeypatch.setattr(report, "draw", lambda *args, **kwargs: {"contours": b"png", "surfaces": b"png"})
