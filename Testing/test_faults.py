"""Kills, signals and full disks: every file under a final name is whole, or there is none."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thoraxseg.cli import main
from thoraxseg.files import sha256_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")
OUTPUTS = {"mouse.seg.nrrd", "mouse_uncertainty.nrrd", "mouse.html", "mouse.json"}

# A process that has read everything once, then makes a child for each line it is sent: the child runs the
# whole command. Killing the child at a random moment then hits the run, not the two seconds of imports.
NURSERY = """
import json, os, sys, time
import torch
torch.set_num_threads(1)
from thoraxseg.cli import main
warm, *words = sys.argv[1:]
assert main([*words, "--output", warm]) == 0
print("", "ready", flush=True)
for line in sys.stdin:
    folder, seconds, signum = json.loads(line)
    child = os.fork()
    if child == 0:
        os._exit(main([*words, "--output", folder]))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signum)
    print("", "status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def visible(folder: Path) -> set[str]:
    return (
        {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if folder.exists()
        else set()
    )


def check_whole(folder: Path) -> None:
    """Fail unless every file under a final name is whole; a record vouches for all files it names."""
    import nrrd

    for path in folder.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert {*record["outputs_sha256"], path.name} == OUTPUTS
        for name, digest in record["outputs_sha256"].items():
            assert sha256_file(folder / name) == digest, f"{name} is not the one of its record"
    for path in folder.glob("*.nrrd"):
        array, _ = nrrd.read(str(path))
        assert array.size
    for path in folder.glob("*.html"):
        assert path.read_text("utf-8").rstrip().endswith("</html>")


def words_for(image: Path, checkpoint: Path) -> list[str]:
    return ["segment", str(image), "--checkpoint", str(checkpoint), "--uncertainty", "entropy"]


def start(*words, limit_bytes=None, **kwargs) -> subprocess.Popen:
    code = "import sys; from thoraxseg.cli import main; sys.exit(main(sys.argv[1:]))"
    if limit_bytes is not None:
        limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))"
        code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}; {code}"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


class Nursery:
    """Runs of the whole command in children that are born ready."""

    def __init__(self, warm: Path, words: list[str]) -> None:
        self.said = warm / "stderr.txt"
        command = [sys.executable, "-c", NURSERY, str(warm), *words]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self.wait_for(" ready")

    def wait_for(self, start: str) -> str:
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise AssertionError("the nursery ended")

    def run(self, folder: Path, seconds: float | None = None, with_signal: int = signal.SIGKILL) -> int:
        """Run into `folder`, send a signal after `seconds`, and return the exit status."""
        self.process.stdin.write(json.dumps([str(folder), seconds, int(with_signal)]) + "\n")
        self.process.stdin.flush()
        return int(self.wait_for(" status").split()[-1])


@pytest.fixture(scope="module")
def nursery(mouse_file, quick_checkpoint, tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("warm"), words_for(mouse_file, quick_checkpoint))
    yield made
    made.process.stdin.close()
    made.process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("there_before", [False, True], ids=["a new case", "a case that is run again"])
