"""Files that are whole or not there: hashes, safe names, and results that appear together."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thoraxseg.errors import OutputError, ThoraxSegError

_PARTIAL = ".thoraxseg-partial-"
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
MAX_NAME = 80


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def safe_name(raw: str) -> str:
    """Return a file name made of `[A-Za-z0-9._-]` for any outside text.

    Names that are safe already stay as they are, since people look for them. Where characters had to
    go, a short hash of the raw text is added, so that names that differ stay different. Names that
    differ only in case are one file on some systems: who writes must look who owns a file that is there.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", raw).strip("._-")[:MAX_NAME].rstrip("._-") or "case"
    if clean.split(".")[0].lower() in _RESERVED:
        clean = f"case_{clean}"
    if clean != raw:
        clean = f"{clean}-{hashlib.sha256(raw.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return clean


@contextmanager
def publish_together(folder: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield a scratch folder for files; on success they appear whole in `folder`, on failure none does.

    Files are written beside their goal, flushed to the disk and renamed, so that a kill at any
    moment leaves no part of a file under a final name. `marker` names the file that says the set
    is complete: its old copy goes first, its new copy comes last.
    Raises OutputError when the folder cannot be made or written, or the disk is full.
    """
    folder = Path(folder)
    scratch = new_scratch(folder)
    try:
        try:
            yield scratch
            with _alone_in(folder):
                _publish(scratch, folder, marker)
        except ThoraxSegError:
            raise
        except OSError as error:
            raise OutputError(
                f"{folder}: writing the results failed: {error.strerror or error}. Nothing was left under a "
                "final name. Free space or choose another output folder, then run again."
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path, marker: str | None) -> None:
    """Flush and rename the files of `scratch` into `folder`; after a failure none of them stays there."""
    names = sorted(path.name for path in scratch.iterdir() if path.name != marker)
    marked = [marker] if marker is not None and (scratch / marker).exists() else []
    for name in names + marked:
        _flush(scratch / name)
        if (folder / name).is_dir():  # found before anything is renamed
            raise IsADirectoryError(errno.EISDIR, f"{name} is a folder there")
    if marker is not None:
        (folder / marker).unlink(missing_ok=True)
    try:
        for name in names:
            (scratch / name).replace(folder / name)
        if marked:
            _flush_folder(folder)  # so that the disk, too, sees the marker last
            (scratch / marker).replace(folder / marker)
        _flush_folder(folder)
    except BaseException:
        for name in names + marked:
            if not (scratch / name).exists():
                (folder / name).unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(folder: Path, doing: str = "writing") -> Iterator[Path]:
    """Yield a scratch folder that becomes `folder`, new or empty, when the block succeeds; else nothing is left.

    Raises OutputError when something is in `folder`, or it cannot be written: `doing` failed.
    """
    folder = Path(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder}: expected a new or empty folder. Choose another one.")
        scratch = new_scratch(folder.parent)
        try:
            yield scratch
            if folder.exists():
                folder.rmdir()
            scratch.chmod(0o755)
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except ThoraxSegError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder}: {doing} failed: {error.strerror or error}. Nothing was left. Free space or choose another "
            "folder."
        ) from error


def check_writable(folder: Path) -> None:
    """Make `folder` and a file in it, before long work starts, or raise OutputError saying why not."""
    shutil.rmtree(new_scratch(Path(folder)), ignore_errors=True)


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Raise OutputError where files of such names are: an earlier result, or the very file that was read."""
    if taken := [name for name in names if (folder / name).exists()]:
        raise OutputError(
            f"{folder}: has {', '.join(taken)} already, and nothing is overwritten. Choose another --output."
        )


def check_output(folder: Path, names: Iterable[str]) -> None:
    """Raise OutputError before long work starts where writing these files would after it; leaves no folder behind."""
    folder = Path(folder)
    check_free(folder, names)
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    check_writable(folder)
    for one in new:
        one.rmdir()


def new_scratch(folder: Path) -> Path:
    """Return a new scratch folder in `folder`, which is made if it is not there; what killed runs left in it goes.

    Raises OutputError saying why not.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder}: expected a folder that can be written, got a file. Choose another output folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(folder)
        return Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{_machine()}-{os.getpid()}-", dir=folder))
    except OSError as error:
        raise OutputError(
            f"{folder}: expected a folder that can be written, got: {error.strerror or error}. "
            "Choose another output folder or change its permissions."
        ) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from publishing into `folder` meanwhile, or two runs would mix their files.

    The system ends the lock with the process, so none is ever left behind. Windows cannot lock a
    folder, and some network disks cannot either: there the few milliseconds stay unguarded.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder, and journals renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear_abandoned(folder: Path) -> None:
    """Remove scratch folders of runs on this machine that were killed (on Windows they stay without psutil)."""
    for path in folder.glob(f"{_PARTIAL}{_machine()}-*"):
        owner = path.name.split("-")[-2]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _machine() -> str:
    """Return a short word for this machine: a process number of another one says nothing here."""
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # os.kill(pid, 0) would end the process on Windows
        try:
            import psutil
        except ImportError:
            return True
        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
