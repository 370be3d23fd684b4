"""Error maps on disk: what a kill leaves, and that a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from thoraxseg.errors import CheckpointError, InputError, OutputError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.sampling.error_maps import ErrorMaps, error_map

SHAPE = (3, 4, 5)


def made(count=3):
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(
            id=name,
            channels=rng.random((1, *SHAPE), np.float32),
            labels=rng.integers(0, 2, SHAPE).astype(np.uint8),
        )
        for name in ("mouse 1", "Mouse 1", "c/../d")[:count]
    ]


def predicting(value):
    return lambda channels: np.stack([np.full(SHAPE, 1 - value), np.full(SHAPE, value)]).astype(np.float32)


def maps_of(folder, cases, every=3):
    return ErrorMaps(folder, cases, "absolute", every)


def versions(folder):
    return sorted(path.name for path in folder.iterdir())


def test_errors_are_those_of_the_definition():
    labels = np.array([[[0, 1, 1, IGNORE]]], np.uint8)
    p = np.array([0.2, 0.7, 1.0, 0.5], np.float32).reshape(1, 1, 4)
    both = np.stack([1 - p, p])
    np.testing.assert_allclose(error_map(both, labels, "absolute").ravel(), [0.2, 0.3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(error_map(both, labels, "squared").ravel(), [0.04, 0.09, 0, 0], atol=1e-6)
    three = np.array([0.5, 0.3, 0.2], np.float32).reshape(3, 1, 1, 1)
    truth = np.ones((1, 1, 1), np.uint8)
    assert np.isclose(error_map(three, truth, "absolute"), 0.7)  # 1 - p of the true class
    assert np.isclose(error_map(three, truth, "squared"), (0.25 + 0.49 + 0.04) / 2)


def test_maps_are_constant_at_first_and_renewed_in_their_turn(tmp_path):
    cases, asked = made(), []
    maps = maps_of(tmp_path, cases)
    for epoch in range(8):
        maps.start_epoch(
            epoch, lambda channels, epoch=epoch: asked.append(epoch) or predicting(0.1)(channels)
        )
    assert asked == [3, 3, 3, 6, 6, 6]
    fresh = maps_of(tmp_path, cases)
    assert fresh.of(0) is None
    fresh.start_epoch(0, predicting(0.1))
    assert fresh.of(0) is None and not versions(tmp_path), "maps of an earlier run in the folder are gone"


def test_maps_are_memory_maps_of_each_case(tmp_path):
    cases = made()
    maps = maps_of(tmp_path, cases)
    maps.start_epoch(3, predicting(0.25))
    for number, case in enumerate(cases):  # names that differ in case only, or hold slashes, stay apart
        assert isinstance(maps.of(number), np.memmap) and maps.of(number).dtype == np.float32
        np.testing.assert_allclose(maps.of(number), np.where(case.labels == 1, 0.75, 0.25))
    assert all(path.parent == tmp_path / "epoch-000003" for path in tmp_path.rglob("*.npy"))


def test_a_resumed_run_sees_the_maps_of_the_uninterrupted_one(tmp_path):
    cases = made()
    first = maps_of(tmp_path, cases)
    for epoch in range(7):
        first.start_epoch(epoch, predicting(epoch / 10))
    resumed = maps_of(tmp_path, cases)
    resumed.start_epoch(5, predicting(0.99))  # from a state before the last maps
    np.testing.assert_allclose(resumed.of(0), np.where(cases[0].labels == 1, 0.7, 0.3))
    assert versions(tmp_path) == ["epoch-000003"], "maps of an epoch that is yet to come are made anew"
    resumed.start_epoch(6, predicting(0.6))
    np.testing.assert_allclose(resumed.of(0), np.where(cases[0].labels == 1, 0.4, 0.6))
    again = maps_of(tmp_path, cases)
    again.start_epoch(6, lambda channels: pytest.fail("whole maps are not made twice"))


def test_two_versions_are_kept(tmp_path):
    maps = maps_of(tmp_path, made(), every=2)
    for epoch in range(9):
        maps.start_epoch(epoch, predicting(0.5))
    assert versions(tmp_path) == ["epoch-000006", "epoch-000008"]


def test_a_failure_in_the_middle_leaves_the_former_maps_and_nothing_half(tmp_path):
    cases = made()
    maps = maps_of(tmp_path, cases)
    maps.start_epoch(3, predicting(0.3))
    calls = []

    def failing(channels):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predicting(0.6)(channels)

    with pytest.raises(KeyboardInterrupt):
        maps.start_epoch(6, failing)
    assert not list((tmp_path / "epoch-000006").iterdir())
    np.testing.assert_allclose(maps.of(0), np.where(cases[0].labels == 1, 0.7, 0.3))
    maps.start_epoch(6, predicting(0.6))
    np.testing.assert_allclose(maps.of(2), np.where(cases[2].labels == 1, 0.4, 0.6))


KILLED = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {here!r})
from test_sampling_error_maps import made, maps_of, predicting
maps, calls = maps_of({folder!r}, made()), []
def predict(channels):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return predicting(len(calls) / 10)(channels)
for epoch in range(9):
    maps.start_epoch(epoch, predict)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_run_that_is_killed_while_it_makes_maps_goes_on(tmp_path, request):
    script = KILLED.format(here=str(request.path.parent), folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert list((tmp_path / "epoch-000006").iterdir()), "the kill came too early to leave anything"
    cases = made()
    maps = maps_of(tmp_path, cases)
    maps.start_epoch(5, predicting(0.99))
    np.testing.assert_allclose(maps.of(0), np.where(cases[0].labels == 1, 0.9, 0.1), atol=1e-6)
    maps.start_epoch(6, predicting(0.6))
    np.testing.assert_allclose(maps.of(0), np.where(cases[0].labels == 1, 0.4, 0.6), atol=1e-6)
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "epoch-000006").iterdir())
    assert names == ["00000", "00001", "00002", "maps.json"]


def test_maps_without_their_marker_are_made_anew(tmp_path):
    """So a kill between the renaming of the maps and of the marker leaves them."""
    maps = maps_of(tmp_path, made())
    maps.start_epoch(3, predicting(0.3))
    (tmp_path / "epoch-000003" / "maps.json").unlink()
    resumed = maps_of(tmp_path, made())
    resumed.start_epoch(3, predicting(0.6))
    assert np.isclose(resumed.of(0).max(), 0.6)


def test_past_maps_that_are_missing_or_of_other_cases_stop_the_run(tmp_path):
    with pytest.raises(InputError, match="epoch 3 of this run"):
        maps_of(tmp_path, made()).start_epoch(4, predicting(0.5))
    maps_of(tmp_path, made()).start_epoch(3, predicting(0.5))
    with pytest.raises(InputError, match="of the same cases"):
        maps_of(tmp_path, made(2)).start_epoch(4, predicting(0.5))


def test_a_damaged_map_is_named(tmp_path):
    maps = maps_of(tmp_path, made())
    maps.start_epoch(3, predicting(0.5))
    next(tmp_path.rglob("00000-*.npy")).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"00000-.*expected an error map"):
        maps.of(0)


def test_a_network_that_answers_nan_stops_the_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"case mouse 1.* diverged"):
        maps_of(tmp_path, made()).start_epoch(3, predicting(np.nan))
    assert not list(tmp_path.rglob("*.npy"))


def test_a_full_disk_leaves_no_half_version(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        maps_of(tmp_path, made()).start_epoch(3, predicting(0.5))
    assert not list((tmp_path / "epoch-000003").iterdir())


def test_making_maps_reports_and_can_be_cancelled(tmp_path):
    said = []
    maps_of(tmp_path, made()).start_epoch(3, predicting(0.5), lambda *words: said.append(words))
    assert said[0] == (0.0, "Looking for errors in training images") and said[-1][0] == 1.0
