"""Pickles: plain data of every protocol come back equal; code, bombs and damage are refused and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thoraxseg.checkpoints import restricted_pickle
from thoraxseg.checkpoints.restricted_pickle import load_plain, not_plain
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


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": [1, 2.5, True, "x", b"y", (None, np.zeros(2))], "b": {3}}, ""),
        (None, ""),
        ({"a": {"b": object()}}, "it holds a object, which is not plain data"),
        ([len], "it holds a builtin_function_or_method, which is not plain data"),
        (doubling(40), "stands for more than"),
        (itself(), "contains itself"),
    ],
    ids=["plain", "nothing", "object", "function", "doubling", "cycle"],
)
def test_data_from_elsewhere_are_plain_or_the_reason_is_said(value, reason):
    found = not_plain(value)
    assert reason in found if reason else found == ""


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


@pytest.mark.parametrize("name", ["nnunet_v1", "nnunet_v2", "nnunet_folder", "weights", "archive"])
def test_importing_a_reader_does_not_import_torch(name):
    code = f"import sys, thoraxseg.checkpoints.{name}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_payload_of_these_tests_is_dangerous(tmp_path, marker):
    pickle.load(io.BytesIO(pickle.dumps(Malicious(marker))))
    assert marker.exists()
