"""Files of torch and safetensors -> named tensors, or what a checkpoint says about itself; no code of theirs runs.

There is one way into a file of torch: its archive is checked, then torch's safe loader reads it with a list of
allowed names that holds numbers of numpy and nothing else.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.checkpoints.fields import FieldError, unique
from thoraxseg.checkpoints.restricted_pickle import not_a_model, not_plain
from thoraxseg.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model_state_dict", "network_weights")
_WRAPPERS_OF_TENSORS = ("model", "net")
"""Words that also mean other things: they count when all that is under them are tensors."""
MAX_SAFETENSORS_HEADER = 100 << 20
MAX_EXPANSION = 200
"""A torch archive is not compressed; one that promises this much more than it holds is a trap."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class TorchHeader:
    """What a checkpoint of torch says about itself, read without its tensors; not checked against anything."""

    trainer: str | None
    configuration: str | None
    fold: str | int | None
    """0 and so on, or `all`, where the checkpoint says it."""
    mirror_axes: tuple[int, ...] | None
    """None where the checkpoint says nothing or that mirroring is not allowed."""
    plans: Mapping[str, Any] | None
    """The plans it was trained with, where it keeps a copy: plain data of a bounded size."""
    dataset: Mapping[str, Any] | None
    """Its copy of `dataset.json`, likewise."""
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor name -> shape; a leading `module.` is left out."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors`, `.pth`, `.pt` or `.model` file by name, on the CPU.

    A file of torch holds the tensors themselves, or keeps them under `state_dict`, `model_state_dict`,
    `network_weights`, `model` or `net` beside other things. Every byte of its archive is compared with its CRCs
    first; it is read with `weights_only=True` and the allowed names of `_allowed` only. Raises CheckpointError
    naming the file and what it is when it is not a set of plain tensors.
    """
    path = Path(path)
    head = _head(path)
    if _is_safetensors(head):
        return _read_safetensors(path)
    return dict(_tensors(_load(path, head, lazily=False), path))


def read_checkpoint_header(path: Path) -> TorchHeader:
    """Return what a checkpoint says about itself; its tensors stay on the disk, and their CRCs unchecked.

    Raises CheckpointError as `read_weights` does.
    """
    path = Path(path)
    head = _head(path)
    if _is_safetensors(head):
        raise CheckpointError(
            f"{path}: expected a checkpoint of torch, got a safetensors file, which holds tensors only. Give the "
            "checkpoint that it was made from."
        )
    content = _load(path, head, lazily=True)
    shapes = {
        name.removeprefix("module."): tuple(value.shape) for name, value in _tensors(content, path).items()
    }
    arguments = content.get("init_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    trainer, configuration = content.get("trainer_name"), arguments.get("configuration")
    plans, dataset, fold = (arguments.get(key) for key in ("plans", "dataset_json", "fold"))
    axes = content.get("inference_allowed_mirroring_axes")
    for part in (trainer, configuration, plans, dataset, fold, axes):
        if reason := not_plain(part):
            raise CheckpointError(f"{path}: {reason}. Get the file from its source again.")
    if axes is not None and not (
        isinstance(axes, (list, tuple)) and all(type(a) is int and 0 <= a < 3 for a in axes)
    ):
        raise CheckpointError(
            f"{path}: inference_allowed_mirroring_axes must be a list of axes from 0 to 2, got {axes!r:.80}."
        )
    return TorchHeader(
        trainer=trainer if isinstance(trainer, str) else None,
        configuration=configuration if isinstance(configuration, str) else None,
        fold=fold if type(fold) in (str, int) else None,
        mirror_axes=None if axes is None else tuple(sorted(set(axes))),
        plans=plans if isinstance(plans, Mapping) else None,
        dataset=dataset if isinstance(dataset, Mapping) else None,
        shapes=shapes,
    )


def is_nnunet_checkpoint(path: Path) -> str | None:
    """Return `v1` or `v2` for a checkpoint file that nnU-Net wrote, by its content; None for any other file.

    v2 keeps `network_weights` and `init_args`; v1 keeps `state_dict` with `epoch` and `plot_stuff`, or is a
    `.model` file with its `.pkl` beside. The tensors of an archive stay on the disk. Raises CheckpointError as
    `read_weights` does for a file of torch that is damaged or holds code, and for one that cannot be read.
    """
    path = Path(path)
    head = _head(path)
    if head[:4] == _ZIP:
        if not _is_of_torch(_check_archive(path, whole=False)):
            return None
    elif head[:1] != _PICKLE or _is_safetensors(head):
        return None
    content = _load(path, head, lazily=True)
    if not isinstance(content, Mapping):
        return None
    if content.keys() >= {"network_weights", "init_args"}:
        return "v2"
    beside = path.suffix == ".model" and path.with_name(f"{path.name}.pkl").is_file()
    known = beside or content.keys() >= {"epoch", "plot_stuff"}
    return "v1" if known and isinstance(content.get("state_dict"), Mapping) else None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error.strerror or error}.") from error


def _is_safetensors(head: bytes) -> bool:
    # Such a file begins with a length, which may look like the first byte of a pickle.
    return head[:4] != _ZIP and head[8:9] == b"{" and not _is_text(head)


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)


def _load(path: Path, head: bytes, lazily: bool) -> Any:
    """Return what is in a file of torch, read by torch's safe loader.

    Lazily, the tensors of an archive stay on the disk and are not compared with their CRCs.
    """
    import torch

    zipped = head[:4] == _ZIP
    if zipped:
        if not _is_of_torch(_check_archive(path, whole=not lazily)):
            raise CheckpointError(
                f"{path}: not a readable torch weights file, but an archive of other files. Unpack it, or fetch the "
                "weights themselves."
            )
    elif head[:1] != _PICKLE:  # a bare pickle, as torch wrote before 1.6
        kind = not_a_model(head) or ("a text file" if _is_text(head) else "something else")
        raise CheckpointError(f"{path}: expected a weights file (safetensors or torch), got {kind}.")
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipped)
    except pickle.UnpicklingError as error:
        # torch's own words would advise to switch its protection off.
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it wants to use {named[1][:100]}" if named else "it holds more than tensors and plain data"
        raise CheckpointError(
            f"{path}: torch's safe loader refused this file: {reason}. Nothing was run. Convert the weights to "
            "safetensors where you trust them."
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path}: not a readable torch weights file ({type(error).__name__}). Fetch it again."
        ) from error


def _allowed() -> list[Any]:
    """Return what nnU-Net checkpoints need beyond tensors: numbers of numpy, under both names of its core."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [np.dtype, *names, np.dtypes.Float64DType, np.dtypes.Float32DType]


