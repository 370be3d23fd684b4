"""How much memory a run will take: what counts, what is free, and that the forecast is near the truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from thoraxseg.checkpoints import list_cards
from thoraxseg.errors import OptionError
from thoraxseg.options import Device
from thoraxseg.precheck import Level, forecast_memory, memory

ROOT = Path(__file__).resolve().parents[2]
CARD = list_cards()["phantom-threshold"]
SPACING = CARD.input.spacing_mm
CUBE = (128, 128, 128)


@pytest.fixture
def free(monkeypatch):
    """Set how much main memory and GPU memory is free."""

    def set_free(main, gpu=None):
        monkeypatch.setattr(memory, "_free_memory", lambda: main)
        monkeypatch.setattr(memory, "_free_gpu_memory", lambda: gpu)

    return set_free


@pytest.mark.parametrize(("share", "level"), [(2.0, Level.GREEN), (1.1, Level.YELLOW), (0.9, Level.RED)])
def test_a_forecast_is_red_when_more_is_needed_than_is_free(free, share, level):
    free(10**12)
    needed = forecast_memory(CUBE, CARD, "cpu", SPACING).needed_bytes
    free(int(needed * share))
    forecast = forecast_memory(CUBE, CARD, "cpu", SPACING)
    assert forecast.level is level and forecast.available_bytes == int(needed * share)
    assert "128 x 128 x 128 voxels" in forecast.sentence
    assert ("Choose a region of interest" in forecast.sentence) is (level is not Level.GREEN)


def test_free_memory_is_what_the_system_says():
    psutil = pytest.importorskip("psutil")
    forecast = forecast_memory((8, 8, 8), CARD, "cpu")
    assert 0.2 < forecast.available_bytes / psutil.virtual_memory().available < 5


def test_without_a_way_to_tell_what_is_free_the_light_is_gray(free):
    free(None)
    forecast = forecast_memory(CUBE, CARD, "cpu")
    assert forecast.level is Level.UNKNOWN and forecast.available_bytes is None and forecast.needed_bytes > 0


def test_more_voxels_classes_and_a_finer_grid_take_more(free, a_card):
    free(10**12)
    base = forecast_memory(CUBE, CARD, "cpu", SPACING).needed_bytes
    double = forecast_memory((256, 128, 128), CARD, "cpu", SPACING).needed_bytes
    assert double - memory.PYTHON_BYTES > 1.9 * (base - memory.PYTHON_BYTES)
    finer = forecast_memory(CUBE, CARD, "cpu", tuple(2 * s for s in SPACING)).needed_bytes
    assert finer - memory.PYTHON_BYTES > 5 * (base - memory.PYTHON_BYTES)
    about = {"color": [0, 0, 0], "terminology": "a~A^1^A~T^2^T~^^~r~^^~^^"}
    many = {str(n): {"key": f"organ_{n}", "name": f"Organ {n}", **about} for n in range(1, 41)}
    card = a_card({"labels": many, "tumors": None, "postprocess": {"regions": [], "rules": []}})
    organs = forecast_memory(CUBE, card, "cpu", SPACING).needed_bytes
    assert organs - base > 128**3 * 8 * 30


def test_slices_that_are_resized_count_as_they_are_seen(free, a_card):
    free(10**12)
    steps = [{"name": "resize_slices", "size_px": [128, 128]}]
    card = a_card({"preprocess": steps, "postprocess": {"regions": [], "rules": []}})
    big, same = (forecast_memory((20, n, n), card, "cpu", SPACING).needed_bytes for n in (1024, 128))
    assert big - same < 60 * 20 * 1024**2  # less than if the network saw all of it


def test_an_nnunet_is_forecast_by_its_plan(free, a_plan, a_plans_card):
    free(10**12)
    fine, coarse = (
        forecast_memory(
            (64,) * 3, a_plans_card(a_plan(spacing_mm=(s, s, s))), "cpu", (1.0, 1.0, 1.0)
        ).needed_bytes
        for s in (0.25, 1.0)
    )
    # 64 times the voxels; three classes and a channel of four bytes, twice
    assert fine - coarse > 60 * 64**3 * 32 * 0.9
    wide = a_plan(patch_size=(128, 128, 128))
    assert forecast_memory((64,) * 3, a_plans_card(wide), "cpu").needed_bytes > coarse + 128**3 * 4 * 4 * 7


def test_on_a_gpu_the_scarcer_memory_is_told(free):
    free(10**12, 10**6)
    assert "memory of the GPU" in forecast_memory(CUBE, CARD, "cuda", SPACING).sentence
    assert forecast_memory(CUBE, CARD, Device.CUDA, SPACING).level is Level.RED
    free(10**6, 10**12)
    forecast = forecast_memory(CUBE, CARD, "cuda", SPACING)
    assert forecast.level is Level.RED and "GPU" not in forecast.sentence
    for device in ("auto", "cpu"):
        free(10**12, 10**6)
        assert forecast_memory(CUBE, CARD, device, SPACING).level is Level.GREEN


def test_a_gpu_that_cannot_be_asked_does_not_hide_what_is_known(free):
    free(10**12, None)
    assert forecast_memory(CUBE, CARD, "cuda", SPACING).level is Level.UNKNOWN
    free(10**6, None)
    assert forecast_memory(CUBE, CARD, "cuda", SPACING).level is Level.RED


def test_asking_for_a_gpu_does_not_load_torch():
    code = (
        "import sys; from thoraxseg.checkpoints import list_cards; from thoraxseg.precheck import forecast_memory; "
        "forecast_memory((8, 8, 8), list_cards()['phantom-threshold'], 'cuda'); print('torch' in sys.modules)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "False"


def test_an_unknown_device_is_refused():
    with pytest.raises(OptionError, match="auto, cpu or cuda, got 'tpu'"):
        forecast_memory(CUBE, CARD, "tpu")


MEASURE = """
import sys, tempfile, threading, time
import numpy as np, psutil
from pathlib import Path
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.precheck import forecast_memory
from thoraxseg.volume import Volume, geometry_from_spacing

which, side = sys.argv[1], int(sys.argv[2])
if which == "phantom-threshold":
    checkpoint = open_checkpoint(which)
    spacing, codes = checkpoint.card.input.spacing_mm, checkpoint.card.input.orientation
else:
    from Testing.tiny_models import v2_model
    checkpoint = open_checkpoint(v2_model(Path(tempfile.mkdtemp())))
    spacing, codes = checkpoint.card.nnunet.spacing_mm, "RAS"
noise = np.random.default_rng(0).integers(0, 120, (side,) * 3).astype(np.int16)
volume = Volume(noise, geometry_from_spacing(spacing, codes))
process, peak, done = psutil.Process(), [0], []
def watch():
    while not done:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
segment(volume, checkpoint, SegmentOptions(device="cpu", mirroring="none"))
done.append(True)
watcher.join()
print(peak[0], forecast_memory(volume.shape, checkpoint.card, "cpu", spacing, 2).needed_bytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("which", "side"), [("phantom-threshold", 160), ("nnunet", 144)])
def test_the_forecast_is_within_a_third_of_what_a_run_takes(which, side):
    pytest.importorskip("psutil")
    command = [sys.executable, "-c", MEASURE, which, str(side)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured, forecast = map(int, outcome.stdout.split()[-2:])
    assert 0.75 < forecast / measured < 1.33
