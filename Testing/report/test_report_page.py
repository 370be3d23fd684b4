"""The page: one well-formed file that needs no other, runs nothing, and shows what must be seen."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.options import SegmentOptions
from thoraxseg.phantoms import mouse_mri
from thoraxseg.pipeline import segment, write_case
from thoraxseg.report import render_page
from thoraxseg.volume import Volume

VOID = {"meta", "br", "img", "hr", "link", "input"}
EVIL = "<script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7*7 }}\x1b\x00\udcff.nrrd"


class Page(HTMLParser):
    """Tags, attributes and words of a page; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


@pytest.fixture(scope="module")
def volume():
    return mouse_mri(seed=1, spacing_mm=0.5, tumors=(5.0, 4.0)).volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def record(volume, quick_checkpoint, folder):
    return write_case(segment(volume, open_checkpoint(quick_checkpoint)), folder, "mouse", "0" * 64)


@pytest.fixture(scope="module")
def page(record, folder):
    return (folder / "mouse.html").read_text("utf-8")


def test_the_page_is_well_formed_and_declares_its_encoding(page):
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert ("meta", {"charset": "utf-8"}) in parsed.tags
    assert [tag for tag, _ in parsed.tags].count("h1") == 1
    assert all(attrs.get("alt") for tag, attrs in parsed.tags if tag == "img")


def test_the_page_needs_no_other_file_and_runs_nothing(page):
    parsed = Page(page)
    assert not {tag for tag, _ in parsed.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "a",
    }
    for tag, attrs in parsed.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                assert value.startswith("data:image/png;base64,"), (tag, name)
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|file:|@import|url\(|//[a-z]", without_pictures, re.IGNORECASE)
    policy = next(
        attrs["content"] for _, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


def test_its_pictures_are_whole_pngs(page):
    from PIL import Image

    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(found) == 3
    for text in found:
        import io

        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            image.load()
            assert min(image.size) > 300


def test_the_page_shows_the_numbers_their_units_and_where_they_came_from(page, record):
    words = Page(page).words
    for row in record["measurements"]["structures"]:
        assert f"{row['voxels']:,}" in words
    for said in ("mm³", "nat", "Research use only. Not for diagnosis", "18-connected", "below 0.4 mm³"):
        assert said in words
    assert record["input"]["sha256"] in words
    assert record["provenance"]["checkpoint"]["weights_sha256"][0] in words
    assert all(f"{name} {version}" in words for name, version in record["provenance"]["versions"].items())
    assert all(stage.replace("_", " ") in words for stage in record["timings_s"])
    assert "the patient's right on the left" in words


@pytest.mark.parametrize("place", ["case name", "file name"])
def test_text_from_outside_is_only_text(place, volume, quick_checkpoint, tmp_path):
    named = Volume(volume.array, volume.ijk_to_ras, EVIL, (f"note {EVIL}",))
    found = segment(named, open_checkpoint(quick_checkpoint), SegmentOptions(uncertainty="none"))
    record = write_case(found, tmp_path, EVIL if place == "case name" else "m", "0" * 64)
    page = (tmp_path / f"{record['case']}.html").read_text("utf-8")
    parsed = Page(page)
    assert "<script" not in page
    assert not [tag for tag, attrs in parsed.tags if tag == "script" or "onerror" in attrs]
    assert (
        "<script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7*7 }}\\x1b\\x00\\udcff.nrrd"
        in parsed.words
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)


def test_every_text_of_a_record_is_escaped(record):
    import copy

    evil = copy.deepcopy(record)
    made = evil["provenance"]
    for holder in (made["checkpoint"], made["options"], made["versions"], made, evil):
        for key, value in holder.items():
            if isinstance(value, str):
                holder[key] = "<script>x</script>"
    evil["warnings"] = evil["notes"] = ["<script>x</script>"]
    evil["measurements"]["structures"][0]["name"] = '"><script>x</script>'
    assert "<script" not in render_page(evil, {"contours": b"", "surfaces": b""})


def test_warnings_come_first_and_are_absent_when_there_are_none(record):
    pictures = {"contours": b"", "surfaces": b""}
    loud = render_page({**record, "warnings": ["Spacing is odd.", "Left is a guess."]}, pictures)
    assert loud.index("Please check") < loud.index("Spacing is odd.") < loud.index("Left is a guess.")
    assert loud.index("Left is a guess.") < loud.index("<h2>Contours")
    assert "Please check" not in render_page({**record, "warnings": []}, pictures)


def test_a_page_without_doubt_or_tumors_says_so(record):
    plain = {**record, "uncertainty": None}
    plain["measurements"] = {"structures": record["measurements"]["structures"]}
    words = Page(render_page(plain, {"contours": b"", "surfaces": b""})).words
    assert "No map of doubt was asked for" in words
    assert "connected" not in words


def test_an_assumed_orientation_is_not_shown_as_known(record):
    guessed = {**record, "input": {**record["input"], "assumed": True}}
    words = Page(render_page(guessed, {"contours": b"", "surfaces": b""})).words
    assert "assumed" in words
    assert "patient's right" not in words
    assert "patient's left" not in words


def test_the_record_says_the_range_of_doubt_for_labels_with_gaps(record):
    from thoraxseg.inference.uncertainty import entropy_of
    from thoraxseg.report import uncertainty_fields

    assert record["uncertainty"]["range"] == pytest.approx([0, np.log(3)])
    assert uncertainty_fields(entropy_of("it", 4))["thoraxseg_range"] == "0 to 1.386294"


def test_the_spread_of_folds_is_shown_as_such(record, page):
    spread = {
        "kind": "standard deviation, over the folds",
        "key": "fold_spread",
        "unit": "1",
        "range": [0.0, 0.5],
    }
    changed = {**record, "uncertainty": {**spread, "maximum_found": 0.25}}
    rows = [{**row, "mean_fold_spread": 0.125} for row in record["measurements"]["structures"]]
    changed["measurements"] = {**record["measurements"], "structures": rows}
    pictures = {"contours": b"", "surfaces": b"", "uncertainty": b""}
    words = Page(render_page(changed, pictures)).words
    assert "Standard deviation, over the folds, 0 to 0.500" in words
    assert "Mean fold spread" in words and "0.125" in words
    assert "in nat" not in words and "entropy (nat)" not in words
    assert "Mean entropy (nat)" in Page(page).words


def test_the_record_names_channels_weights_and_what_was_averaged(record):
    made = record["provenance"]
    assert [one["file"] for one in made["channels"]] == [record["input"]["name"]]
    assert made["sampling"] is None
    assert made["checkpoint"]["averaging"] == "probabilities"
    assert made["checkpoint"]["weights"] == ["phantom-threshold.safetensors"]
    assert made["checkpoint"]["assumed"] == []
    assert record["uncertainty"]["key"] == "entropy_nat"
    assert record["uncertainty"]["kind"] == "entropy of the class probabilities"
    assert 0 < record["uncertainty"]["maximum_found"] <= record["uncertainty"]["range"][1] + 1e-6
