"""What every test may use: a clean environment, cards made to measure, geometries, the published model."""

from __future__ import annotations

import copy
import json
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
    os.chdir(folder)
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """An empty folder as the user's place for checkpoints."""
    folder = tmp_path / "home"
    monkeypatch.setenv("THORAXSEG_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def deepmeta_home():
    """The user's own place for checkpoints, with the published DeepMeta model in it; fetched once."""
    from thoraxseg.checkpoints import home, install, list_cards
    from thoraxseg.errors import DownloadError

    try:
        install(list_cards()["deepmeta-mouse-mri"])
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
