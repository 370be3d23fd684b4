"""Archives: honest ones come out whole; names that lead elsewhere, links, bombs and damage leave nothing behind."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thoraxseg.checkpoints import archive as archive_module
from thoraxseg.checkpoints.archive import safe_extract
from thoraxseg.errors import CheckpointError, OutputError
from thoraxseg.progress import Cancelled

CONTENT = random.Random(0).randbytes(5_000_000)
FILES = {
    "Dataset601_Mouse/nnUNetTrainer__nnUNetPlans__2d/plans.json": b"{}",
    "Dataset601_Mouse/nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth": CONTENT,
    "Dataset601_Mouse/Maus Lunge (ä).txt": b"hello",
}


@pytest.fixture
def place(tmp_path):
    """A folder with an archive's place, and all that is in it afterwards."""
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


def zipped(place, members, method=zipfile.ZIP_DEFLATED):
    path = place / "model.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def raw_name(name, attributes=0o644 << 16):
    """A member whose name is written as it is."""
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.external_attr = attributes
    return info


def left(place):
    return sorted(
        path.name for path in place.parent.rglob("*") if path.is_file() and path.name != "model.zip"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["deflated", "stored"])
def test_the_files_of_an_archive_come_out_whole(place, method):
    found = safe_extract(zipped(place, FILES.items(), method), place / "out")
    assert found == sorted(place / "out" / name for name in FILES)
    assert {path.relative_to(place / "out").as_posix(): path.read_bytes() for path in found} == FILES
    assert sorted(path.name for path in place.iterdir()) == ["model.zip", "out"]


def test_folders_of_an_archive_are_made_and_inner_archives_stay_packed(place):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a", b"b")
    found = safe_extract(zipped(place, [("empty/", b""), ("inner.zip", inner.getvalue())]), place / "out")
    assert [path.name for path in found] == ["inner.zip"]
    assert (place / "out" / "empty").is_dir()


def test_an_empty_folder_may_be_there_and_a_full_one_may_not(place):
    path = zipped(place, FILES.items())
    (place / "out").mkdir()
    assert len(safe_extract(path, place / "out")) == 3
    with pytest.raises(OutputError, match="new or empty folder"):
        safe_extract(path, place / "out")
    assert len(list((place / "out").rglob("*.*"))) == 3


def test_progress_rises_to_1_and_a_cancel_leaves_nothing(place):
    seen = []
    safe_extract(zipped(place, FILES.items()), place / "out", lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 4
    shutil.rmtree(place / "out")

    def cancel(fraction, message):
        if fraction > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        safe_extract(place / "model.zip", place / "out", cancel)
    assert [path.name for path in place.iterdir()] == ["model.zip"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "a/..",
        "/evil",
        "//host/evil",
        "C:evil",
        "C:/evil",
        "..\\evil",
        "a\\b",
        "a//b",
        "./evil",
        "a/./b",
        "a:stream",
        "evil\0.txt",
        "a\nb",
        "a\u202eb",
        "nul",
        "a/COM1.txt",
        "a./b",
        "a ",
        "x" * 300,
        "/",
        "..",
    ],
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_written(place, name):
    path = place / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", b"good")
        archive.writestr(raw_name(name), b"evil")
    with pytest.raises(CheckpointError, match=r"model\.zip: refused, since the member"):
        safe_extract(path, place / "deep" / "out")
    assert left(place) == []
    assert not (place / "deep").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(place, kind):
    path = zipped(place, [("good", b"good"), (raw_name("link", (kind | 0o777) << 16), b"/etc/passwd")])
    with pytest.raises(CheckpointError, match="'link' is a link or a device"):
        safe_extract(path, place / "out")
    assert left(place) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a/Plans.json", "a/plans.json"), ("é", "e\u0301"), ("a", "a/"), ("a", "a/b"), ("A/b", "a")],
    ids=["same", "case", "composed", "folder", "inside a file", "inside a file, case"],
)
def test_members_that_would_overwrite_one_another_are_refused(place, names):
    with pytest.raises(CheckpointError, match=r"comes twice|lies inside a file"):
        safe_extract(zipped(place, [(name, b"1") for name in names]), place / "out")
    assert left(place) == []


def patched(path, local, central):
    """Change the two headers of the first member: pairs of offset and bytes."""
    raw = bytearray(path.read_bytes())
    start = raw.rindex(b"PK\x01\x02")
    for base, changes in ((0, local), (start, central)):
        for offset, content in changes:
            raw[base + offset : base + offset + len(content)] = content
    path.write_bytes(raw)
    return path


