"""Pickles -> plain data and arrays; a class or function that a file names is compared, never looked up.

Plain pickles (nnU-Net v1 plans) are read by a small machine of our own: it knows containers, text, numbers and
numpy arrays of numbers, and stops at any other name or opcode. Files of torch are read in `weights`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.errors import CheckpointError

MAX_BYTES = 64 << 20
MAX_OPERATIONS = 2_000_000
MAX_ITEMS = 5_000_000
"""Values of a whole structure, those that it shares counted each time: such a structure can be printed."""
MAX_DEPTH = 64

_NUMPY = [f"numpy.{core}.multiarray" for core in ("core", "_core")]
_BUILTINS = ("builtins", "__builtin__")
_MARK = object()


class _Refused(Exception):  # noqa: N818 - becomes a CheckpointError where the file is known
    """Why a pickle is not read."""


def load_plain(path: Path) -> Any:
    """Return the dicts, lists, tuples, sets, texts, numbers and numpy arrays in a pickle of protocol 0 to 5.

    Ordered dicts become dicts, numpy scalars Python numbers. Raises CheckpointError naming the file and
    whatever else it holds; then nothing of it has run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    if len(raw) > MAX_BYTES:
        raise CheckpointError(
            f"{path}: expected a pickle of at most {MAX_BYTES >> 20} MiB, this one is larger."
        )
    if kind := not_a_model(raw[:256]):
        raise CheckpointError(f"{path}: expected a pickle of plain data, got {kind}.")
    try:
        value = _Machine(raw).run()
        if reason := not_plain(value):
            raise _Refused(reason)
    except _Refused as reason:
        raise CheckpointError(
            f"{path}: {reason}. Nothing of it was run; expected dicts, lists, texts, numbers and arrays only. "
            "Get the file from its source again."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path}: the pickle is damaged or cut short ({type(error).__name__}). Fetch it again."
        ) from error
    return value


def not_a_model(head: bytes) -> str:
    """Return what a file is that begins with `head`, in words, when it is a usual mistake; else nothing."""
    start = head.lstrip()[:40].lower()
    if not head:
        return "an empty file; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer; fetch the file it points to with 'git lfs pull'"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, probably an error page; download the file itself"
    return ""


@dataclass(frozen=True)
class _Named:
    """A name that stands in the pickle for a class or function; never the thing itself."""

    name: str


class _Type:
    """A numpy type of numbers, while it is being put together."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|i[1248]|u[1248]|f[248]", code):
            raise _Refused(f"it holds an array of type {code!r:.40}, which is not one of plain numbers")
        self.code, self.order = code, "="

    def set_state(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, element size, alignment, flags, ...)
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _Refused("it holds an array of records, which is not one of plain numbers")
        if state[1] not in ("<", ">", "=", "|"):
            raise _Refused(f"it holds an array of unknown byte order {state[1]!r:.40}")
        self.order = "=" if state[1] == "|" else state[1]

    def dtype(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array:
    """An array, while it is being put together."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise _Refused("it holds an array in an unknown form")
        _, shape, kind, fortran, content = state
        if isinstance(content, str):  # as Python 2 wrote bytes
            content = content.encode("latin-1")
        self.values = _filled(content, kind, shape, "F" if fortran else "C")


