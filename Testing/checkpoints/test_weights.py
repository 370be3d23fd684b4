"""Weights of every kind: whole ones are read, everything else is refused, named, and never run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from thoraxseg.checkpoints import weights
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [STATE, OrderedDict(STATE), {"state_dict": STATE, "epoch": 3}, {"network_weights": STATE, "name": "x"}],
    ids=["plain", "ordered", "in state_dict", "in network_weights"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_of_torch_are_read(tmp_path, content, zipped):
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / "w.pth"), STATE)


def test_weights_in_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"), STATE)


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_read(tmp_path):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(text.ljust(0x80), b"\x05"))
    assert (tmp_path / "w.safetensors").read_bytes()[:1] == b"\x80"
    assert same(read_weights(tmp_path / "w.safetensors"), {"a": torch.tensor([5], dtype=torch.uint8)})


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_checked_as_one(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(TWICE.ljust(0x80), b"1"))
    with pytest.raises(CheckpointError, match="key 'a' is given twice"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"hello world, this is text", "a text file", id="text"),
        pytest.param(b'{"aaaa": {"b": 1}}', "a text file", id="JSON"),
        pytest.param(b"\n<!DOCTYPE html><html>", "a web page", id="HTML"),
        pytest.param(b"<HTML><body>404", "a web page", id="HTML in capitals"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull", id="git-LFS"
        ),
        pytest.param(b"\x1f\x8b\x08\x00" * 10, "something else", id="gzip"),
        pytest.param(b"\x89HDF\r\n\x1a\n" * 10, "something else", id="HDF5"),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\.pth: expected a weights file.*{words}"):
        read_weights(tmp_path / "w.pth")


def test_a_file_that_is_not_there_or_a_folder_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.pth: .*No such file"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap", [lambda m: m, lambda m: {"a": torch.zeros(1), "b": m}], ids=["alone", "beside a tensor"]
)
def test_code_in_a_pickle_does_not_run(tmp_path, zipped, wrap):
    bait = tmp_path / "it-ran"
    torch.save(wrap(Malicious(bait)), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"w\.pth: torch's safe loader refused.*\.system\. Nothing was run"
    ) as caught:
        read_weights(tmp_path / "w.pth")
    assert not bait.exists()
    assert "safetensors" in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_bare_pickle_does_not_run(tmp_path):
    bait = tmp_path / "it-ran"
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps(Malicious(bait)))
    with pytest.raises(CheckpointError, match=r"plans\.pkl"):
        read_weights(tmp_path / "plans.pkl")
    assert not bait.exists()


def test_a_whole_network_instead_of_its_tensors_is_refused(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="refused this file"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match=r"w\.pt: this is a TorchScript program"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short_is_refused(tmp_path, part, zipped):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    raw = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")


def test_a_flipped_byte_in_the_weights_is_noticed(tmp_path):
    torch.save({"a": torch.full((1000,), 2.0)}, tmp_path / "w.pth")
    raw = bytearray((tmp_path / "w.pth").read_bytes())
    at = raw.index(struct.pack("<f", 2.0) * 100) + 200
    raw[at] ^= 1
    (tmp_path / "w.pth").write_bytes(raw)
    torch.load(tmp_path / "w.pth", weights_only=True)  # torch does not notice
    with pytest.raises(CheckpointError, match=r"w\.pth: the CRC of .*data/0 is wrong"):
        read_weights(tmp_path / "w.pth")


def test_an_archive_with_two_members_of_one_name_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("w/data.pkl", b"")
    with pytest.raises(CheckpointError, match="two members of one name"):
        read_weights(tmp_path / "w.pth")


def test_an_archive_that_unpacks_to_much_more_than_it_holds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(10 << 20))
    with pytest.raises(CheckpointError, match="more content than a file can hold"):
        read_weights(tmp_path / "w.pth")


def test_a_zip_that_is_no_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not a readable torch weights file"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param([torch.zeros(1)], "a set of named tensors, got list", id="a list"),
        pytest.param(torch.zeros(1), "a set of named tensors, got Tensor", id="one tensor"),
        pytest.param({}, "a set of named tensors", id="nothing"),
        pytest.param({"a": torch.zeros(1), "epoch": 3}, "'epoch' is not one", id="a number among tensors"),
        pytest.param({0: torch.zeros(1)}, "'0' is not one", id="a number as name"),
        pytest.param({"a": torch.zeros(2).to_sparse()}, "'a' is sparse", id="sparse"),
    ],
)
def test_content_that_is_no_set_of_plain_tensors_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path / "w.pth")


def tensor(start, stop):
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}


TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(safetensors_bytes(TWICE, b"1"), "key 'a' is given twice", id="duplicate name"),
        pytest.param(safetensors_bytes({"a": tensor(0, 2), "b": tensor(1, 3)}, b"123"), "damaged", id="overlapping"),
        pytest.param(safetensors_bytes({"a": tensor(0, 9)}, b"123"), "damaged", id="out of range"),
        pytest.param(safetensors_bytes({"a": tensor(0, 3)}, b"12345"), "damaged", id="unused bytes"),
        pytest.param(safetensors_bytes({"a": {"dtype": "evil"}}), "damaged", id="unknown type"),
        pytest.param(safetensors_bytes(b"{" + b" " * 50), "not JSON", id="no JSON"),
        pytest.param(safetensors_bytes(b'{"a":' + b"[" * 50000), "not JSON", id="deep nesting"),
        pytest.param(struct.pack("<Q", 200) + b"{}", "promises 200 bytes", id="cut short"),
        pytest.param(struct.pack("<Q", 1 << 63) + b"{}", "promises 9223372036854775808 bytes", id="oversized"),
    ],
)  # fmt: skip
def test_a_damaged_safetensors_file_is_refused(tmp_path, content, words):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(tmp_path / "w.safetensors")
    assert "w.safetensors" in str(caught.value)


def test_a_long_header_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_SAFETENSORS_HEADER", 50)
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(b"{" + b" " * 60))
    with pytest.raises(CheckpointError, match="promises 61 bytes"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["zip", "legacy", "safetensors"]))
def test_a_file_with_random_damage_is_read_or_refused_and_nothing_else(tmp_path, data, kind):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)) | st.just(len(raw)))])
    with suppress(CheckpointError):
        assert all(isinstance(value, torch.Tensor) for value in read_weights(path).values())
