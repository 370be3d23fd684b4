"""The demo: a phantom that says so without network, and the real mouse with the published weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from thoraxseg.cli import main
from thoraxseg.errors import OutputError
from thoraxseg.files import sha256_file


def strict_json(text: str):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def no_network(monkeypatch):
    """Fail on any attempt to connect, or to start another program such as pip."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def offline(empty_home, no_network, tmp_path, capsys):
    """The record and the folder of `thoraxseg demo --offline` on a machine without a cache."""
    folder = tmp_path / "demo"
    assert main(["demo", "--offline", "--output", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return strict_json(out), folder


def test_offline_without_a_cache_a_phantom_takes_the_road_and_says_so(offline, empty_home):
    record, folder = offline
    page = (folder / "phantom_mouse_mri.html").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == {
        *("phantom_mouse_mri.seg.nrrd", "phantom_mouse_mri_image.nrrd", "phantom_mouse_mri_uncertainty.nrrd"),
        *("phantom_mouse_mri.html", "phantom_mouse_mri.json"),
    }
    assert record["warnings"][0].startswith("PHANTOM: this is a computed drawing of a mouse, not a scan")
    assert page.index("PHANTOM: this is a computed") < page.index("Contours</h2>")
    assert any("no animal or person was imaged" in note for note in record["notes"])
    assert record["provenance"]["checkpoint"]["name"] == "phantom-threshold"
    for name, digest in record["outputs_sha256"].items():
        assert sha256_file(folder / name) == digest
    assert not empty_home.exists()


def test_the_phantom_has_its_known_lungs_and_tumors(offline):
    from thoraxseg.phantoms import mouse_mri

    record, _ = offline
    facts = mouse_mri(seed=0).facts
    found = {row["key"]: row["volume_mm3"] for row in record["measurements"]["structures"]}
    assert found["lungs"] == pytest.approx(facts["volumes_mm3"]["lungs"], rel=0.2)
    assert found["tumors"] == pytest.approx(facts["volumes_mm3"]["tumors"], rel=0.5)


def test_the_words_of_the_offline_demo_say_phantom(empty_home, no_network, tmp_path, capsys, no_pictures):
    assert main(["demo", "--offline", "--output", str(tmp_path / "demo")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Please check: PHANTOM: this is a computed drawing of a mouse, not a scan" in out
    assert "network connection for the real mouse" in out


def test_a_damaged_cache_is_no_cache(empty_home, no_network, tmp_path, capsys, no_pictures):
    folder = empty_home / "checkpoints" / "deepmeta-mouse-mri"
    folder.mkdir(parents=True)
    (folder / "souris_8.tif").write_bytes(b"half a downlo")
    assert main(["demo", "--offline", "--output", str(tmp_path / "demo"), "--json"]) == 0
    assert strict_json(capsys.readouterr().out)["case"] == "phantom_mouse_mri"


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_fetched(
    empty_home, no_network, tmp_path
):
    from thoraxseg.demo import run_demo
    from thoraxseg.options import SegmentOptions

    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="expected a folder"):
        run_demo(tmp_path / "taken", SegmentOptions())


@pytest.mark.slow
@pytest.mark.network
def test_the_demo_contours_the_real_mouse(deepmeta_home, tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path), "--json"]) == 0
    record = strict_json(capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("souris_8.seg.nrrd", "souris_8_image.nrrd", "souris_8_uncertainty.nrrd"),
        *("souris_8.html", "souris_8.json"),
    }
    volumes = {row["key"]: row["volume_mm3"] for row in record["measurements"]["structures"]}
    assert 300 < volumes["lungs"] < 800  # a mouse
    assert record["measurements"]["tumors"]["count"] > 0
    assert any("Left and right are a guess" in warning for warning in record["warnings"])
    assert any("contrast-enhanced" in note for note in record["notes"])
    page = (tmp_path / "souris_8.html").read_text("utf-8")
    assert "Left and right are a guess" in page
    assert "sides assumed" in page or "left and right are assumed" in page


@pytest.mark.slow
@pytest.mark.network
def test_without_contrast_enhancement_the_missing_lung_is_said(deepmeta_home, tmp_path, capsys):
    assert main(["demo", "--contrast", "off", "--output", str(tmp_path), "--json"]) == 0
    record = strict_json(capsys.readouterr().out)
    lungs = record["measurements"]["structures"][0]
    assert lungs["volume_mm3"] < 50
    said = " ".join(record["warnings"])
    assert "use --contrast on" in said
    assert "Nothing was found" in said or "Not found in this image: Lungs" in said
    assert "Nothing was found" in (tmp_path / "souris_8.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.network
def test_with_a_cache_the_demo_needs_no_network(deepmeta_home, tmp_path):
    environment = {
        **os.environ,
        "PIP_NO_INDEX": "1",
        "http_proxy": "http://localhost:9",
        "https_proxy": "http://localhost:9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "thoraxseg", "demo", "--offline", "-o", str(tmp_path), "--uncertainty", "none"],
        env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "souris_8" in done.stdout
    assert "PHANTOM" not in done.stdout