def _filled(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """Return the array of a shape that its bytes fill exactly; nothing is allocated beyond them."""
    if not isinstance(content, (bytes, bytearray)) or not isinstance(kind, _Type) or order not in ("C", "F"):
        raise _Refused("it holds an array of objects, which is not one of plain numbers")
    shape = shape if isinstance(shape, tuple) else (shape,)
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise _Refused(f"it holds an array of impossible shape {shape!r:.80}")
    wanted = kind.dtype().itemsize
    for n in shape:
        wanted *= n
    if wanted != len(content):
        raise _Refused(
            f"it holds an array of shape {shape!r:.80} with {len(content)} bytes instead of {wanted}"
        )
    return np.frombuffer(bytes(content), kind.dtype()).reshape(shape, order=order)


def _scalar(kind: Any, content: Any = b"") -> Any:
    if isinstance(content, str):
        content = content.encode("latin-1")
    return _filled(content, kind, (), "C").item()


def _empty_array(cls: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(cls, _Named) or cls.name != "numpy ndarray":
        raise _Refused("it builds an array of another class than numpy's")
    return _Array()


def _type(code: Any, *flags: Any) -> _Type:
    return _Type(code)


def _ordered(pairs: Any = ()) -> dict:
    return _with({}, [part for pair in pairs for part in _pair(pair)])


def _pair(pair: Any) -> Any:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise _Refused("it builds a dict from something else than pairs")
    return pair


def _set(items: Any = ()) -> set:
    return set(map(_key, items)) if isinstance(items, (list, tuple, set)) else _refuse("a set of no list")


def _frozen(items: Any = ()) -> frozenset:
    return frozenset(_set(items))


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    # Protocol 2 writes bytes as text and a call of this codec.
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise _Refused("it calls a codec")
    return text.encode("latin-1")


def _bytes(content: Any = b"", codec: Any = "latin1") -> bytes:
    if isinstance(content, str):
        return _encode(content, codec)
    return bytes(content) if isinstance(content, (bytes, bytearray)) else _refuse("bytes of no text")


def _complex(real: Any, imaginary: Any) -> complex:
    return (
        complex(real, imaginary) if {type(real), type(imaginary)} == {float} else _refuse("a complex number")
    )


def _refuse(what: str) -> Any:
    raise _Refused(f"it builds {what}")


_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), np.ndarray)


