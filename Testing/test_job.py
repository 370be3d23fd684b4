"""Work in a child process: the same answer, a model that stays loaded, and nothing left behind however it ends."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

import thoraxseg
from Testing.painted import NAMES, painted_checkpoint, painted_lung_tumor, painted_thorax
from thoraxseg import errors, job, worker
from thoraxseg.checkpoints import Choice, home, open_checkpoint
from thoraxseg.durations import TIMES_FILE
from thoraxseg.errors import (
    CheckpointError,
    DependencyError,
    InputError,
    OptionError,
    OutputError,
    ThoraxSegError,
)
from thoraxseg.job import Engine, Job, Request, State, default_python
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.progress import Cancelled
from thoraxseg.volume import volume_sha256
from thoraxseg.worker import MARKER

LONG = SegmentOptions(uncertainty="wang", samples=1000)
"""Work for minutes: nothing waits for its end."""
THORAX, LUNGS = NAMES["mouse-thorax"], NAMES["lung-tumor"]
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and scripts")


@pytest.fixture(scope="module", autouse=True)
def checkpoints(tmp_path_factory):
    """A home with the two painted checkpoints, and children that compute on one core."""
    folder = tmp_path_factory.mktemp("home")
    for task in NAMES:
        painted_checkpoint(folder / "checkpoints", task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THORAXSEG_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def thorax():
    return painted_thorax()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def shared(places):
    """One engine for all tests that leave it working; starting one takes seconds."""
    engine = Engine(folder=places)
    yield engine
    engine.stop()


@pytest.fixture
def engine(shared):
    """The shared engine, with nothing to do."""
    yield shared
    if shared.job is not None:
        shared.job.cancel()


@pytest.fixture
def own(tmp_path):
    """Make an engine of one's own, with a Python or a stand-in for one."""
    made = []

    def make(python=None):
        made.append(Engine(python, tmp_path / "own"))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def stand_in(tmp_path):
    """Make an executable that is called like a Python with the worker, but does what a script says.

    The script finds `say(**message)`, `requests()` and `folder`.
    """

    def make(script: str, launcher: bool = False) -> str:
        code = tmp_path / "stand_in.py"
        code.write_text(
            "import json, os, pathlib, signal, subprocess, sys, time\n"
            "folder = pathlib.Path(sys.argv[-1])\n"
            "def say(**message): print(json.dumps(message), flush=True)\n"
            "def requests(): return (json.loads(line) for line in sys.stdin)\n"
            "def job(): return next(one for one in requests() if one['do'] != 'import')\n"
            + textwrap.dedent(script),
            encoding="utf-8",
        )
        path = tmp_path / "python-stand-in"
        start = f'"{sys.executable}" "{code}" "$@"'
        path.write_text(f"#!/bin/sh\n{start if launcher else f'exec {start}'}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return make


def until(condition, seconds=30.0):
    """Wait for a condition and return whether it came."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def is_gone(number: int) -> bool:
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def started(one: Job) -> Job:
    assert until(lambda: one.poll() is State.RUNNING and one.fraction > 0), (one, one.log)
    return one


def done(one: Job):
    assert one.wait(60) is State.DONE, (one, one.error, one.log)
    return one.result()


# The answer


@pytest.mark.parametrize("task", NAMES)
def test_contours_are_the_same_as_in_this_process_bit_for_bit(engine, task):
    phantom = painted_thorax() if task == "mouse-thorax" else painted_lung_tumor()
    outcome = done(engine.segment(Request(phantom.volume, NAMES[task])))
    here = segment(phantom.volume, open_checkpoint(NAMES[task]))
    assert outcome.segmentation.labels.dtype == here.segmentation.labels.dtype
    np.testing.assert_array_equal(outcome.segmentation.labels, here.segmentation.labels)
    np.testing.assert_array_equal(outcome.segmentation.labels, phantom.truth.labels)
    np.testing.assert_array_equal(outcome.segmentation.ijk_to_ras, here.segmentation.ijk_to_ras)
    assert outcome.segmentation.structures == here.segmentation.structures
    assert outcome.segmentation.name == here.segmentation.name
    np.testing.assert_array_equal(outcome.uncertainty, here.uncertainty)
    assert outcome.quantity == {
        "key": here.quantity.key,
        "name": here.quantity.words,
        "unit": here.quantity.unit,
        "maximum": here.quantity.maximum,
    }
    assert outcome.record["measurements"] == json.loads(json.dumps(here.measurements))
    assert (outcome.warnings, outcome.notes) == (here.warnings, here.notes)
    assert outcome.record["provenance"]["checkpoint"] == json.loads(json.dumps(here.provenance["checkpoint"]))
    assert outcome.timings_s.keys() == here.provenance["timings_s"].keys()


def test_the_record_names_voxels_and_geometry_by_their_digest(engine, thorax):
    outcome = done(engine.segment(Request(thorax.volume, THORAX)))
    assert outcome.record["input"]["sha256"] == volume_sha256(thorax.volume)
    json.dumps(outcome.record, allow_nan=False)


@pytest.mark.parametrize("kind", [">i2", "<f4", "F", "view", "bool"])
def test_any_layout_in_memory_comes_through(engine, thorax, kind):
    array = thorax.volume.array
    if kind == "F":
        array = np.asfortranarray(array)
    elif kind == "view":
        array = np.repeat(array, 2, axis=2)[:, :, ::2]
    elif kind == "bool":
        array = array > 100
    else:
        array = array.astype(kind)
    volume = replace(thorax.volume, array=array)
    outcome = done(engine.segment(Request(volume, THORAX)))
    here = segment(volume, open_checkpoint(THORAX))
    np.testing.assert_array_equal(outcome.segmentation.labels, here.segmentation.labels)
    assert outcome.record["input"]["sha256"] == volume_sha256(volume)


def test_only_the_box_is_looked_at(engine, thorax):
    box = tuple((n // 4, n // 2) for n in thorax.volume.shape)
    outcome = done(engine.segment(Request(thorax.volume, THORAX, box=box)))
    here = segment(thorax.volume, open_checkpoint(THORAX), box=box)
    np.testing.assert_array_equal(outcome.segmentation.labels, here.segmentation.labels)
    assert outcome.warnings == here.warnings and outcome.record["provenance"]["box_kji"] == [
        list(e) for e in box
    ]
    with pytest.raises(OptionError, match="region of interest"):
        engine.segment(Request(thorax.volume, THORAX, box=((0, 10**6), *box[1:])))


def test_no_doubt_where_none_was_asked_for(engine, thorax):
    outcome = done(engine.segment(Request(thorax.volume, THORAX, SegmentOptions(uncertainty="none"))))
    assert outcome.uncertainty is None and outcome.quantity is None


def test_further_channels_and_names_of_any_kind_come_through(engine, thorax):
    volume = replace(thorax.volume, name="Maus \u2116 7\n\udc80 <b>").with_notes("read from \u00e4")
    outcome = done(engine.segment(Request(volume, THORAX)))
    assert outcome.segmentation.name == volume.name and "read from \u00e4" in outcome.notes
    one = engine.segment(Request(volume, THORAX, channels=(volume,)))
    assert one.wait(60) is State.FAILED and isinstance(one.error, InputError)
    assert "takes 1 channel" in str(one.error)


# A model that stays loaded


def loads(outcome) -> tuple[int, int]:
    told = outcome.record["provenance"]["child_process"]
    return told["process_id"], told["models_loaded"]


def test_the_next_job_finds_the_model_loaded(engine, thorax):
    process, before = loads(done(engine.segment(Request(thorax.volume, THORAX))))
    assert process == engine.process_id != os.getpid()
    again = done(engine.segment(Request(thorax.volume, THORAX, SegmentOptions(uncertainty="none"))))
    assert loads(again) == (process, before)
    other = done(engine.segment(Request(painted_lung_tumor().volume, LUNGS)))
    assert loads(other) == (process, before + 1)
    back = done(engine.segment(Request(thorax.volume, THORAX, SegmentOptions(device="cpu"))))
    assert loads(back) == (process, before + 2)
    once_more = done(engine.segment(Request(thorax.volume, THORAX, SegmentOptions(device="cpu"))))
    assert loads(once_more) == (process, before + 2)


def test_what_is_over_is_let_go(own, thorax):
    one = own()
    volumes, jobs = [], []
    for how in ("cancelled", "done", "done"):
        volume = replace(thorax.volume, array=thorax.volume.array.copy())
        job_ = one.segment(Request(volume, THORAX, LONG if how == "cancelled" else SegmentOptions()))
        started(job_).cancel() if how == "cancelled" else done(job_)
        volumes.append(weakref.ref(volume.array))
        jobs.append(weakref.ref(job_))
    del volume, job_
    gc.collect()
    assert [ref() is None for ref in volumes] == [True] * 3, "the next animals need the memory"
    assert [ref() is None for ref in jobs] == [True, True, False], "only the last one can still be asked"
    found = weakref.ref(one.job.result())
    one.job.forget()
    gc.collect()
    assert found() is None and one.job.state is State.DONE
    with pytest.raises(OptionError, match="was let go: run again"):
        one.job.result()


def test_a_model_that_changed_on_the_disk_is_read_again(engine, thorax, tmp_path):
    place = painted_checkpoint(tmp_path)
    first = done(engine.segment(Request(thorax.volume, str(place))))
    _, count = loads(first)
    for path in place.iterdir():
        os.utime(path)  # the same content is not loaded again
    assert loads(done(engine.segment(Request(thorax.volume, str(place)))))[1] == count
    card = json.loads((place / "card.json").read_text("utf-8"))
    card["labels"] = {"1": "spinal_cord", "2": "heart", "3": "right_lung", "4": "left_lung"}
    (place / "card.json").write_text(json.dumps(card), "utf-8")
    changed = done(engine.segment(Request(thorax.volume, str(place))))
    assert loads(changed)[1] == count + 1 and changed.segmentation.structures[1].key == "spinal_cord"
    (place / card["weights"][0]["name"]).unlink()
    one = engine.segment(Request(thorax.volume, str(place)))
    assert one.wait(60) is State.FAILED and isinstance(one.error, CheckpointError)


def test_a_model_is_loaded_before_it_is_needed(own, thorax):
    engine = own()
    warming = engine.warm(THORAX)
    one = engine.segment(Request(thorax.volume, THORAX))  # does not wait, and is not refused
    assert loads(done(one))[1] == 1
    assert warming.poll() is State.DONE and warming.result() == THORAX


def test_a_relative_path_is_meant_from_here(engine, thorax, tmp_path, monkeypatch):
    painted_checkpoint(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert done(engine.warm(THORAX)) == THORAX  # the name of the catalog wins
    (tmp_path / THORAX).rename(tmp_path / "mine")
    done(engine.segment(Request(thorax.volume, "mine")))


# Progress


def test_progress_rises_and_speaks(engine, thorax):
    one = engine.segment(Request(thorax.volume, THORAX, SegmentOptions(uncertainty="wang", samples=20)))
    seen = [(one.state, one.fraction, one.message)]
    while not one.poll().is_final:
        seen.append((one.state, one.fraction, one.message))
    done(one)
    seen.append((one.state, one.fraction, one.message))
    states = list(dict.fromkeys(state for state, _, _ in seen))
    assert states == [State.STARTING, State.RUNNING, State.DONE]
    fractions = [fraction for _, fraction, _ in seen]
    assert all(a <= b for a, b in pairwise(fractions)) and fractions[-1] == 1
    assert len({message for _, _, message in seen}) > 3


def test_words_that_come_too_soon_after_others_are_still_said():
    stream = io.BytesIO()
    voice = worker._Voice(stream, lambda: None)
    report = voice.progress("one")
    for step in range(1000):
        report(step / 1000, f"step {step}")
    assert until(lambda: b"step 999" in stream.getvalue(), 5)
    voice.say(say="done")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) < 20 and lines[-1] == {"say": "done"}


def test_the_log_tells_the_stages_and_forgets_its_beginning(engine, thorax):
    done(engine.warm(LUNGS))
    one = engine.segment(Request(thorax.volume, THORAX))
    done(one)
    assert f"INFO: {THORAX}: 1 network(s) on cpu" in one.log
    one.tell("\n".join(f"line {n}" for n in range(5000)))
    assert len(one.log) == job.MAX_LOG_LINES and one.log[-1] == "line 4999" and "left out" in one.log[0]


def test_a_job_knows_how_long_it_will_take_from_earlier_ones(engine, thorax, checkpoints):
    (checkpoints / TIMES_FILE).unlink(missing_ok=True)
    request = Request(thorax.volume, THORAX)
    first = engine.segment(request)
    assert first.expected_s is None
    done(first)
    assert first.expected_s == first.elapsed_s
    (known,) = json.loads((checkpoints / TIMES_FILE).read_text("utf-8")).values()
    twice = replace(thorax.volume, array=np.repeat(thorax.volume.array, 2, axis=0))
    rates = []
    for volume in (thorax.volume, twice):
        expected = job._expected(Request(volume, THORAX), is_warm=True)
        rates.append(expected.seconds / volume.array.size)
    assert rates == pytest.approx([known["seconds_per_voxel"]] * 2)
    cold = job._expected(request, is_warm=False)
    assert cold.seconds == pytest.approx(rates[0] * thorax.volume.array.size + known["starting_s"])
    boxed = job._expected(replace(request, box=((0, 2), (0, 3), (0, 4))), is_warm=True)
    assert boxed.seconds == pytest.approx(rates[0] * 24)
    sampled = job._expected(replace(request, options=LONG), is_warm=True)
    assert sampled.seconds is None  # another kind of work


def test_the_expected_time_leans_on_this_run_the_further_it_is():
    class Still:
        folder = Path()

    class Earlier:
        seconds = 100.0

    one = Job(Still(), None, Earlier())
    one._start -= 10
    assert one.expected_s == pytest.approx(100, abs=1)
    one.fraction = 0.5  # 10 s for a half: 20 s in all
    assert one.expected_s == pytest.approx(60, abs=1)
    one.fraction = 1.0
    assert one.expected_s == pytest.approx(10, abs=1)
    Earlier.seconds = 1.0
    one.fraction = 0.1
    assert one.expected_s >= one.elapsed_s


@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", '{"a": 1}', '{"a": {"seconds_per_voxel": NaN, "starting_s": 1}}']
)
def test_damaged_times_count_as_forgotten(thorax, empty_home, damage):
    empty_home.mkdir()
    (empty_home / TIMES_FILE).write_text(damage, "utf-8")
    expected = job._expected(Request(thorax.volume, THORAX), is_warm=False)
    assert expected.seconds is None
    expected.remember(3.0, {"load_checkpoint": 1.0, "inference": 1.5})
    (known,) = json.loads((empty_home / TIMES_FILE).read_text("utf-8")).values()
    assert known["starting_s"] == pytest.approx(1.5)
    assert [path.name for path in empty_home.iterdir()] == [TIMES_FILE]


def test_times_that_cannot_be_kept_do_not_matter(thorax, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("THORAXSEG_HOME", str(tmp_path / "file"))
    expected = job._expected(Request(thorax.volume, THORAX), is_warm=False)
    expected.remember(3.0, {"load_checkpoint": 1.0})
    assert expected.seconds is None


# Errors


def test_an_error_comes_back_as_the_same_class_with_the_same_words(engine, thorax):
    one = engine.segment(Request(thorax.volume, "painted-thoraks"))
    assert one.wait(60) is State.FAILED and type(one.error) is CheckpointError
    with pytest.raises(CheckpointError) as here:
        open_checkpoint("painted-thoraks")
    assert str(one.error) == str(here.value) == one.message and str(one.error) in one.log
    with pytest.raises(CheckpointError, match="Did you mean painted-thorax"):
        one.result()
    done(engine.segment(Request(thorax.volume, THORAX)))  # the next one works


def test_a_choice_and_a_lung_map_are_passed_on(engine, thorax):
    one = engine.segment(Request(thorax.volume, THORAX, choice=Choice("3d_fullres", ("0",))))
    assert one.wait(60) is State.FAILED and "3d_fullres" in str(one.error)
    one = engine.segment(Request(thorax.volume, THORAX, lungs=LUNGS))
    assert one.wait(60) is State.FAILED and "takes no lung map" in str(one.error)


def test_an_unknown_option_is_refused(engine, thorax):
    class Strange(SegmentOptions):
        def to_record(self):
            return {**super().to_record(), **self.more}

    for more, match in (({"device": "tpu"}, "expected one of auto"), ({"speed": "high"}, "speed")):
        options = Strange()
        object.__setattr__(options, "more", more)
        one = engine.segment(Request(thorax.volume, THORAX, options))
        assert one.wait(60) is State.FAILED and type(one.error) is OptionError
        assert match in str(one.error)


@pytest.mark.parametrize("damage", ["truncated", "gone", "another", "pickle"])
def test_a_volume_that_did_not_come_whole_is_refused(engine, thorax, monkeypatch, damage):
    real = job._write_volumes

    def write(folder, volumes):
        told = real(folder, volumes)
        path = folder / told[0]["file"]
        if damage == "truncated":
            os.truncate(path, path.stat().st_size - 1000)
        elif damage == "gone":
            path.unlink()
        elif damage == "another":
            np.save(path, np.zeros((2, 2, 2)))
        else:
            np.save(path, np.array([{}], dtype=object))
        return told

    monkeypatch.setattr(job, "_write_volumes", write)
    one = engine.segment(Request(thorax.volume, THORAX))
    assert one.wait(60) is State.FAILED and type(one.error) is InputError
    assert thorax.volume.name in str(one.error) and "Run again" in str(one.error)


def test_a_full_disk_is_said_and_leaves_nothing(engine, thorax, places, monkeypatch):
    done(engine.segment(Request(thorax.volume, THORAX)))

    def full(path, array):
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*Free space"):
        engine.segment(Request(thorax.volume, THORAX))
    monkeypatch.undo()
    assert {path.name for folder in places.iterdir() for path in folder.iterdir()} == {MARKER}
    done(engine.segment(Request(thorax.volume, THORAX)))


def test_a_result_that_cannot_be_written_is_said(engine, thorax):
    one = started(
        engine.segment(Request(thorax.volume, THORAX, SegmentOptions(uncertainty="wang", samples=30)))
    )
    shutil.rmtree(one.folder)
    assert one.wait(60) is State.FAILED and type(one.error) is OutputError
    assert "cannot be handed over" in str(one.error)


def test_one_job_at_a_time(engine, thorax):
    one = engine.segment(Request(thorax.volume, THORAX, LONG))
    for start in (
        lambda: engine.segment(Request(thorax.volume, THORAX)),
        lambda: engine.warm(LUNGS),
        lambda: engine.install("x"),
    ):
        with pytest.raises(OptionError, match="another job is running"):
            start()
    with pytest.raises(OptionError, match="not finished"):
        one.result()
    assert engine.job is one


@pytest.fixture
def in_this_process(monkeypatch):
    """Do a request of the worker here, with a pipeline that does what `work` says, and return what it said last."""
    stream = io.BytesIO()
    here = worker._Worker(stream, lambda: None)

    def ask(work):
        monkeypatch.setattr(here, "_segment", work)
        here.do({"do": "segment", "id": "x", "home": None})
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return ask


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (MemoryError(), InputError, "memory of this machine does not suffice.*region of interest"),
        (
            ImportError("No module named 'torch'", name="torch"),
            DependencyError,
            "package torch is missing.*Install",
        ),
        (
            ZeroDivisionError("by\nzero"),
            ThoraxSegError,
            r"unexpected error.*\(ZeroDivisionError: by\).*report",
        ),
        (SystemExit(3), ThoraxSegError, "SystemExit"),
        (errors.DeviceMemoryError("too little"), errors.DeviceMemoryError, "^too little$"),
    ],
)
def test_every_error_becomes_a_sentence(in_this_process, error, kind, match):
    def work(message, progress):
        raise error

    *_, last = in_this_process(work)
    assert last["say"] == "failed" and last["job"] == "x"
    with pytest.raises(kind, match=match) as raised:
        raise job._error(last["kind"], last["text"])
    assert type(raised.value) is kind and "\n" not in str(raised.value)


def test_the_traceback_of_an_unexpected_error_is_in_the_log(in_this_process):
    said = in_this_process(lambda message, progress: 1 / 0)
    (log,) = [one["text"] for one in said if one["say"] == "log"]
    assert "Traceback" in log and "ZeroDivisionError" in log


def test_a_class_of_error_that_is_not_ours_is_not_made():
    assert type(job._error("SystemExit", "x")) is ThoraxSegError
    assert type(job._error("EXIT_STATUS", "x")) is ThoraxSegError


def test_nothing_is_started_that_could_not_be_ended(own, thorax, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    engine = own()
    with pytest.raises(DependencyError, match="Install it"):
        engine.segment(Request(thorax.volume, THORAX))
    assert not engine.is_alive


def test_a_python_that_is_not_there_is_said(own, thorax, tmp_path):
    with pytest.raises(DependencyError, match=r"cannot be started.*no-python"):
        own(str(tmp_path / "no-python")).segment(Request(thorax.volume, THORAX))
    assert not any((tmp_path / "own").iterdir())


# A child that speaks otherwise


@posix
@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("(place / 'result.json').unlink()", "did not come whole"),
        ("content['job'] = 'older'; write()", "result of another job"),
        ("(place / 'labels.npy').unlink()", "did not come whole.*labels.npy"),
        ("np.save(place / 'labels.npy', np.zeros((2, 2, 2), np.uint8))", r"shape \(2, 2, 2\)"),
        ("np.save(place / 'labels.npy', labels + 9)", "stand for no structure"),
        ("os.truncate(place / 'labels.npy', 1000)", "did not come whole"),
        ("content['has_uncertainty'] = True; write()", "uncertainty.npy"),
        ("content.pop('record'); write()", "'record'"),
        ("(place / 'result.json').write_text('{')", "did not come whole"),
    ],
)
def test_a_result_that_is_not_whole_or_of_another_job_is_a_failure(own, stand_in, thorax, script, match):
    code = f"""
        import numpy as np
        one = job()
        place = pathlib.Path(one["folder"])
        labels = np.zeros(one["volumes"][0]["shape"], np.uint8)
        np.save(place / "labels.npy", labels)
        content = dict(job=one["id"], structures={{}}, name="x", has_uncertainty=False, quantity=None, record={{}},
                       warnings=[], notes=[], timings_s={{"load_checkpoint": 0}})
        def write(): (place / "result.json").write_text(json.dumps(content))
        write()
        {script}
        say(say="done", job=one["id"], answer=None)
        time.sleep(60)
    """
    one = own(stand_in(code)).segment(Request(thorax.volume, THORAX))
    assert one.wait(20) is State.FAILED, one.log
    with pytest.raises(ThoraxSegError, match=match):
        one.result()
    assert not one.folder.exists()


@posix
def test_a_word_about_another_job_is_not_for_this_one(own, stand_in, thorax):
    code = """
        one = job()
        say(say="done", job="older", answer=None)
        say(say="progress", job="older", fraction=0.9, message="old")
        say(say="progress", job=one["id"], fraction=0.5, message="new")
        say(say="progress", job=one["id"], fraction=0.2, message="lower")
        time.sleep(60)
    """
    one = own(stand_in(code)).segment(Request(thorax.volume, THORAX))
    assert until(lambda: one.poll() and one.message == "lower")
    assert one.fraction == 0.5 and not one.state.is_final


@posix
@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("sys.stderr.write('last words'); sys.stderr.flush(); os._exit(3)", "with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "by signal 11 .SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by the system.*memory.*Close other programs"),
        ("sys.stderr.write('last words'); os._exit(0)", "with status 0"),
    ],
)
def test_a_child_that_dies_says_how(own, stand_in, thorax, script, match):
    engine = own(stand_in(f"job()\n{script}"))
    one = engine.segment(Request(thorax.volume, THORAX))
    assert one.wait(20) is State.FAILED
    with pytest.raises(ThoraxSegError, match=match):
        one.result()
    assert not engine.is_alive and engine.process_id is None
    if "flush" in script:
        assert "last words" in one.log


@posix
def test_a_child_that_started_others_holding_the_pipes_is_not_waited_for(own, stand_in, thorax):
    code = """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        say(say="log", job=None, text=f"child {child.pid}")
        job()
        os._exit(1)
    """
    one = own(stand_in(code)).segment(Request(thorax.volume, THORAX))
    assert one.wait(20) is State.FAILED
    (number,) = [int(line.split()[1]) for line in one.log if line.startswith("child ")]
    assert until(lambda: is_gone(number), 5)


# The end, however it comes


TREE = """
    def start(code, **how): return subprocess.Popen([sys.executable, "-c", code], **how).pid
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    numbers = [os.getpid(), start("import time; time.sleep(600)", stdout=2), start(deaf, stdout=2),
               start(deaf, stdout=2, start_new_session=True),
               start(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}]).wait()", stdout=2)]
    say(say="hello", process_id=os.getpid())
    one = job()
    time.sleep(0.5)
    say(say="log", job=one["id"], text="tree " + " ".join(map(str, numbers)))
    say(say="started", job=one["id"])
    say(say="progress", job=one["id"], fraction=0.3, message="working")
    time.sleep(600)