def _check_archive(path: Path, whole: bool) -> list[str]:
    """Return the members of a torch archive that has no code, no damaged member, and fits into its file.

    torch itself compares no CRC. Without `whole`, only the part that says what the tensors are is read.
    """
    damaged = None
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            promised = sum(member.file_size for member in members)
            if len(set(names)) < len(names) or promised > MAX_EXPANSION * path.stat().st_size:
                raise zipfile.BadZipFile("two members of one name, or more content than a file can hold")
            script = any(name.split("/")[-1] == "constants.pkl" for name in names)
            for member in () if script else members:
                if (whole or member.filename.endswith("/data.pkl")) and not _is_whole(archive, member):
                    damaged = member.filename
                    break
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the weights archive is damaged or cut short ({error}). Fetch it again."
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{path}: the CRC of {damaged} is wrong: the file is damaged. Fetch it again.")
    if script:
        raise CheckpointError(
            f"{path}: this is a TorchScript program, which would run code; save its state_dict as safetensors."
        )
    return names


def _is_of_torch(names: list[str]) -> bool:
    return any(name.endswith("/data.pkl") for name in names)


def _is_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as file:  # reading to the end compares the CRC
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _tensors(content: Any, path: Path) -> Mapping[str, torch.Tensor]:
    """Return the one set of named, plain tensors in what a file of torch holds."""
    import torch

    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a set of named tensors, got {type(content).__name__}.")
    held = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    held += [key for key in _WRAPPERS_OF_TENSORS if _all_tensors(content.get(key))]
    if len(held) > 1:
        raise CheckpointError(
            f"{path}: holds {len(held)} sets of tensors, {' and '.join(map(repr, held))}, and does not say which is "
            "meant. Save the one you want in a file of its own."
        )
    weights = content[held[0]] if held else content
    if not weights:
        under = f" under {held[0]!r}" if held else ""
        raise CheckpointError(f"{path}: expected a set of named tensors{under}, got nothing.")
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
            places = "" if held else f", or under {', '.join((*_WRAPPERS, *_WRAPPERS_OF_TENSORS))}"
            raise CheckpointError(
                f"{path}: expected named tensors only{places}, but {str(name)[:80]!r} is not one."
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise CheckpointError(
                f"{path}: expected plain tensors, but {name[:80]!r} is sparse, quantized, nested or without content."
            )
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(
                f"{path}: the tensor {name[:80]!r} is larger than what the file holds for it."
            )
    return weights


def _all_tensors(held: Any) -> bool:
    import torch

    return isinstance(held, Mapping) and held and all(isinstance(v, torch.Tensor) for v in held.values())


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_SAFETENSORS_HEADER, path.stat().st_size - 8):
            raise CheckpointError(
                f"{path}: the safetensors header promises {length} bytes: is the file cut short? Fetch it again."
            )
        try:
            # The library keeps the last of two equal names without a word.
            json.loads(file.read(length), object_pairs_hook=unique)
        except FieldError as error:
            raise CheckpointError(
                f"{path}: in the safetensors header, {error}. Get the file from its source again."
            ) from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: the safetensors header is not JSON. Fetch it again.") from error
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: the safetensors file is damaged: {error}. Fetch it again.") from error
