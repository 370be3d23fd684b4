"""Weights of every kind: whole ones are read, everything else is refused, named, and never run.

Checkpoints of both nnU-Net versions are among them, with what they say about themselves.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from thoraxseg.checkpoints import weights
from thoraxseg.checkpoints.weights import is_nnunet_checkpoint, read_checkpoint_header, read_weights
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


def saved(tmp_path, content, zipped=True, name="checkpoint_final.pth"):
    path = tmp_path / name
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def v2(**changes):
    """What a trainer of nnU-Net v2 saves, numbers of numpy included."""
    content = {
        "network_weights": OrderedDict(STATE),
        "optimizer_state": {
            "state": {0: {"momentum_buffer": torch.zeros(2)}},
            "param_groups": [{"lr": 0.01}],
        },
        "grad_scaler_state": {"scale": 65536.0},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch": [0.1, 2]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {
            "configuration": "3d_fullres",
            "fold": 0,
            "plans": {"a": 1},
            "dataset_json": {"b": 2},
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    return content | changes


def v1(**changes):
    """What a trainer of nnU-Net v1 saves."""
    content = {
        "epoch": 1000,
        "state_dict": OrderedDict(STATE),
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float64(0.1)], [np.float32(0.2)], [], [0.5]),
        "best_stuff": (None, 0.5, np.float64(0.3)),
        "amp_grad_scaler": {"scale": 65536.0},
    }
    return content | changes


EVERY = [read_weights, read_checkpoint_header, is_nnunet_checkpoint]
"""All that open a file of torch."""
every = pytest.mark.parametrize("read", EVERY, ids=lambda read: read.__name__)
both = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 3},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}, "loss": 0.5},
        {"network_weights": STATE, "name": "x"},
        {"model": STATE, "args": {"lr": 0.1, "name": ["x", None]}, "scores": [np.float64(0.5)]},
        {"net": STATE, "epoch": 3},
        {"state_dict": STATE, "model": {"name": "unet", "width": 3}},
        v2(),
        v1(),
    ],
    ids=[
        *("plain", "ordered", "state_dict", "model_state_dict", "network_weights", "model", "net"),
        *("model that says how", "nnU-Net v2", "nnU-Net v1"),
    ],
)
@both
def test_weights_of_torch_are_read(tmp_path, content, zipped):
    found = read_weights(saved(tmp_path, content, zipped))
    assert same(found, STATE) and list(found) == list(STATE)


def test_a_tensor_called_model_is_one_of_the_tensors(tmp_path):
    content = {"model": torch.ones(2), "net": torch.zeros(1)}
    assert same(read_weights(saved(tmp_path, content)), content)


def test_checkpoints_written_with_numpy_1_are_read(tmp_path):
    path, other = saved(tmp_path, v2()), tmp_path / "numpy-1.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in other.read_bytes()
    assert same(read_weights(other), STATE)


@every
def test_the_allowed_names_are_four_and_forgotten_after_a_load(tmp_path, monkeypatch, read):
    before, during, load = set(torch.serialization.get_safe_globals()), set(), torch.load

    def listening(*args, **kwargs):
        assert kwargs["weights_only"] is True
        during.update(torch.serialization.get_safe_globals())
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", listening)
    read(saved(tmp_path, v2()))
    added = {one if isinstance(one, tuple) else (one, one.__name__) for one in during - before}
    assert {name for _, name in added} == {
        *("dtype", "Float64DType", "Float32DType"),
        *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    }
    assert set(torch.serialization.get_safe_globals()) == before


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


@both
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


@every
@both
@pytest.mark.parametrize("place", ["network_weights", "logging", "init_args", "_best_ema", "extra"])
def test_code_in_a_checkpoint_does_not_run_and_is_named(tmp_path, read, zipped, place):
    bait = tmp_path / "it-ran"
    path = saved(tmp_path, v2(**{place: {"x": Malicious(bait)}}), zipped)
    with pytest.raises(
        CheckpointError, match=r"checkpoint_final\.pth: torch's safe loader refused .*\.system"
    ) as caught:
        read(path)
    assert not bait.exists()
    assert "weights_only" not in str(caught.value)


@every
def test_a_whole_network_instead_of_its_tensors_is_refused(tmp_path, read):
    with pytest.raises(CheckpointError, match=r"refused this file: it wants to use \S*Linear"):
        read(saved(tmp_path, torch.nn.Linear(1, 1)))


@every
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path, read):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match=r"w\.pt: this is a TorchScript program"):
        read(tmp_path / "w.pt")


@every
def test_an_archive_that_looks_like_a_script_is_refused(tmp_path, read):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(tmp_path / "w.pt")


@every
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99, 0.999])
@both
def test_a_file_cut_short_is_refused(tmp_path, read, part, zipped):
    path = saved(tmp_path, v2(network_weights={"a": torch.zeros(1000)}), zipped)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth"):
        read(path)


def test_a_flipped_byte_in_the_weights_is_noticed(tmp_path):
    torch.save({"a": torch.full((1000,), 2.0)}, tmp_path / "w.pth")
    raw = bytearray((tmp_path / "w.pth").read_bytes())
    at = raw.index(struct.pack("<f", 2.0) * 100) + 200
    raw[at] ^= 1
    (tmp_path / "w.pth").write_bytes(raw)
    torch.load(tmp_path / "w.pth", weights_only=True)  # torch does not notice
    with pytest.raises(CheckpointError, match=r"w\.pth: the CRC of .*data/0 is wrong"):
        read_weights(tmp_path / "w.pth")


@every
def test_a_flipped_byte_in_what_says_what_the_tensors_are_is_noticed(tmp_path, read):
    path = saved(tmp_path, v2())
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"a.weight")] = ord("b")
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"the CRC of .*data\.pkl is wrong"):
        read(path)


@every
def test_an_archive_with_two_members_of_one_name_is_refused(tmp_path, read):
    torch.save(STATE, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("w/data.pkl", b"")
    with pytest.raises(CheckpointError, match="two members of one name"):
        read(tmp_path / "w.pth")


@every
@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_an_archive_that_unpacks_to_much_more_than_it_holds_is_refused(tmp_path, read, name):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}) if name != "data.pkl" else bytes(10 << 20))
        archive.writestr("w/data/0", bytes(20 << 20) if name == "data/0" else b"")
    with pytest.raises(CheckpointError, match="more content than a file can hold"):
        read(tmp_path / "w.pth")


def test_a_zip_that_is_no_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for read in (read_weights, read_checkpoint_header):
        with pytest.raises(CheckpointError, match="not a readable torch weights file, but an archive"):
            read(tmp_path / "w.pth")
    assert is_nnunet_checkpoint(tmp_path / "w.pth") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param([torch.zeros(1)], "a set of named tensors, got list", id="a list"),
        pytest.param(torch.zeros(1), "a set of named tensors, got Tensor", id="one tensor"),
        pytest.param({}, "a set of named tensors", id="nothing"),
        pytest.param({"a": torch.zeros(1), "epoch": 3}, "'epoch' is not one", id="a number among tensors"),
        pytest.param({0: torch.zeros(1)}, "'0' is not one", id="a number as name"),
        pytest.param({"epoch": 3}, "or under .*network_weights.*, but 'epoch' is not one", id="only a number"),
        pytest.param({"network_weights": {}}, "under 'network_weights', got nothing", id="nothing in it"),
        pytest.param({"network_weights": {"a": 3}}, "named tensors only, but 'a' is not one", id="a number in it"),
        pytest.param({"network_weights": {1: torch.ones(1)}}, "but '1' is not one", id="a number as name in it"),
        pytest.param({"model": {"a": 3}}, "but 'model' is not one", id="a model of numbers"),
        pytest.param({"model": {}}, "but 'model' is not one", id="a model of nothing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("read", [read_weights, read_checkpoint_header], ids=lambda read: read.__name__)
def test_content_that_is_no_set_of_named_tensors_is_refused(tmp_path, read, content, words):
    with pytest.raises(CheckpointError, match=words):
        read(saved(tmp_path, content))


ODD = {
    "sparse": (lambda: torch.ones(2, 2).to_sparse(), "'a' is sparse"),
    "sparse rows": (lambda: torch.ones(2, 2).to_sparse_csr(), "'a' is sparse"),
    "without content": (lambda: torch.zeros(2, device="meta"), "'a' is .*or without content"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "'a' is .*quantized",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "'a' is .*nested"),
    "larger than stored": (lambda: torch.ones(1).expand(1 << 40), "'a' is larger than what the file holds"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:.*(quantize|Sparse|nested).*:UserWarning")
@pytest.mark.parametrize("read", [read_weights, read_checkpoint_header], ids=lambda read: read.__name__)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "network_weights", "model"])
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain_are_refused(tmp_path, read, wrapper, kind):
    make, words = ODD[kind]
    content = {"b": torch.ones(1), "a": make()}
    path = saved(tmp_path, {wrapper: content, "epoch": 3} if wrapper else content)
    with pytest.raises(CheckpointError, match=words):
        read(path)


@pytest.mark.parametrize(
    "names", [("state_dict", "network_weights"), ("model", "net"), ("state_dict", "model")], ids=str
)
def test_two_sets_of_tensors_in_one_file_are_named_and_none_is_guessed(tmp_path, names):
    path = saved(tmp_path, dict.fromkeys(names, STATE))
    with pytest.raises(CheckpointError, match=f"holds 2 sets of tensors, '{names[0]}' and '{names[1]}'"):
        read_weights(path)


# What a checkpoint says about itself


@both
def test_the_header_says_what_the_checkpoint_is(tmp_path, zipped):
    header = read_checkpoint_header(saved(tmp_path, v2(), zipped))
    assert (header.trainer, header.configuration, header.fold) == ("nnUNetTrainer", "3d_fullres", 0)
    assert header.mirror_axes == (0, 1, 2)
    assert (header.plans, header.dataset) == ({"a": 1}, {"b": 2})
    assert header.shapes == {"a.weight": (2, 3), "a.count": ()}


def test_a_checkpoint_that_says_nothing_has_an_empty_header(tmp_path):
    header = read_checkpoint_header(saved(tmp_path, {"state_dict": {"module.a": torch.ones(1)}}))
    assert (header.trainer, header.configuration, header.mirror_axes) == (None, None, None)
    assert (header.plans, header.dataset, header.fold) == (None, None, None)
    assert header.shapes == {"a": (1,)}


def test_the_header_of_a_large_archive_is_read_without_its_tensors(tmp_path):
    path = saved(tmp_path, v2(network_weights={"a": torch.full((1000,), 2.0)}))
    raw = bytearray(path.read_bytes())
    raw[raw.index(struct.pack("<f", 2.0) * 100) + 200] ^= 1
    path.write_bytes(raw)
    assert read_checkpoint_header(path).shapes == {"a": (1000,)}
    assert is_nnunet_checkpoint(path) == "v2"
    with pytest.raises(CheckpointError, match=r"the CRC of .* is wrong"):
        read_weights(path)


@pytest.mark.parametrize("axes", [(3,), "012", (0.5,), {0: 1}, (True,)], ids=str)
def test_impossible_mirror_axes_are_refused(tmp_path, axes):
    with pytest.raises(CheckpointError, match="inference_allowed_mirroring_axes"):
        read_checkpoint_header(saved(tmp_path, v2(inference_allowed_mirroring_axes=axes)))


def doubling(levels):
    value = ["x" * 40]
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize("key", ["plans", "dataset_json", "fold", "configuration"])
def test_what_a_checkpoint_says_must_not_be_a_bomb_or_hold_tensors(tmp_path, key):
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth: it stands for more than"):
        read_checkpoint_header(saved(tmp_path, v2(init_args={key: {"a": doubling(40)}})))
    with pytest.raises(CheckpointError, match="it holds a tensor, which is not plain data"):
        read_checkpoint_header(saved(tmp_path, v2(init_args={key: [torch.ones(1)]})))


def test_safetensors_have_no_header_of_a_checkpoint(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"w\.safetensors: expected a checkpoint of torch, got a safetensors"
    ):
        read_checkpoint_header(tmp_path / "w.safetensors")


@both
def test_checkpoints_of_nnunet_are_known_by_their_content(tmp_path, zipped):
    assert is_nnunet_checkpoint(saved(tmp_path, v2(), zipped, "anything.bin")) == "v2"
    assert is_nnunet_checkpoint(saved(tmp_path, v1(), zipped, "anything.bin")) == "v1"
    short = saved(tmp_path, {"state_dict": STATE}, zipped, "m.model")
    assert is_nnunet_checkpoint(short) is None
    (tmp_path / "m.model.pkl").write_bytes(b"")
    assert is_nnunet_checkpoint(short) == "v1"


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"network_weights": STATE},
        v1(state_dict=None),
        [torch.ones(1)],
        torch.ones(1),
    ],
    ids=["plain", "of another program", "no arguments", "no weights", "a list", "a tensor"],
)
def test_weights_of_other_programs_are_not_of_nnunet(tmp_path, content):
    assert is_nnunet_checkpoint(saved(tmp_path, content, name="w.pth")) is None


@pytest.mark.parametrize(
    "raw",
    [b"", b"some text", b"<html>404", b"\x1f\x8b\x08\x00" * 10, safetensors_bytes({}), b"\x93NUMPY" * 9],
    ids=["empty", "text", "page", "gzip", "safetensors", "numpy"],
)
def test_other_files_are_not_of_nnunet(tmp_path, raw):
    (tmp_path / "w").write_bytes(raw)
    assert is_nnunet_checkpoint(tmp_path / "w") is None


def test_a_file_that_cannot_be_read_is_not_called_another_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.pth: the weights cannot be read: No such file"):
        is_nnunet_checkpoint(tmp_path / "w.pth")


# Safetensors


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
    for read in (read_checkpoint_header, is_nnunet_checkpoint):
        with suppress(CheckpointError):
            read(path)