"""


@posix
@pytest.mark.parametrize(
    ("how", "launcher"), [("cancel", False), ("cancel", True), ("stop", True), ("forgotten", False)]
)
def test_no_process_of_the_tree_is_left(stand_in, thorax, tmp_path, how, launcher):
    engine = Engine(stand_in(TREE, launcher), tmp_path / "own")
    one = started(engine.segment(Request(thorax.volume, THORAX)))
    numbers = [int(number) for line in one.log if line.startswith("tree ") for number in line.split()[1:]]
    numbers += [child.pid for number in numbers for child in psutil.Process(number).children(recursive=True)]
    numbers = sorted({engine.process_id, *numbers})
    assert len(numbers) == 6 + launcher and not any(map(is_gone, numbers))
    start = time.monotonic()
    if how == "cancel":
        one.cancel()
    elif how == "stop":
        engine.stop()
        engine.stop()
    else:
        del engine
        gc.collect()
    assert time.monotonic() - start < 5
    assert all(map(is_gone, numbers))
    assert one.state is State.CANCELLED and one.elapsed_s < 60 and not any((tmp_path / "own").iterdir())
    with pytest.raises(Cancelled):
        one.result()
    assert one.poll() is State.CANCELLED and one.error is None


def test_a_cancelled_job_does_not_keep_the_next_one_from_working(own, thorax):
    engine = own()
    one = started(engine.segment(Request(thorax.volume, THORAX, LONG)))
    process = engine.process_id
    one.cancel()
    assert is_gone(process) and not engine.is_alive
    outcome = done(engine.segment(Request(thorax.volume, THORAX)))
    assert loads(outcome)[0] != process
    engine.job.cancel()  # it is over: nothing happens
    assert engine.is_alive and engine.job.state is State.DONE


def test_a_child_that_is_killed_is_a_failure_and_the_next_job_works(own, thorax):
    engine = own()
    one = started(engine.segment(Request(thorax.volume, THORAX, LONG)))
    psutil.Process(engine.process_id).kill()
    assert one.wait(20) is State.FAILED
    assert "ended" in str(one.error) and not one.folder.exists()
    done(engine.segment(Request(thorax.volume, THORAX)))


PARENT = """
import sys, time
import numpy as np
from thoraxseg.job import Engine, Request
from thoraxseg.options import SegmentOptions
from thoraxseg.volume import Volume
volume = Volume(np.full((60, 60, 60), 150), np.diag([0.5, 0.5, 0.5, 1]))
engine = Engine(folder=sys.argv[1])
one = engine.segment(Request(volume, "painted-thorax", SegmentOptions(uncertainty="wang", samples=1000)))
while one.fraction < 0.01:
    one.poll()
    time.sleep(0.02)