def test_kill_9_at_any_moment_leaves_only_whole_files_and_the_next_run_cleans_up(
    nursery, tmp_path, there_before
):
    began = time.monotonic()
    assert nursery.run(tmp_path / "whole") == 0
    seconds = time.monotonic() - began
    dice, killed, dirty = random.Random(20261121), 0, 0
    for n in range(60):
        if killed >= 16 and dirty:
            break
        folder = tmp_path / ("again" if there_before else f"new{n}")
        if there_before and visible(folder) != OUTPUTS:
            assert nursery.run(folder) == 0
        # Half of the moments anywhere, half near the end, where files get their names.
        moment = dice.uniform(0, 1) if n % 2 else dice.uniform(0.8, 1.05)
        killed += nursery.run(folder, moment * seconds) == -signal.SIGKILL
        if folder.exists():
            check_whole(folder)
            dirty += any(path.name.startswith(".") for path in folder.iterdir())
        if not there_before:
            if visible(folder) not in (set(), OUTPUTS):
                assert "mouse.json" not in visible(folder)
            if n % 5 == 0:
                assert nursery.run(folder) == 0
                assert {path.name for path in folder.iterdir()} == OUTPUTS
                check_whole(folder)
    assert killed >= 15
    assert dirty > 0  # else the kills missed the writing
    if there_before:
        assert nursery.run(tmp_path / "again") == 0
        assert {path.name for path in (tmp_path / "again").iterdir()} == OUTPUTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("with_signal", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_at_any_moment_ends_soon_with_its_status_and_leaves_nothing(
    nursery, tmp_path, with_signal, status
):
    assert nursery.run(tmp_path / "whole") == 0
    dice, hits = random.Random(7), 0
    for n in range(12):
        folder, began = tmp_path / str(n), time.monotonic()
        ended = nursery.run(folder, dice.uniform(0.1, 1.0), with_signal)
        assert time.monotonic() - began < 15
        if ended == 0:  # it had finished
            assert visible(folder) == OUTPUTS
            continue
        if ended in (-with_signal, 1) and not folder.exists():
            continue  # before main() listened
        hits += 1
        assert ended == status, nursery.said.read_text("utf-8")[-2000:]
        check_whole(folder)
        assert visible(folder) in (set(), OUTPUTS)
        assert not list(folder.glob(".*"))
    assert hits >= 4


@pytest.mark.parametrize(
    ("with_signal", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "cancelled")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_from_outside_ends_the_whole_program(
    with_signal, status, word, mouse_file, quick_checkpoint, tmp_path
):
    process = start(*words_for(mouse_file, quick_checkpoint), "--output", tmp_path / "out", "--verbose")
    for line in process.stderr:
        if b"read a volume" in line:
            break
    process.send_signal(with_signal)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == status
    assert err.decode().splitlines()[-1] == f"Error: {word}; nothing was left half written."
    assert b"Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("limit_bytes", [100, 2_000, 60_000, 300_000])
def test_a_disk_that_fills_up_is_said_and_leaves_nothing(limit_bytes, mouse_file, quick_checkpoint, tmp_path):
    words = [*words_for(mouse_file, quick_checkpoint), "--output", tmp_path / "out"]
    process = start(*words, limit_bytes=limit_bytes)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert out == b""
    assert err.decode().count("\n") == 1
    assert "Nothing was left under a final name" in err.decode()
    assert not (tmp_path / "out").exists()  # it was not there before


def test_a_disk_that_fills_up_keeps_an_earlier_result(mouse_file, quick_checkpoint, tmp_path):
    words = [*words_for(mouse_file, quick_checkpoint), "--output", str(tmp_path)]
    assert main(words) == 0
    before = {path.name: sha256_file(path) for path in tmp_path.iterdir()}
    process = start(*words, limit_bytes=60_000)
    process.communicate(timeout=120)
    assert process.returncode == 5
    assert {path.name: sha256_file(path) for path in tmp_path.iterdir()} == before


def test_a_small_file_system_that_is_full(mouse_file, quick_checkpoint, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        assert main([*words_for(mouse_file, quick_checkpoint), "--output", str(disk / "out")]) == 5
        assert "No space left on device" in capsys.readouterr().err
        assert visible(disk / "out") == set()
        assert shutil.disk_usage(disk).used < 20_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
def test_a_folder_without_permission_is_refused_before_the_work(
    mouse_file, quick_checkpoint, tmp_path, capsys
):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):  # root: as another user
        words = [*words_for(mouse_file, quick_checkpoint), "--output", str(locked)]
        for path in (tmp_path, *tmp_path.parents, mouse_file.parent, quick_checkpoint):
            if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
                pytest.skip("another user cannot reach the folder of the tests")
        process = start(*words, user=65534, env={**os.environ, "HOME": "/nonexistent"})
        _, err = process.communicate(timeout=120)
        assert process.returncode == 5
        assert b"expected a folder that can be written" in err
    else:
        assert main([*words_for(mouse_file, quick_checkpoint), "--output", str(locked)]) == 5
        assert "expected a folder that can be written" in capsys.readouterr().err
    assert list(locked.iterdir()) == []


def test_the_files_of_one_case_never_replace_a_folder(
    mouse_file, quick_checkpoint, tmp_path, capsys, no_pictures
):
    (tmp_path / "mouse.html").mkdir()
    assert main([*words_for(mouse_file, quick_checkpoint), "--output", str(tmp_path)]) == 5
    assert "mouse.html is a folder" in capsys.readouterr().err
    assert visible(tmp_path) == {"mouse.html"}
