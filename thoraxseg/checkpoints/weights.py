"""Weight files -> named tensors, without ever running code from them."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoraxseg.checkpoints.fields import FieldError, unique
from thoraxseg.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model_state_dict", "network_weights")
MAX_SAFETENSORS_HEADER = 100 << 20
MAX_EXPANSION = 200
"""A torch archive is not compressed; one that promises this much more than it holds is a trap."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors`, `.pth`, `.pt` or `.model` file by name, on the CPU.

    Files of torch are read with `weights_only=True` and nothing else. Raises CheckpointError naming
    the file and what it is when it is not a plain set of tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise CheckpointError(
            f"{path.name}: the weights cannot be read: {error.strerror or error}."
        ) from error
    if head[:4] == b"PK\x03\x04":
        _check_archive(path)
        return _read_torch(path)
    # A safetensors file begins with a length, which may look like the first byte of a pickle.
    if head[8:9] == b"{" and not _is_text(head):
        return _read_safetensors(path)
    if head[:1] == b"\x80":  # a bare pickle, as torch wrote before 1.6
        return _read_torch(path)
    raise CheckpointError(f"{path.name}: expected a weights file (safetensors or torch), got {_kind(head)}.")


def _kind(head: bytes) -> str:
    start = head.lstrip()[:40].lower()
    if not head:
        return "an empty file; fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer; fetch the file it points to with 'git lfs pull'"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, probably an error page; download the file itself"
    return "a text file" if _is_text(head) else "something else"


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)


def _check_archive(path: Path) -> None:
    """Refuse a torch archive with a damaged member, which `torch.load` would not notice, or with code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            promised = sum(member.file_size for member in archive.infolist())
            if len(set(names)) < len(names) or promised > MAX_EXPANSION * path.stat().st_size:
                raise zipfile.BadZipFile("two members of one name, or more content than a file can hold")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name}: the weights archive is damaged or cut short ({error}). Fetch it again."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path.name}: the CRC of {damaged} is wrong: the file is damaged. Fetch it again."
        )
    if any(name.split("/")[-1] == "constants.pkl" for name in names):
        raise CheckpointError(
            f"{path.name}: this is a TorchScript program, which would run code; save its state_dict as safetensors."
        )


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words would advise to switch its protection off.
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to use {named[1][:100]}" if named else "it holds more than tensors"
        raise CheckpointError(
            f"{path.name}: torch's safe loader refused this file: {reason}. Nothing was run. Convert the "
            "weights to safetensors where you trust them."
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path.name}: not a readable torch weights file ({type(error).__name__})."
        ) from error
    return _plain_tensors(content, path)


def _plain_tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path.name}: expected a set of named tensors, got {type(content).__name__}.")
    for key, value in content.items():
        if not isinstance(value, torch.Tensor) or not isinstance(key, str):
            raise CheckpointError(
                f"{path.name}: expected named tensors only, but {str(key)[:80]!r} is not one."
            )
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(
                f"{path.name}: expected plain tensors, but {key[:80]!r} is sparse or quantized."
            )
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_SAFETENSORS_HEADER, path.stat().st_size - 8):
            raise CheckpointError(
                f"{path.name}: the safetensors header promises {length} bytes: file cut short?"
            )
        try:
            # The library keeps the last of two equal names without a word.
            json.loads(file.read(length), object_pairs_hook=unique)
        except FieldError as error:
            raise CheckpointError(f"{path.name}: in the safetensors header, {error}.") from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path.name}: the safetensors header is not JSON.") from error
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name}: the safetensors file is damaged: {error}.") from error