print(engine.process_id, flush=True)
{}
"""


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_the_child_ends_with_its_parent_in_the_middle_of_work(tmp_path, how):
    code = PARENT.format("time.sleep(600)" if how == "killed" else "sys.exit(0)")
    root = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        number = int(parent.stdout.readline())
        if how == "killed":
            assert not is_gone(number) and any(tmp_path.iterdir())
            parent.kill()
        parent.wait(30)
        assert until(lambda: is_gone(number), 10)
        assert until(lambda: not any(tmp_path.iterdir()), 5)  # no image of a patient is left
    finally:
        parent.kill()
        parent.stdout.close()


def test_the_child_ends_with_a_parent_that_dies_in_the_middle_of_a_word(tmp_path):
    command = [sys.executable, "-m", "thoraxseg.worker", str(tmp_path)]
    ended = subprocess.run(command, input=b'{"do": "segm', capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0 and b"Traceback" not in ended.stderr


def test_a_folder_that_is_not_a_jobs_is_never_removed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, "-m", "thoraxseg.worker", str(tmp_path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0 and (tmp_path / "mine.txt").read_text() == "mine"


# Its surroundings


def test_prints_in_the_child_go_to_the_log_and_do_not_spoil_the_conversation(
    own, thorax, tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, sys, threading, time
            sys.stdout.write('5\\n{}\\n{"say": "done", "job"')
            sys.stdout.flush()
            def chatter():
                while True:
                    time.sleep(0.01)
                    print("printed"); print("to the real one", file=sys.__stdout__); os.write(1, b"written")
                    sys.stdout.flush()
            threading.Thread(target=chatter, daemon=True).start()
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = own().segment(Request(thorax.volume, THORAX))
    outcome = done(one)
    np.testing.assert_array_equal(outcome.segmentation.labels, thorax.truth.labels)
    for said in ("5", "{}", "printed", "to the real one", "written", '{"say": "done", "job"'):
        assert any(said in line for line in one.log), said


def test_modules_of_the_working_folder_are_not_run(own, thorax, tmp_path, monkeypatch):
    for name in ("numpy", "json", "thoraxseg", "torch"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(99)")
    monkeypatch.chdir(tmp_path)
    done(own().segment(Request(thorax.volume, THORAX)))


def test_files_on_their_way_are_for_the_owner_only_and_go_afterwards(engine, thorax, places):
    one = started(engine.segment(Request(thorax.volume, THORAX, LONG)))
    (folder,) = places.iterdir()
    assert one.folder.parent == folder
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0 == one.folder.stat().st_mode & 0o077
    one.cancel()
    assert not any(places.iterdir())


def test_nothing_heavy_is_loaded_in_the_parent():
    code = "import sys, thoraxseg.job; print([one for one in ('torch', 'scipy', 'psutil') if one in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip() == "[]"


def test_slicers_own_python_runs_the_child_inside_of_slicer(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "slicer", raising=False)
    path = tmp_path / "PythonSlicer"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert default_python() == sys.executable
    monkeypatch.setitem(sys.modules, "slicer", object())
    if os.name == "posix":
        assert default_python() == str(path)
    monkeypatch.setenv("PATH", "")
    assert default_python() == sys.executable


# Installing


def test_a_checkpoint_is_installed_beside_the_work(engine, thorax, tmp_path, empty_home):
    source = painted_checkpoint(tmp_path / "given")
    assert done(engine.install(str(source))) == THORAX
    assert (home() / "checkpoints" / THORAX / "card.json").is_file()
    done(engine.segment(Request(thorax.volume, THORAX)))
    again = engine.install(str(source))
    assert again.wait(60) is State.FAILED and "taken" in str(again.error)
    wrong = engine.install(str(source / f"{THORAX}.safetensors"), sha256="0" * 64)
    assert wrong.wait(60) is State.FAILED and type(wrong.error) is CheckpointError


def test_what_is_said_of_a_checkpoint_is_passed_on(engine, tmp_path, empty_home):
    source = painted_checkpoint(tmp_path / "given")
    about = thoraxseg.checkpoints.About(
        name="mine", title="Mine", labels={1: "heart", 2: "a", 3: "b", 4: "c"}
    )
    assert done(engine.install(str(source), about=about)) == "mine"
    card = open_checkpoint("mine").card
    assert card.title == "Mine" and card.labels[2].name == "A"
