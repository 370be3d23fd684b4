"""Files appear whole and together or not at all: errors, cancel, kill -9, a full disk; and safe names."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thoraxseg import files
from thoraxseg.errors import InputError, OutputError
from thoraxseg.files import check_output, check_writable, new_folder, publish_together, safe_name, sha256_file

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
not_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() == 0, reason="the superuser may write anywhere"
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, *names, then=None):
    """Write new files, then raise what is given."""
    for name in names:
        (folder / name).write_text("new")
    if then is not None:
        raise then


def start_python(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_digest_is_the_sha256_of_the_content(tmp_path):
    content = os.urandom((1 << 20) + 7)  # longer than one block
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_files_appear_together_when_the_block_ends(tmp_path):
    folder = tmp_path / "new" / "folder"
    with publish_together(folder) as scratch:
        (scratch / "a").write_text("1")
        (scratch / "b").write_text("2")
        assert not (folder / "a").exists()
    assert names(folder) == ["a", "b"]
    assert (folder / "a").read_text() == "1"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_after_an_error_nothing_is_left_and_old_files_are_untouched(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises((error, OutputError)), publish_together(tmp_path, marker="m") as scratch:
        write(scratch, "a", then=error)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_our_own_errors_pass_through_as_they_are(tmp_path):
    with pytest.raises(InputError, match="bad slice"), publish_together(tmp_path):
        raise InputError("bad slice")


def test_a_write_error_names_the_folder_and_a_remedy(tmp_path):
    with pytest.raises(OutputError, match=r"No space left.*Free space") as caught, publish_together(tmp_path):
        raise OSError(28, "No space left on device")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("stop", [OSError(5, "I/O error"), KeyboardInterrupt()], ids=["I/O error", "Ctrl-C"])
@pytest.mark.parametrize("at", [1, 2, 3], ids=["first rename", "second rename", "marker"])
def test_a_stop_between_two_renames_leaves_none_of_the_new_files(tmp_path, monkeypatch, at, stop):
    rename, calls = Path.replace, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == at:
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)), publish_together(tmp_path, marker="m") as scratch:
        write(scratch, "a", "m", "z")
    assert names(tmp_path) == []


def test_the_marker_goes_first_and_comes_last(tmp_path, monkeypatch):
    (tmp_path / "case.json").write_text("old")
    events, rename = [], Path.replace

    def watched(self, target):
        events.append((Path(target).name, (tmp_path / "case.json").exists()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with publish_together(tmp_path, marker="case.json") as scratch:
        write(scratch, "a", "case.json", "z")
    assert events == [("a", False), ("z", False), ("case.json", False)]
    assert (tmp_path / "case.json").read_text() == "new"


def test_files_reach_the_disk_before_they_get_their_names(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("flush"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), rename(self, to)))
    with publish_together(tmp_path, marker="m") as scratch:
        write(scratch, "a", "m")
    folder = ["flush"] if os.name == "posix" else []
    assert events == ["flush", "flush", "rename", *folder, "rename", *folder]


def test_a_folder_in_the_way_is_found_before_anything_is_renamed(tmp_path):
    (tmp_path / "z").mkdir()
    with pytest.raises(OutputError, match="z is a folder"), publish_together(tmp_path) as scratch:
        write(scratch, "a", "z")
    assert names(tmp_path) == ["z"]


def test_two_runs_into_one_folder_do_not_see_each_other(tmp_path):
    with publish_together(tmp_path) as one, publish_together(tmp_path) as two:
        assert one != two
        (one / "a").write_text("1")
        (two / "b").write_text("2")
    assert names(tmp_path) == ["a", "b"]


@posix
def test_kill_9_at_any_moment_leaves_no_part_of_a_file_and_no_marker_without_its_set(tmp_path):
    code = """
        import sys
        from thoraxseg.files import publish_together
        print("ready", flush=True)
        for n in range(10**6):
            with publish_together(sys.argv[1], marker="m") as scratch:
                for name in ("a", "b", "m"):
                    with (scratch / name).open("w") as file:
                        for _ in range(20):
                            file.write(f"{n:09d}\\n" * 100)
                            file.flush()
    """
    wait = random.Random(8)
    whole = 0
    for _ in range(12):
        process = start_python(code, tmp_path)
        process.stdout.readline()
        time.sleep(wait.uniform(0.002, 0.08))
        process.kill()
        process.communicate()
        contents = {}
        for name in {"a", "b", "m"} & set(names(tmp_path)):
            lines = (tmp_path / name).read_text().splitlines()
            assert len(lines) == 2000 and len(set(lines)) == 1, f"{name} is not whole"
            contents[name] = lines[0]
        if "m" in contents:
            whole += 1
            assert contents["a"] == contents["b"] == contents["m"]
    assert whole, "no run got as far as a marker: the test proves nothing"
    with publish_together(tmp_path) as scratch:
        (scratch / "next").write_text("")
    assert set(names(tmp_path)) <= {"a", "b", "m", "next"}, "scratch folders of killed runs are still there"


@posix
def test_the_scratch_of_a_killed_run_is_removed_by_the_next_one(tmp_path):
    code = """
        import sys, time
        from thoraxseg.files import publish_together
        with publish_together(sys.argv[1]) as scratch:
            (scratch / "a").write_text("part")
            print("ready", flush=True)
            time.sleep(60)
    """
    process = start_python(code, tmp_path)
    process.stdout.readline()
    check_writable(tmp_path)
    assert len(names(tmp_path)) == 1, "the scratch of a living run was taken away"
    process.kill()
    process.communicate()
    assert len(names(tmp_path)) == 1
    check_writable(tmp_path)
    assert names(tmp_path) == []


def test_the_scratch_of_another_machine_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files.platform, "node", lambda: "another-host")
    scratch = files.new_scratch(tmp_path)
    other = scratch.with_name(re.sub(r"-\d+-", f"-{dead_process()}-", scratch.name))
    scratch.rename(other)
    monkeypatch.undo()
    check_writable(tmp_path)
    assert names(tmp_path) == [other.name]


def test_windows_is_asked_about_a_process_without_ending_it(monkeypatch):
    asked = []
    monkeypatch.setattr(psutil, "pid_exists", lambda process: process == 7)
    with monkeypatch.context() as patch:  # no path can be made meanwhile
        patch.setattr(os, "kill", lambda *_: asked.append("it would end the process"))
        patch.setattr(os, "name", "nt")
        alive, dead = files._is_alive(7), files._is_alive(8)
    assert (alive, dead, asked) == (True, False, [])


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@posix
def test_ctrl_c_in_another_process_leaves_nothing(tmp_path):
    code = """
        import sys, time
        from thoraxseg.files import publish_together
        with publish_together(sys.argv[1]) as scratch:
            (scratch / "a").write_text("part")
            print("ready", flush=True)
            time.sleep(60)
    """
    process = start_python(code, tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert names(tmp_path) == []


@posix
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    code = """
        import resource, signal, sys
        from thoraxseg.errors import OutputError
        from thoraxseg.files import publish_together
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        try:
            with publish_together(sys.argv[1], marker="m") as scratch:
                (scratch / "a").write_text("fits")
                (scratch / "m").write_bytes(bytes(20000))
        except OutputError as error:
            print(error)
    """
    process = start_python(code, tmp_path)
    out, err = process.communicate()
    assert "writing the results failed" in out, err
    assert names(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"expected a folder that can be written.*Choose another"):
        check_writable(tmp_path / "file")


@posix
@not_root
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            check_writable(tmp_path / "results")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable(tmp_path)


def test_checking_makes_the_folder_and_leaves_it_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("empty", [True, False], ids=["empty before", "not there before"])
def test_a_new_folder_appears_whole_when_the_block_ends(tmp_path, empty):
    folder = tmp_path / "new" / "folder"
    if empty:
        folder.mkdir(parents=True)
    with new_folder(folder) as scratch:
        write(scratch, "a", "b")
        (scratch / "inside").mkdir()
        assert not folder.exists() or names(folder) == []
    assert names(folder) == ["a", "b", "inside"] and names(folder.parent) == ["folder"]
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o755, "others may read it, unlike a scratch folder"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, InputError])
def test_a_new_folder_that_fails_leaves_nothing_and_the_error_as_it_is(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "folder") as scratch:
        write(scratch, "a", then=error)
    assert names(tmp_path) == []


def test_a_new_folder_that_cannot_be_written_says_what_failed_and_what_to_do(tmp_path):
    words = r"folder: packing failed: No space left.*Nothing was left\. Free space"
    with pytest.raises(OutputError, match=words), new_folder(tmp_path / "folder", "packing") as scratch:
        write(scratch, "a", then=OSError(28, "No space left on device"))
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_and_a_file_are_no_new_folder(tmp_path):
    write(tmp_path, "a")
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(OutputError, match="expected a new or empty folder"), new_folder(folder):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


@posix
def test_what_a_killed_run_left_beside_a_new_folder_goes(tmp_path):
    left = files.new_scratch(tmp_path)
    left.rename(left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{dead_process()}-")))
    with new_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "name", ["souris_8", "m2Pc_c1_10Corr_1", "Mouse-20261121", "mouse-8.left", "8", "a" * 80]
)
def test_a_plain_name_stays_as_it_is(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        ("../../etc/passwd", "etc_passwd-"),
        ("C:\\mice\\8", "C_mice_8-"),
        (".hidden", "hidden-"),
        ("-rf", "rf-"),
        ("Müller, Anna", "M_ller_Anna-"),
        ("", "case-"),
        ("...", "case-"),
        ("con", "case_con-"),
        ("LPT1.txt", "case_LPT1.txt-"),
        ("a" * 200, "a" * 80 + "-"),
        ("mouse\n8\x00", "mouse_8-"),
    ],
)
def test_other_text_becomes_a_plain_name_with_a_hash(raw, start):
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{8}", safe_name(raw))


RESERVED = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
TEXT = (
    st.text(max_size=120) | st.text(alphabet="aA.-_ /\\con0", max_size=12) | st.sampled_from(sorted(RESERVED))
)


@given(TEXT)
@example("nul.tar.gz")
@example("a" * 79 + ". x")
@example("\ud800")
def test_a_safe_name_is_a_file_name_on_every_system(raw):
    name = safe_name(raw)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    assert len(name) <= 100 and name[-1] not in ". "
    assert name.split(".")[0].lower() not in RESERVED


@given(st.lists(TEXT, unique=True, min_size=2, max_size=8))
@example(["Mouse", "mouse", "MOUSE"])
@example(["a b", "a_b", "a/b", "a?b"])
@example(["a" * 100, "a" * 101, "a" * 80])
def test_different_names_stay_different(raws):
    assert len({safe_name(raw) for raw in raws}) == len(raws)


@posix
def test_who_publishes_waits_until_another_process_is_done(tmp_path):
    import fcntl

    code = (
        "import sys\nfrom pathlib import Path\nfrom thoraxseg.files import publish_together\n"
        "with publish_together(Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'result').write_text('whole')\n"
        "    print('written', flush=True)\n"
    )
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    run.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(0.5)
    assert not (tmp_path / "result").exists()
    os.close(other)
    assert run.wait(30) == 0
    assert (tmp_path / "result").read_text() == "whole"


def test_an_earlier_result_is_noticed_before_the_work_starts_and_no_folder_is_left(tmp_path):
    new = tmp_path / "a" / "b"
    check_output(new, ["x.json"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(OutputError, match=r"has x\.json already, and nothing is overwritten"):
        check_output(tmp_path, ["y.json", "x.json"])
    assert (tmp_path / "x.json").read_text() == "{}"
