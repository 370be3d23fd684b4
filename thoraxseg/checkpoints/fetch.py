"""Bring a checkpoint's files onto this machine, on request: from a Python package, verified by SHA-256."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from thoraxseg.checkpoints.card import Card, CardFile
from thoraxseg.checkpoints.catalog import folder_of
from thoraxseg.errors import CheckpointError, DownloadError
from thoraxseg.files import publish_together, sha256_file
from thoraxseg.progress import Progress, silent

DOWNLOAD_SECONDS = 300
_POLL_SECONDS = 0.5


def is_installed(card: Card) -> bool:
    """Tell whether all files of the card are on this machine with the right digests."""
    return all(_is_whole(folder_of(card) / file.name, file) for file in (*card.weights, *card.samples))


def sample_path(card: Card, name: str) -> Path:
    """Return the verified sample image `name` of an installed checkpoint.

    Raises CheckpointError when the card has no such sample or the file is missing or damaged.
    """
    for file in card.samples:
        path = folder_of(card) / file.name
        if file.name == name and _is_whole(path, file):
            return path
    raise CheckpointError(
        f"checkpoint {card.name}: no whole sample {name!r} here. Run 'thoraxseg checkpoints install {card.name}'."
    )


def fetch_package(card: Card, progress: Progress = silent) -> Path:
    """Fetch the card's weights and samples unless they are here, and return their folder.

    The archive and every file are compared with the card's SHA-256 before anything gets its final
    name. Raises DownloadError when nothing can be fetched, CheckpointError when a digest is wrong.
    """
    folder = folder_of(card)
    if is_installed(card):
        return folder
    if card.source.kind != "python-package":
        raise CheckpointError(
            f"checkpoint {card.name}: files are missing in {folder}, and no source is known."
        )
    with tempfile.TemporaryDirectory(prefix="thoraxseg-") as scratch:
        wheel = _pip_download(card.source.requirement, Path(scratch), progress)
        digest = sha256_file(wheel)
        if digest != card.source.archive_sha256:
            raise CheckpointError(
                f"{wheel.name}: expected SHA-256 {card.source.archive_sha256[:12]}..., got {digest[:12]}...: "
                "not the published package. Nothing was installed; check your package index."
            )
        progress(0.9, "Unpacking and verifying")
        with publish_together(folder) as target:
            for file in (*card.weights, *card.samples):
                _extract(wheel, file, target / file.name)
    progress(1.0, f"Installed {card.name}")
    return folder


def _is_whole(path: Path, file: CardFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_file(path) == file.sha256


def _pip_download(requirement: str, folder: Path, progress: Progress) -> Path:
    """Return the wheel that pip fetched by name, without its dependencies."""
    progress(0.0, f"Fetching {requirement} with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    environment = {**os.environ, "PIP_RETRIES": os.environ.get("PIP_RETRIES", "2")}
    log = folder / "pip.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        except OSError as error:
            raise DownloadError(
                f"pip cannot be started with {sys.executable!r}: {error.strerror}."
            ) from error
        try:
            _wait(process, requirement, progress)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no answer"]
        reason = errors[-1][:300].removeprefix("ERROR: ").rstrip(".")
        raise DownloadError(
            f"{requirement} could not be fetched with pip: {reason}. Connect to the network or set up "
            "pip's index and run again; 'thoraxseg demo --offline' needs neither."
        )
    return wheels[0]


def _wait(process: subprocess.Popen, requirement: str, progress: Progress) -> None:
    waited = 0.0
    while waited < DOWNLOAD_SECONDS:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            waited += _POLL_SECONDS
            progress(0.9 * waited / (waited + 20), f"Fetching {requirement} with pip")
    raise DownloadError(f"{requirement}: pip gave no answer within {DOWNLOAD_SECONDS} s. Try again later.")


def _extract(wheel: Path, file: CardFile, target: Path) -> None:
    """Write one member, named on the card, counting its real bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as source:
            content = source.read(file.size_bytes + 1)
    except (KeyError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file.member} is missing or damaged in the package.") from error
    target.write_bytes(content)
    if not _is_whole(target, file):
        raise CheckpointError(f"{file.member}: its size or SHA-256 is not the card's. Nothing was installed.")
