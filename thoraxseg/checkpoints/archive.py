"""Model archives -> folders: every name and size is checked before the first byte is written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from thoraxseg.checkpoints.restricted_pickle import not_a_model
from thoraxseg.errors import CheckpointError, OutputError
from thoraxseg.files import new_folder
from thoraxseg.progress import Progress, silent

MAX_MEMBERS = 10_000
MAX_TOTAL = 64 << 30
MAX_EXPANSION = 200
"""No member, and not all of them together, may unpack to more than this times what they take in the archive."""
FREE_EXPANSION = 1 << 20
"""Up to this size, expansion does not matter."""
_BLOCK = 1 << 20
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Others unpack without a bound on memory; nnU-Net writes neither of them."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_extract(archive: Path, folder: Path, progress: Progress = silent) -> list[Path]:
    """Unpack a zip archive into a new (or empty) folder and return its files, sorted.

    The folder appears when all files are whole; archives inside stay packed. Raises CheckpointError naming the
    member for names that lead elsewhere, links, encryption, duplicates, bombs and damage, and OutputError when
    the files cannot be written; nothing is left then, nor after a cancel.
    """
    archive, folder = Path(archive), Path(folder)
    members = _checked_members(archive)
    with new_folder(folder, f"unpacking {archive.name}") as scratch:
        _check_space(members, folder.parent)
        names = _unpack(archive, members, scratch, progress)
    return sorted(folder / name for name in names)


def _checked_members(archive: Path) -> list[zipfile.ZipInfo]:
    """Return the members of an archive when all their names, kinds and sizes are acceptable."""
    try:
        size = archive.stat().st_size
        with archive.open("rb") as file:
            head = file.read(256)
        if head[:2] != b"PK":
            kind = not_a_model(head) or "another kind of file; choose a .zip"
            raise CheckpointError(f"{archive}: expected a zip archive, got {kind}.")
        _check_directory(archive, size)
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except OSError as error:
        raise CheckpointError(f"{archive}: the archive cannot be read: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"{archive}: the archive is damaged or cut short ({error}). Fetch it again."
        ) from error
    if len(members) > MAX_MEMBERS:
        raise _refusal(archive, f"it has {len(members)} members, more than {MAX_MEMBERS}")
    _check_names(archive, members)
    _check_sizes(archive, members, size)
    return members


def _check_directory(archive: Path, size: int) -> None:
    """Refuse a directory that is longer than one of MAX_MEMBERS can be, before it is read into memory."""
    with archive.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("it has no directory")
    entries = struct.unpack("<H", tail[end + 10 : end + 12])[0]
    length = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    if max(entries, length >> 11) > MAX_MEMBERS:
        raise _refusal(archive, f"it has more than {MAX_MEMBERS} members")


def _check_names(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, bool] = {}
    for member in members:
        # The library cuts names at NUL and turns separators of Windows; what was written is in orig_filename.
        raw = member.orig_filename
        name = raw[:-1] if raw.endswith("/") else raw
        if problem := _name_problem(name):
            raise _refusal(archive, f"the member {raw!r:.120} {problem}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, f"the member {raw!r:.120} is a link or a device, not a file")
        if member.flag_bits & _ENCRYPTED:
            raise _refusal(archive, f"the member {raw!r:.120} is encrypted")
        if member.compress_type not in _METHODS:
            raise _refusal(archive, f"the member {raw!r:.120} is packed by another method than deflate")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise _refusal(
                archive, f"the member {raw!r:.120} comes twice (upper and lower case are the same)"
            )
        seen[key] = member.is_dir()
    for key in seen:
        parts = key.split("/")
        for length in range(1, len(parts)):
            if seen.get("/".join(parts[:length])) is False:
                raise _refusal(archive, f"the member {key!r:.120} lies inside a file")


def _name_problem(name: str) -> str:
    """Return what is wrong with the name of a member, or nothing."""
    if not name or len(name) > 1000:
        return "has no name or a very long one"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name):
        return "has control characters in its name"
    if name.startswith("/") or "\\" in name or ":" in name:
        return "has an absolute path, a drive or a backslash in its name"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "has a path that does not lead straight down"
        if len(part.encode()) > 255 or part.endswith((".", " ")) or _RESERVED.fullmatch(part):
            return "has a name that not every system can store"
    return ""


def _check_sizes(archive: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL:
        raise _refusal(archive, f"it unpacks to {total >> 30} GiB, more than {MAX_TOTAL >> 30}")
    packed = [(m.filename, m.file_size, m.compress_size) for m in members] + [(archive.name, total, size)]
    for name, promised, stored in packed:
        if promised > FREE_EXPANSION and promised > MAX_EXPANSION * stored:
            raise _refusal(archive, f"{name!r:.120} would unpack to more than {MAX_EXPANSION} times its size")
    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise _refusal(archive, f"the member {member.filename!r:.120} overlaps another one")
        end = member.header_offset + 30 + member.compress_size
        if end > size:
            raise _refusal(archive, f"the member {member.filename!r:.120} goes beyond the end of the file")


def _check_space(members: list[zipfile.ZipInfo], folder: Path) -> None:
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: unpacking needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free. Free space first."
        )


def _unpack(archive: Path, members: list[zipfile.ZipInfo], scratch: Path, progress: Progress) -> list[str]:
    total, done = max(sum(member.file_size for member in members), 1), 0
    names = []
    with zipfile.ZipFile(archive) as opened:
        for member in members:
            target = scratch.joinpath(*member.orig_filename.rstrip("/").split("/"))
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                written = 0
                for block in _blocks(archive, opened, member):
                    progress(done / total, f"Unpacking {member.orig_filename}")
                    written += len(block)
                    done += len(block)
                    if written > member.file_size:
                        raise _refusal(
                            archive, f"the member {member.filename!r:.120} holds more than it says"
                        )
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if written != member.file_size:
                raise _refusal(archive, f"the member {member.filename!r:.120} holds less than it says")
            names.append(member.orig_filename)
    progress(1.0, f"Unpacked {archive.name}")
    return names


def _blocks(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a member; its CRC is compared at the end."""
    try:
        with opened.open(member) as source:
            while block := source.read(_BLOCK):
                yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(
            f"{archive}: the member {member.filename!r:.120} is damaged ({error}). Fetch the archive again."
        ) from error


def _refusal(archive: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{archive}: refused, since {reason}. Nothing was unpacked. Get the archive from its source again."
    )
