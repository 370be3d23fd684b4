"""Pickles: plain data of every protocol come back equal; code, bombs and damage are refused and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import sys
import time
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thoraxseg.checkpoints import restricted_pickle
from thoraxseg.checkpoints.restricted_pickle import load_plain, read_checkpoint_header, read_nnunet_state
from thoraxseg.errors import CheckpointError

PROTOCOLS = range(6)
PLANS = {
    "num_stages": 2,
    "modalities": {0: "CT", 1: "MRI"},
    "ordered": OrderedDict([(0, False), (1, True)]),
    "shape": np.array([128, 96, 192]),
    "spacing": np.array([0.14, 0.14, 0.14], np.float32),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big endian": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "none at all": np.zeros((0, 3)),
    "single": np.float64(2.5),
    "count": np.int64(-7),
    "flag": np.bool_(True),
    "shared": [
        [1, 1],
        (2, 2.5, None),
        "ä",
        b"\x00\xff",
        b"",
        bytearray(b"xy"),
        {3, 4},
        frozenset({5}),
        1 << 40,
    ],
}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path):
    """A file that is there when code of a test has run."""
    return tmp_path / "code-has-run"


def written(tmp_path, raw):
    path = tmp_path / "plans.pkl"
    path.write_bytes(raw)
    return path


def same(found, expected):
    if isinstance(expected, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and found.dtype == expected.dtype
            and np.array_equal(found, expected)
        )
    if isinstance(expected, dict):
        return (
            type(found) is dict
            and list(found) == list(expected)
            and all(same(found[k], expected[k]) for k in found)
        )
    if isinstance(expected, (list, tuple)):
        return (
            type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
        )
    return found == expected and (isinstance(expected, np.generic) or not isinstance(found, np.generic))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_of_every_protocol_come_back_equal(tmp_path, protocol):
    assert same(load_plain(written(tmp_path, pickle.dumps(PLANS, protocol))), PLANS)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_arrays_of_numpy_1_and_2_are_read(tmp_path, protocol, module):
    raw = pickle.dumps(np.arange(6).reshape(2, 3), protocol)
    if protocol == 2:
        raw = re.sub(rb"numpy\._?core", module, raw)
    else:  # the length of the name and of the frame are written before them
        old = re.search(rb"\x8c(.)(numpy\._?core\.multiarray)", raw, re.DOTALL)
        new = module + b".multiarray"
        raw = b"\x80\x04" + raw[11:].replace(old[0], b"\x8c" + bytes([len(new)]) + new)
    assert same(load_plain(written(tmp_path, raw)), np.arange(6).reshape(2, 3))


def test_numbers_of_numpy_become_numbers_of_python(tmp_path):
    found = load_plain(written(tmp_path, pickle.dumps([np.float32(0.5), np.int64(3), np.bool_(False)])))
    assert [type(value) for value in found] == [float, int, bool]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain, st.sampled_from(list(PROTOCOLS)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_whatever_plain_data_are_written_they_are_read(tmp_path, value, protocol):
    assert same(load_plain(written(tmp_path, pickle.dumps(value, protocol))), value)


def positions(bad):
    """Data with something bad in every place that a pickle has."""
    holder = np.empty(1, object)
    holder[0] = bad
    return {
        "alone": bad,
        "in a list": [1, bad],
        "in a tuple": (1, bad),
        "in a dict": {"a": bad},
        "in an ordered dict": OrderedDict(a=bad),
        "in an array of objects": holder,
        "deep": {"plans": {"plans_per_stage": {0: [(bad,)]}}},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("place", list(positions(None)))
def test_code_in_any_place_does_not_run_and_is_named(tmp_path, marker, protocol, place):
    path = written(tmp_path, pickle.dumps(positions(Malicious(marker))[place], protocol))
    with pytest.raises(
        CheckpointError, match=r"plans\.pkl: it (names '(posix|nt)\.system', which is code|.* 'O8')"
    ):
        load_plain(path)
    assert not marker.exists()
    with suppress(Exception):  # the payload itself works
        pickle.loads(path.read_bytes())
    assert marker.exists()


def test_code_as_a_dict_key_does_not_run(tmp_path, marker):
    raw = b"\x80\x02}" + pickle.dumps(Malicious(marker), 2)[2:-1] + b"K\x01s."
    with pytest.raises(CheckpointError, match="system"):
        load_plain(written(tmp_path, raw))
    assert not marker.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"(S'touch {}'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch {}'\no.",
        b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93X\x01\x00\x00\x00a\x85}\x92.",
        b"\x80\x02\x82\x01.",
        b"Pname\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.",
        b"\x80\x02c__builtin__\ngetattr\n.",
        b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x04\x8c\x0bcollections\x8c\x18OrderedDict.__reduce_ex__\x93.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00ab.",
        b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02cbuiltins\nset\nK\x01\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        b"\x80\x02(K\x01K\x02s.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02cnumpy\nndarray\n\x85.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R.",
        b"\x80\x02(.",
    ],
    ids=[
        *(
            "INST",
            "OBJ",
            "NEWOBJ",
            "NEWOBJ_EX",
            "EXT1",
            "PERSID",
            "BINPERSID",
            "eval",
            "getattr",
            "numpy.load",
        ),
        *("attribute of an attribute", "state of a class", "state of numpy's class", "a gigabyte of zeros"),
        *("set of a number", "codec", "item of a mark", "a class", "a class in a tuple", "a type", "mark"),
    ],
)
def test_every_operation_that_could_reach_code_is_refused(tmp_path, raw):
    with pytest.raises(CheckpointError, match=r"plans\.pkl"):
        load_plain(written(tmp_path, raw))


@pytest.mark.parametrize(
    "value",
    [
        defaultdict(list),
        Fraction(1, 2),
        Path("a"),
        np.array(["a"]),
        np.array([1j]),
        np.zeros(2, "i4,f4"),
        len,
        dict,
    ],
    ids=["defaultdict", "fraction", "path", "text array", "complex array", "records", "function", "class"],
)
def test_objects_that_are_not_plain_are_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"plans\.pkl: it (names|holds)"):
        load_plain(written(tmp_path, pickle.dumps({"a": value})))


def array_raw(shape, code=b"f8", content=b"", class_name=b"ndarray"):
    shape_raw = pickle.dumps(shape, 2)[2:-1].replace(b"q\x00", b"")
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\n" + class_name + b"\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + shape_raw + b"cnumpy\ndtype\nX" + struct.pack("<I", len(code)) + code + b"K\x00K\x01\x87R"
        b"\x89B" + struct.pack("<I", len(content)) + content + b"tb."
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (array_raw((1 << 30,)), "bytes instead of"),
        (array_raw((1 << 60, 8)), "impossible shape"),
        (array_raw((-1,)), "impossible shape"),
        (array_raw((2,), content=b"12345678"), "8 bytes instead of 16"),
        (array_raw((1,), b"O8", b"12345678"), "type 'O8'"),
        (array_raw((1,), b"V8", b"12345678"), "type 'V8'"),
        (array_raw((1,), class_name=b"memmap"), r"numpy\.memmap"),
    ],
    ids=["huge", "huger", "negative", "short", "objects", "void", "other class"],
)
def test_arrays_that_lie_about_themselves_are_refused(tmp_path, raw, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_plain(written(tmp_path, raw))


def test_the_handmade_array_is_read_when_it_is_honest(tmp_path):
    assert load_plain(written(tmp_path, array_raw((1,), content=struct.pack("=d", 2.5)))).tolist() == [2.5]


def doubling(levels):
    value = ["x" * 40]
    for _ in range(levels):
        value = [value, value]
    return value


def itself():
    value = []
    value.append(value)
    return value


def nested(depth):
    raw = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    return raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (pickle.dumps(doubling(40)), "stands for more than"),
        (pickle.dumps(["y" * 1_000_000] * 2000), "stands for more than"),
        (pickle.dumps(itself()), "contains itself"),
        (nested(200), "nested more than"),
        (nested(100_000), "nested more than"),
        (pickle.dumps(1 << 400), "64 bits"),
        (b"L" + b"9" * 100_000 + b"L\n.", r"plans\.pkl"),
        (b"\x80\x02}" + b"K\x01\x85" + b"2\x86" * 60 + b"K\x01s.", "as a key"),
    ],
    ids=["doubling", "long text", "cycle", "deep", "very deep", "big number", "long number", "hash bomb"],
)
def test_bombs_are_refused_quickly(tmp_path, raw, reason):
    path = written(tmp_path, raw)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=reason):
        load_plain(path)
    assert time.monotonic() - start < 30


def test_a_file_of_too_many_operations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MAX_OPERATIONS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 operations"):
        load_plain(written(tmp_path, b"\x80\x02" + b"N0" * 600 + b"N."))


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MAX_BYTES", 1000)
    load_plain(written(tmp_path, pickle.dumps(b"a" * 900)))
    with pytest.raises(CheckpointError, match="at most"):
        load_plain(written(tmp_path, pickle.dumps(b"a" * 1000)))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><p>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git-LFS"),
        (b"PK\x03\x04rest", "damaged"),
        (b"hello", "damaged"),
    ],
    ids=["empty", "page", "lfs", "zip", "text"],
)
def test_files_that_are_no_pickles_are_named(tmp_path, raw, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_plain(written(tmp_path, raw))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pkl: the file cannot be read"):
        load_plain(tmp_path / "none.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_cut_short_anywhere_is_refused(tmp_path, protocol):
    raw = pickle.dumps(PLANS, protocol)
    for length in range(0, len(raw) - 1, 31):
        with pytest.raises(CheckpointError):
            load_plain(written(tmp_path, raw[:length]))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_changed_bytes_give_data_or_a_refusal_and_nothing_else(tmp_path, data):
    raw = bytearray(pickle.dumps(PLANS, data.draw(st.sampled_from([0, 2, 4, 5]))))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    with suppress(CheckpointError):
        load_plain(written(tmp_path, bytes(raw)))


# Checkpoints of torch


def checkpoint(**changes):
    """What a trainer of nnU-Net v2 saves, numbers of numpy included."""
    weights = OrderedDict([("a.weight", torch.arange(6.0).reshape(2, 3)), ("b.bias", torch.ones(4))])
    content = {
        "network_weights": weights,
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
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    return content | changes


def saved(tmp_path, content, zipped=True):
    path = tmp_path / "checkpoint_final.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", ["network_weights", "state_dict"], ids=["v2", "v1"])
def test_the_tensors_of_a_checkpoint_are_read(tmp_path, zipped, key):
    content = checkpoint()
    content[key] = content.pop("network_weights")
    found = read_nnunet_state(saved(tmp_path, content, zipped))
    assert list(found) == ["a.weight", "b.bias"]
    assert torch.equal(found["a.weight"], content[key]["a.weight"])


def test_checkpoints_written_with_numpy_1_are_read(tmp_path):
    path, other = saved(tmp_path, checkpoint()), tmp_path / "numpy-1.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in other.read_bytes()
    assert list(read_nnunet_state(other)) == ["a.weight", "b.bias"]


def test_the_allowed_names_are_forgotten_after_a_load(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_nnunet_state(saved(tmp_path, checkpoint()))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_the_header_says_what_the_checkpoint_is(tmp_path, zipped):
    header = read_checkpoint_header(saved(tmp_path, checkpoint(), zipped))
    assert (header.trainer, header.configuration) == ("nnUNetTrainer", "3d_fullres")
    assert header.mirror_axes == (0, 1, 2)
    assert header.plans == {"a": 1}
    assert header.shapes == {"a.weight": (2, 3), "b.bias": (4,)}


def test_a_checkpoint_that_says_nothing_has_an_empty_header(tmp_path):
    header = read_checkpoint_header(saved(tmp_path, {"state_dict": {"module.a": torch.ones(1)}}))
    assert (header.trainer, header.configuration, header.mirror_axes, header.plans) == (
        None,
        None,
        None,
        None,
    )
    assert header.shapes == {"a": (1,)}


@pytest.mark.parametrize("axes", [(3,), "012", (0.5,), {0: 1}, (True,)])
def test_impossible_mirror_axes_are_refused(tmp_path, axes):
    with pytest.raises(CheckpointError, match="inference_allowed_mirroring_axes"):
        read_checkpoint_header(saved(tmp_path, checkpoint(inference_allowed_mirroring_axes=axes)))


@pytest.mark.parametrize("read", [read_nnunet_state, read_checkpoint_header])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["network_weights", "logging", "init_args", "_best_ema", "extra"])
def test_code_in_a_checkpoint_does_not_run_and_is_named(tmp_path, marker, read, zipped, place):
    path = saved(tmp_path, checkpoint(**{place: {"x": Malicious(marker)}}), zipped)
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth: torch's safe loader refused .*system"):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize("read", [read_nnunet_state, read_checkpoint_header])
def test_a_whole_module_is_refused(tmp_path, read):
    with pytest.raises(CheckpointError, match="Linear"):
        read(saved(tmp_path, torch.nn.Linear(2, 2)))


def test_a_script_is_refused(tmp_path):
    path = tmp_path / "script.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_nnunet_state(path)


def test_a_flipped_byte_in_the_weights_is_found(tmp_path):
    path = saved(tmp_path, checkpoint())
    raw = bytearray(path.read_bytes())
    place = raw.index(torch.arange(6.0).numpy().tobytes())
    raw[place + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth: the checkpoint is damaged"):
        read_nnunet_state(path)


@pytest.mark.parametrize("read", [read_nnunet_state, read_checkpoint_header])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_cut_short_is_refused(tmp_path, read, zipped):
    path = saved(tmp_path, checkpoint(), zipped)
    raw = path.read_bytes()
    for part in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(raw[: int(len(raw) * part)])
        with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth"):
            read(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"<html>404", "web page"),
        (b"version https://git-lfs.github.com", "git-LFS"),
        (b"ab", "else"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(tmp_path, raw, reason):
    path = tmp_path / "c.pth"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=reason):
        read_nnunet_state(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3}, "network_weights"),
        ([torch.ones(1)], "got a list"),
        ({"network_weights": {}}, "network_weights"),
        ({"network_weights": {"a": 3}}, "named tensors only"),
        ({"network_weights": {1: torch.ones(1)}}, "named tensors only"),
        ({"network_weights": {"a": torch.ones(2, 2).to_sparse()}}, "sparse"),
        ({"network_weights": {"a": torch.zeros(2, device="meta")}}, "sparse"),
    ],
)
def test_checkpoints_without_plain_tensors_are_refused(tmp_path, content, reason):
    with pytest.raises(CheckpointError, match=reason):
        read_nnunet_state(saved(tmp_path, content))


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    huge = torch.ones(1).expand(1 << 40)
    with pytest.raises(CheckpointError, match="larger than what the file holds"):
        read_nnunet_state(saved(tmp_path, {"network_weights": {"a": huge}}))


def test_plans_in_a_checkpoint_that_are_a_bomb_are_refused(tmp_path):
    arguments = {"configuration": "2d", "plans": {"a": doubling(40)}}
    with pytest.raises(CheckpointError, match="stands for more than"):
        read_checkpoint_header(saved(tmp_path, checkpoint(init_args=arguments)))


def test_an_archive_of_torch_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}))
        archive.writestr("bomb/data/0", b"\0" * (20 << 20))
    with pytest.raises(CheckpointError, match="more content than a file can hold"):
        read_nnunet_state(path)


def test_importing_the_reader_does_not_import_torch():
    import subprocess

    code = "import sys, thoraxseg.checkpoints.nnunet_v1, thoraxseg.checkpoints.archive; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_payload_of_these_tests_is_dangerous(tmp_path, marker):
    pickle.load(io.BytesIO(pickle.dumps(Malicious(marker))))
    assert marker.exists()
