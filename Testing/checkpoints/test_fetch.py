"""Fetching by name with pip: from a local folder of wheels, verified, cancelled, without network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest

from thoraxseg.checkpoints import fetch, is_installed, sample_path
from thoraxseg.checkpoints.fetch import fetch_package
from thoraxseg.errors import CheckpointError, DownloadError
from thoraxseg.progress import Cancelled

pytestmark = pytest.mark.usefixtures("empty_home")
WEIGHTS, SAMPLE = b"weights" * 1000, b"sample" * 1000
WHEEL = "thoraxseg_test_model-1.0-py3-none-any.whl"


def entry(name, content):
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "member": f"pkg/{name}", "sha256": digest, "size_bytes": len(content)}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip looks into instead of the network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def wheel(index):
    """A wheel with weights and a sample in the index."""
    path = index / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model.pth", WEIGHTS)
        archive.writestr("pkg/mouse.tif", SAMPLE)
        info = "thoraxseg_test_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: thoraxseg-test-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def package_card(a_card):
    """Make a card whose files are in the wheel."""

    def make(digest, weights=WEIGHTS, member="pkg/model.pth"):
        return a_card(
            {
                "name": "test-model",
                "weights": [entry("model.pth", weights) | {"member": member}],
                "samples": [entry("mouse.tif", SAMPLE)],
                "source": {
                    "kind": "python-package", "requirement": "thoraxseg-test-model==1.0", "archive_sha256": digest
                },
            }
        )  # fmt: skip

    return make


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_install_fetches_verifies_and_reports(wheel, package_card, empty_home):
    card, seen = package_card(digest_of(wheel)), []
    assert not is_installed(card)
    folder = fetch_package(card, lambda fraction, message: seen.append(fraction))
    assert folder == empty_home / "checkpoints" / "test-model"
    assert sorted(path.name for path in folder.iterdir()) == ["model.pth", "mouse.tif"]
    assert (folder / "model.pth").read_bytes() == WEIGHTS
    assert sample_path(card, "mouse.tif").read_bytes() == SAMPLE
    assert is_installed(card)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_what_is_here_is_not_fetched_again(wheel, package_card, monkeypatch):
    card = package_card(digest_of(wheel))
    fetch_package(card)
    monkeypatch.setattr(fetch.subprocess, "Popen", None)
    fetch_package(card)


def test_a_damaged_file_is_fetched_again(wheel, package_card):
    card = package_card(digest_of(wheel))
    path = fetch_package(card) / "model.pth"
    path.write_bytes(WEIGHTS[:-1] + b"x")
    assert not is_installed(card)
    fetch_package(card)
    assert path.read_bytes() == WEIGHTS


def test_another_wheel_of_the_same_name_is_refused(wheel, package_card, empty_home):
    with pytest.raises(
        CheckpointError, match=rf"{WHEEL}: expected SHA-256 000000000000.*not the published package"
    ):
        fetch_package(package_card("0" * 64))
    assert not (empty_home / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": WEIGHTS[:-1] + b"x"}, r"pkg/model\.pth: its size or SHA-256"),
        ({"weights": WEIGHTS[:-1]}, r"pkg/model\.pth: its size or SHA-256"),
        ({"weights": WEIGHTS + b"x"}, r"pkg/model\.pth: its size or SHA-256"),
        ({"member": "pkg/other.pth"}, r"pkg/other\.pth is missing or damaged"),
    ],
    ids=["another content", "longer than the card says", "shorter than the card says", "missing"],
)
def test_a_member_that_is_not_the_cards_is_refused_and_nothing_is_installed(
    wheel, package_card, changes, words
):
    card = package_card(digest_of(wheel), **changes)
    with pytest.raises(CheckpointError, match=words):
        fetch_package(card)
    assert list(fetch.folder_of(card).iterdir()) == []


def test_a_file_that_is_no_archive_is_refused(index, package_card, monkeypatch, tmp_path):
    fake = tmp_path / "fake.whl"
    fake.write_bytes(b"no zip")
    monkeypatch.setattr(fetch, "_pip_download", lambda *arguments: fake)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        fetch_package(package_card(digest_of(fake)))


def test_without_network_the_message_names_the_package_and_the_offline_demo(index, package_card):
    with pytest.raises(DownloadError, match=r"thoraxseg-test-model==1\.0 could not be fetched.*--offline"):
        fetch_package(package_card("0" * 64))


def test_a_python_that_cannot_be_started_is_said(index, package_card, monkeypatch):
    monkeypatch.setattr(fetch.sys, "executable", "/no/such/python")
    with pytest.raises(DownloadError, match="pip cannot be started with '/no/such/python'"):
        fetch_package(package_card("0" * 64))


def test_a_card_without_a_source_says_where_files_belong(a_card, empty_home):
    card = a_card({"name": "mine", "source": {"kind": "local", "requirement": "", "archive_sha256": ""}})
    with pytest.raises(CheckpointError, match=r"files are missing in .*mine"):
        fetch_package(card)


@pytest.fixture
def slow_pip(monkeypatch):
    """A pip that never ends; returns the list of processes started."""
    started, popen = [], subprocess.Popen
    code = textwrap.dedent("import time; time.sleep(60)")

    def start(command, **arguments):
        started.append(popen([sys.executable, "-c", code], **arguments))
        return started[-1]

    monkeypatch.setattr(fetch.subprocess, "Popen", start)
    return started


@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt])
def test_cancelling_ends_pip_at_once_and_leaves_nothing(index, package_card, empty_home, slow_pip, stop):
    def cancel(fraction, message):
        if slow_pip:
            raise stop

    begun = time.monotonic()
    with pytest.raises(stop):
        fetch_package(package_card("0" * 64), cancel)
    assert time.monotonic() - begun < 5
    assert [process.returncode for process in slow_pip] != [None]
    assert not (empty_home / "checkpoints").exists()


def test_a_pip_that_never_answers_is_ended(index, package_card, slow_pip, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "_POLL_SECONDS", 0.1)
    with pytest.raises(DownloadError, match=r"gave no answer within 0\.2 s"):
        fetch_package(package_card("0" * 64))
    assert slow_pip[0].returncode is not None


def test_pip_is_asked_for_a_wheel_and_nothing_that_it_would_build(index, package_card, monkeypatch):
    asked = []

    def refuse(command, **arguments):
        asked.extend(command)
        raise Cancelled

    monkeypatch.setattr(fetch.subprocess, "Popen", refuse)
    with pytest.raises(Cancelled):
        fetch_package(package_card("0" * 64))
    assert {"--only-binary=:all:", "--no-deps", "--no-input"} <= set(asked)
    assert asked[-1] == "thoraxseg-test-model==1.0"


@pytest.mark.network
@pytest.mark.usefixtures("deepmeta_home")
def test_the_published_package_has_the_digests_of_the_card(monkeypatch, deepmeta_home):
    from thoraxseg.checkpoints import list_cards, open_checkpoint

    monkeypatch.setenv("THORAXSEG_HOME", str(deepmeta_home))
    assert is_installed(list_cards()["deepmeta-mouse-mri"])
    assert open_checkpoint("deepmeta-mouse-mri").weights[0].name == "model.pth"
