"""Entries of published models: each is well formed, claims what was read somewhere, and says how to get it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from thoraxseg.checkpoints import About, list_cards, list_published, published
from thoraxseg.checkpoints.card import MODALITIES, SPECIES, TASKS
from thoraxseg.checkpoints.published import Published, how_to_get
from thoraxseg.errors import CheckpointError

FILES = sorted((Path(published.__file__).parent / "published_entries").glob("*.json"))
pytestmark = pytest.mark.usefixtures("empty_home")
every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """A folder of entries of its own; write into it, then list."""
    monkeypatch.setattr(published, "_ENTRIES", tmp_path)
    list_published.cache_clear()
    yield tmp_path
    list_published.cache_clear()


@pytest.fixture
def entry():
    """A whole entry as plain data, free to be spoiled."""
    return json.loads(FILES[0].read_text("utf-8"))


def test_there_are_entries_and_every_file_is_one():
    assert FILES
    assert set(list_published()) == {path.stem for path in FILES}


@every
def test_an_entry_is_called_like_its_file_and_no_card_has_its_name(path):
    assert list_published()[path.stem].name == path.stem
    assert path.stem not in list_cards()


@every
def test_an_entry_gives_addresses_over_https_only(path):
    found = list_published()[path.stem]
    address = r"https://[a-z0-9.-]+\.[a-z]+/\S+"
    assert re.fullmatch(address, found.page)
    assert not found.url or re.fullmatch(address, found.url)
    assert "http://" not in path.read_text("utf-8")


@every
def test_an_entry_says_what_it_is_in_known_words_and_where_that_was_read(path):
    found = list_published()[path.stem]
    assert (found.species in SPECIES, found.modality in MODALITIES, found.task in TASKS) == (True, True, True)
    for f in fields(Published):
        if f.name not in ("labels", "url", "size_bytes", "sha256"):
            assert getattr(found, f.name), f.name
    assert "Not found" in found.facts
    assert max(map(len, found.structures)) < 80
    if not found.sha256:
        assert "SHA-256" in found.facts or "checksum" in found.facts


@every
def test_an_entry_says_how_to_get_its_files(path):
    found = list_published()[path.stem]
    said = how_to_get(found)
    assert f"checkpoints install {found.name}" in said or f"--name {found.name}" in said
    assert bool(found.url) != (found.page in said)
    assert said.endswith(".")


@every
def test_what_an_entry_says_becomes_words_of_a_card(path):
    found = list_published()[path.stem]
    about = found.about()
    assert isinstance(about, About)
    assert (about.name, about.labels, about.license) == (found.name, found.labels, found.license)
    assert found.citation in about.citation and found.page in about.citation


def test_an_archive_of_known_size_tells_it_before_it_is_fetched():
    assert "(5.0 GB)" in how_to_get(list_published()["nnunet-v1-task006-lung"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("url", "http://example.org/a.zip", "entry.url must be an https address or empty"),
        ("url", "file:///etc/passwd", "entry.url must be an https address"),
        ("species", "cat", "entry.species must be one of mouse, human"),
        ("sha256", "abc", "entry.sha256 must be a SHA-256 or empty"),
        ("name", "../evil", "entry.name must be a plain name"),
        ("labels", {}, "entry.labels must map labels to names"),
        ("labels", {"0": "background"}, "must be a label value from 1"),
        ("labels", {"1": 5}, "entry.labels.1 must be text"),
        ("size_bytes", 0, "entry.size_bytes must be 1 or more"),
        ("surprise", 1, "unknown key 'surprise'"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_file_and_key(key, value, words, entries, entry):
    (entries / "wrong.json").write_text(json.dumps(entry | {key: value}), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        list_published()
    assert "wrong.json" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"name": "a", "name": "b"}', "[]"])
def test_an_entry_that_is_no_json_object_is_refused_by_its_file(text, entries):
    (entries / "wrong.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"wrong\.json: expected an entry of a published model"):
        list_published()


def test_a_missing_key_is_named(entries, entry):
    del entry["license"]
    (entries / "wrong.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(CheckpointError, match="key 'license' is missing"):
        list_published()