def not_plain(value: Any) -> str:
    """Return why a structure is not plain data of a bounded size, in words; nothing when it is.

    Plain are containers, texts, numbers and arrays. Pickles share parts: a few hundred bytes can contain
    themselves, or stand for more values than any machine can print.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(item: Any, depth: int) -> int:
        if isinstance(item, Mapping):
            parts = [part for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple, set, frozenset)):
            parts = list(item)
        elif isinstance(item, _LEAVES):
            return 1 + (len(item) // 16 if isinstance(item, (str, bytes, bytearray)) else 0)
        else:
            raise _Refused(f"it holds a {type(item).__name__.strip('_').lower()}, which is not plain data")
        if id(item) in sizes:
            return sizes[id(item)]
        if depth > MAX_DEPTH or id(item) in above:
            raise _Refused(f"it contains itself or is nested more than {MAX_DEPTH} deep")
        above.add(id(item))
        total = 1 + sum(size(part, depth + 1) for part in parts)
        above.remove(id(item))
        if total > MAX_ITEMS:
            raise _Refused(f"it stands for more than {MAX_ITEMS} values")
        sizes[id(item)] = total
        return total

    try:
        size(value, 0)
    except _Refused as reason:
        return str(reason)
    return ""


_KNOWN: dict[str, Callable[..., Any] | None] = {
    "collections OrderedDict": _ordered,
    "numpy dtype": _type,
    "numpy ndarray": None,
    "_codecs encode": _encode,
    **{f"{module} _reconstruct": _empty_array for module in _NUMPY},
    **{f"{module} scalar": _scalar for module in _NUMPY},
    "numpy.core.numeric _frombuffer": _filled,
    "numpy._core.numeric _frombuffer": _filled,
    **{f"{module} set": _set for module in _BUILTINS},
    **{f"{module} frozenset": _frozen for module in _BUILTINS},
    **{f"{module} bytes": _bytes for module in _BUILTINS},
    **{f"{module} bytearray": _bytes for module in _BUILTINS},
    **{f"{module} complex": _complex for module in _BUILTINS},
}
"""The only names that mean something here, and our own functions for them; nothing is ever imported."""


def _key(key: Any) -> Any:
    """Return a dict key, if it is flat: hashing shared tuples inside tuples could take forever."""
    flat = key if isinstance(key, tuple) and len(key) <= 64 else (key,)
    if not all(part is None or isinstance(part, (str, bytes, int, float)) for part in flat):
        raise _Refused(f"it uses a {type(key).__name__} as a key")
    return key


def _with(target: Any, parts: list) -> Any:
    if type(target) is not dict or len(parts) % 2:
        raise _Refused("it sets items of something else than a dict")
    for key, value in zip(parts[::2], parts[1::2], strict=True):
        target[_key(key)] = _done(value)
    return target


def _done(value: Any) -> Any:
    """Return a value as it goes into a container: arrays whole, no names or half-built things."""
    if isinstance(value, _Array):
        if value.values is None:
            raise _Refused("it holds an array without content")
        return value.values
    if isinstance(value, _Named):
        raise _Refused(f"it names {_shown(value.name)}, which is code")
    if value is _MARK:
        raise _Refused("its marks are out of order")
    return value


def _shown(name: str) -> str:
    return repr(".".join(name.split(" ", 1)))[:120]


class _Machine:
    """The opcodes of plain data, worked through one by one."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.stack, self.memo = raw, [], {}

    def run(self) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(self.raw)):
            if number > MAX_OPERATIONS:
                raise _Refused(f"it has more than {MAX_OPERATIONS} operations")
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        value = _done(self.stack.pop())
        if self.stack:
            raise _Refused("it ends with something unfinished")
        return value

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            if isinstance(argument, int) and not -(1 << 63) <= argument < 1 << 64:
                raise _Refused("it holds a whole number of more than 64 bits")
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("POP", "DUP"):
            stack.append(stack[-1]) if name == "DUP" else stack.pop()
        elif name in _GATHERED:
            stack.append(_GATHERED[name](self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            parts = tuple(map(self._inside, stack[-count:]))
            if len(parts) != count:
                raise _Refused("its stack is too short")
            stack[-count:] = [parts]
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("APPEND", "APPENDS"):
            parts = [stack.pop()] if name == "APPEND" else self._since_mark()
            if type(stack[-1]) is not list:
                raise _Refused("it appends to something else than a list")
            stack[-1].extend(map(_done, parts))
        elif name in ("SETITEM", "SETITEMS"):
            parts = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._since_mark()
            _with(stack[-1], parts)
        elif name == "ADDITEMS":
            parts = self._since_mark()
            if type(stack[-1]) is not set:
                raise _Refused("it adds to something else than a set")
            stack[-1].update(map(_key, parts))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                argument = f"{module} {attribute}" if type(module) is type(attribute) is str else "?"
            if argument not in _KNOWN:
                raise _Refused(f"it names {_shown(argument)}, which is code")
            stack.append(_Named(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            call = _KNOWN.get(function.name) if isinstance(function, _Named) else None
            if call is None or type(arguments) is not tuple:
                raise _Refused("it calls something")
            stack.append(call(*arguments))
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            if not isinstance(target, (_Array, _Type)):
                raise _Refused(f"it sets the state of a {type(target).__name__}")
            target.set_state(state)
        else:
            raise _Refused(f"it uses the operation {name}, which plain data do not need")

    def _since_mark(self) -> list:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                parts = self.stack[place + 1 :]
                del self.stack[place:]
                return parts
        raise _Refused("its marks are out of order")

    @staticmethod
    def _inside(value: Any) -> Any:
        # Arguments of calls travel in tuples: classes and types are allowed there until the call.
        return value if isinstance(value, (_Named, _Type)) else _done(value)


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_GATHERED: dict[str, Callable[[list], Any]] = {
    "LIST": lambda parts: list(map(_done, parts)),
    "TUPLE": lambda parts: tuple(map(_Machine._inside, parts)),
    "DICT": lambda parts: _with({}, parts),
    "FROZENSET": _frozen,
}