def test_encrypted_members_are_refused(place):
    path = patched(zipped(place, [("a", b"1")]), [(6, b"\x01\x00")], [(8, b"\x01\x00")])
    with pytest.raises(CheckpointError, match="the member 'a' is encrypted"):
        safe_extract(path, place / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_packed_without_a_bound_on_memory_are_refused(place, method):
    with pytest.raises(CheckpointError, match="another method than deflate"):
        safe_extract(zipped(place, [("a", b"1" * 100)], method), place / "out")


def test_a_bomb_is_refused_before_it_is_unpacked(place):
    path = zipped(place, [("bomb", b"\0" * (30 << 20))])
    with pytest.raises(CheckpointError, match="'bomb' would unpack to more than 200 times"):
        safe_extract(path, place / "out")
    assert left(place) == []


def test_many_small_bombs_together_are_refused(place):
    path = zipped(place, [(f"bomb {n}", b"\0" * (1 << 20)) for n in range(40)])
    with pytest.raises(CheckpointError, match=r"'model\.zip' would unpack to more than 200 times"):
        safe_extract(path, place / "out")


def test_small_members_may_expand(place):
    assert len(safe_extract(zipped(place, [("log", b"\0" * (1 << 20))]), place / "out")) == 1


@pytest.mark.parametrize("promised", [1000, 1 << 19], ids=["too little", "too much"])
def test_a_bomb_that_lies_about_its_size_is_stopped(place, promised):
    path = zipped(place, [("bomb", b"\0" * (30 << 20))])
    size = struct.pack("<L", promised)
    path = patched(path, [(22, size)], [(24, size)])
    with pytest.raises(CheckpointError, match=r"model\.zip: .*'bomb'"):
        safe_extract(path, place / "out")
    assert left(place) == []
    assert [path.name for path in place.iterdir()] == ["model.zip"]


def test_a_member_that_holds_less_than_it_says_is_refused(place):
    size = struct.pack("<L", 200)
    path = patched(zipped(place, [("a", b"1" * 100)]), [(22, size)], [(24, size)])
    with pytest.raises(CheckpointError, match="'a'"):
        safe_extract(path, place / "out")
    assert left(place) == []


def test_members_that_share_their_content_are_refused(place):
    """A bomb of many members over the same bytes."""
    path = place / "model.zip"
    content = os.urandom(5000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", content)
        archive.writestr("b", content)
        archive.filelist[1].header_offset = 0
    with pytest.raises(CheckpointError, match="overlaps another"):
        safe_extract(path, place / "out")


def test_too_many_members_are_refused(place, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    assert len(safe_extract(zipped(place, [(str(n), b"") for n in range(3)]), place / "out")) == 3
    with pytest.raises(CheckpointError, match="more than 3"):
        safe_extract(zipped(place, [(str(n), b"") for n in range(4)]), place / "out2")


def test_more_members_than_nnunet_ever_writes_are_refused(place):
    with pytest.raises(CheckpointError, match="more than 10000"):
        safe_extract(zipped(place, [(str(n), b"") for n in range(10_001)], zipfile.ZIP_STORED), place / "out")


def test_a_total_above_the_limit_is_refused(place, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_TOTAL", 1000)
    with pytest.raises(CheckpointError, match="unpacks to"):
        safe_extract(zipped(place, [("a", os.urandom(600)), ("b", os.urandom(600))]), place / "out")


def test_too_little_space_is_said_before_anything_is_written(place, monkeypatch):
    usage = shutil.disk_usage(place)._replace(free=1000)
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match="Free space"):
        safe_extract(zipped(place, FILES.items()), place / "out")
    assert left(place) == []


def test_a_failing_disk_leaves_nothing(place, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_module.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        safe_extract(zipped(place, FILES.items()), place / "out")
    assert [path.name for path in place.iterdir()] == ["model.zip"]


def test_a_flipped_byte_is_found_and_nothing_is_left(place):
    path = zipped(place, FILES.items(), zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[raw.index(CONTENT[:100]) + 1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"'Dataset601.*checkpoint_final\.pth' is damaged"):
        safe_extract(path, place / "out")
    assert [path.name for path in place.iterdir()] == ["model.zip"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_cut_short_is_refused(place, part):
    path = zipped(place, FILES.items())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(CheckpointError, match=r"model\.zip"):
        safe_extract(path, place / "out")
    assert left(place) == []


def test_other_archives_are_refused(place):
    path = place / "model.zip"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(CheckpointError, match="expected a zip archive"):
        safe_extract(path, place / "out")
    path.write_bytes(b"<html>404")
    with pytest.raises(CheckpointError, match="got a web page"):
        safe_extract(path, place / "out")
    with pytest.raises(CheckpointError, match="cannot be read"):
        safe_extract(place / "none.zip", place / "out")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_changed_bytes_never_write_outside_the_folder(place, data):
    path = zipped(place, [("a/b.txt", b"hello" * 10), ("a/c", b"2")])
    raw = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.sampled_from([0, 1, 46, 47, 92, 255, *range(60, 70)]))
    path.write_bytes(raw)
    with suppress(CheckpointError):
        safe_extract(path, place / "out")
    outside = [
        p for p in place.parent.rglob("*") if p.is_file() and p != path and place / "out" not in p.parents
    ]
    assert outside == []
    shutil.rmtree(place / "out", ignore_errors=True)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_what_a_killed_unpacking_left_goes_with_the_next(place):
    path = zipped(place, FILES.items())
    code = """
        import os, signal, sys
        from pathlib import Path
        from thoraxseg.checkpoints.archive import safe_extract

        def die(fraction, message):
            if fraction > 0:
                os.kill(os.getpid(), signal.SIGKILL)

        safe_extract(Path(sys.argv[1]), Path(sys.argv[2]), die)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), path, place / "out"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(place.iterdir())) == 2, "the archive and a scratch folder"
    safe_extract(path, place / "out")
    assert sorted(one.name for one in place.iterdir()) == ["model.zip", "out"]
