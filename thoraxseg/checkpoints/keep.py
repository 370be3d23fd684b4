"""Checkpoints in the user's own folder: put there, converted, compared with their cards, taken away."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from thoraxseg.checkpoints import fetch
from thoraxseg.checkpoints.card import Card, CardFile, Source, card_text
from thoraxseg.checkpoints.catalog import (
    CARD_FILE,
    Checkpoint,
    folder_of,
    home,
    list_cards,
    read_catalog,
    verify,
)
from thoraxseg.checkpoints.describe import About, checked_name, plain_name
from thoraxseg.checkpoints.download import download
from thoraxseg.checkpoints.opening import FIRST_STAGE, Choice, open_checkpoint
from thoraxseg.checkpoints.published import how_to_get, list_published
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, DownloadError, OptionError, OutputError
from thoraxseg.files import new_folder, new_scratch, sha256_file
from thoraxseg.models import build_network, load_weights
from thoraxseg.progress import Progress, part, silent

if TYPE_CHECKING:
    import torch

MAX_DOWNLOAD = 16 << 30
"""The largest published archive has 5 GB."""


@dataclass(frozen=True)
class Kept:
    """What was put where."""

    card: Card
    folder: Path
    notes: tuple[str, ...] = ()


def install(
    source: str | os.PathLike[str],
    about: About | None = None,
    choice: Choice | None = None,
    sha256: str | None = None,
    progress: Progress = silent,
) -> Kept:
    """Put a checkpoint into the user's folder and return where it is.

    `source` is a name of the catalog or of a published model, a folder, an archive, a file, or an https URL.
    Weights are copied as they are; `sha256` is what the downloaded or given file must have. Everything is
    read and checked before it gets its place. Raises CheckpointError for a wrong digest, a name in use or a model
    that is not known, DownloadError when nothing can be fetched.
    """
    about, text, sha256 = about or About(), os.fspath(source), sha256 and sha256.lower()
    cards, published = list_cards(), list_published()
    if text in cards and (about, choice or Choice(), sha256) != (About(), Choice(), None):
        raise OptionError(
            f"{text} is in the catalog, and its card says all of it: give the name alone. The flags are for models "
            "that are new to the catalog."
        )
    if text in cards and cards[text].source.kind == "python-package":
        return Kept(cards[text], fetch.fetch_package(cards[text], progress))
    if text in cards:
        open_checkpoint(text)  # says which file is damaged or gone
        return Kept(cards[text], folder_of(cards[text]), ("it is installed already",))
    if text in published and not Path(text).exists():
        entry = published[text]
        if not entry.url:
            raise DownloadError(f"{entry.name} cannot be fetched by ThoraxSeg. {how_to_get(entry)}")
        about, text, sha256 = about.over(entry.about()), entry.url, sha256 or entry.sha256 or None
    elif about.name in published:
        about = about.over(published[about.name].about())
    if about.name is not None:
        _refuse_a_taken_name(checked_name(about.name), cards)
    if urlsplit(text).scheme.lower() in ("http", "https", "ftp", "file"):
        return _from_url(text, about, choice, sha256, progress)
    path = Path(text)
    if sha256 is not None:
        _compare(path, sha256)
    return _put(path, about, choice, sha256, progress)


def _compare(path: Path, sha256: str) -> None:
    try:
        if path.is_dir():
            raise OptionError(
                f"--sha256: is for a file or an address, and {path} is a folder. Leave it away."
            )
        digest = sha256_file(path)
    except OSError:
        return  # opening it says what is wrong
    if digest != sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {sha256[:12]}..., got {digest[:12]}...: another file or a damaged one. Fetch it "
            "again."
        )


def _from_url(url: str, about: About, choice: Choice | None, sha256: str | None, progress: Progress) -> Kept:
    name = plain_name(unquote(Path(urlsplit(url).path).name))
    # Two addresses may end alike; the name of the file becomes that of a model that has none.
    target = home() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    if not (target.is_file() and sha256 is None):  # whole, and kept since installing it failed
        download(url, target, sha256, MAX_DOWNLOAD, part(progress, 0.0, 0.8))
    digest = sha256 or sha256_file(target)
    try:
        kept = _put(target, about, choice, digest, part(progress, 0.8, 1.0))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} The file is whole and was kept ({target}), so that the same command with another choice need not "
            "fetch it again; delete it if you do not want it."
        ) from error
    shutil.rmtree(target.parent, ignore_errors=True)
    if sha256 is not None:
        return kept
    said = f"no SHA-256 was published or given to compare with; the file has {digest}. Note it for next time (--sha256)"
    return replace(kept, notes=(*kept.notes, said))


def _put(
    path: Path, about: About, choice: Choice | None, archive_sha256: str | None, progress: Progress
) -> Kept:
    """Copy a checkpoint from this machine into the user's folder."""
    opened = open_checkpoint(path, choice, about=about, progress=part(progress, 0.0, 0.3))
    if about.name is None:
        opened = replace(opened, card=replace(opened.card, name=checked_name(opened.card.name)))
        _refuse_a_taken_name(opened.card.name, list_cards())
    folder = home() / "checkpoints" / opened.card.name
    check_it_fits(opened)
    with new_folder(folder) as scratch:
        source = Source("local", "", archive_sha256 or "")
        card = replace(opened.card, source=source, samples=())
        _write(replace(opened, card=card), scratch, convert=False)
        progress(0.95, "Verifying")
        card = open_checkpoint(scratch).card
    progress(1.0, f"Installed {card.name}")
    return Kept(card, folder, opened.assumed)


def convert(
    source: str | os.PathLike[str],
    folder: Path,
    about: About | None = None,
    choice: Choice | None = None,
    progress: Progress = silent,
) -> Kept:
    """Write a checkpoint in our native form, safetensors and a card, into a new folder.

    Tensors get the names that ThoraxSeg's networks use; no value changes. Raises CheckpointError for weights that
    do not fit their network, OutputError when the folder is there already or cannot be written.
    """
    folder = Path(folder)
    opened = open_checkpoint(source, choice, about=about, progress=part(progress, 0.0, 0.3))
    with new_folder(folder) as scratch:
        card = replace(opened.card, source=Source("local", "", opened.card.source.archive_sha256), samples=())
        _write(replace(opened, card=card), scratch, convert=True)
        progress(0.95, "Verifying")
        card = open_checkpoint(scratch).card
    progress(1.0, f"Converted {card.name}")
    return Kept(card, folder, opened.assumed)


def check_it_fits(checkpoint: Checkpoint) -> None:
    """Build every network and load its weights once; raises CheckpointError naming the file that does not fit."""
    for part_of in (checkpoint, checkpoint.previous):
        if part_of is not None:
            for path in part_of.weights:
                _fitted(part_of.card, path)


def _fitted(card: Card, path: Path) -> torch.nn.Module:
    """Return the network of a card with the weights in a file."""
    network = build_network(card.architecture.name, card.architecture.parameters)
    try:
        load_weights(network, card.architecture.name, read_weights(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return network


def _write(checkpoint: Checkpoint, folder: Path, convert: bool) -> None:
    """Write card and weights of a checkpoint, and of its first stage into a folder inside."""
    from safetensors.torch import save

    card = checkpoint.card
    files: dict[str, CardFile] = {}
    for file, path in zip(card.weights, checkpoint.weights, strict=True):
        name = _plain_file(file.name)
        target = folder / (f"{Path(name).stem}.safetensors" if convert else checked_name(name))
        if target.name in files:  # such as a.pth and a.pt
            target = target.with_stem(f"{target.stem}-{len(files)}")
        if convert:
            state = _fitted(card, path).state_dict()
            tensors = {key: tensor.contiguous().clone() for key, tensor in state.items()}
            target.write_bytes(save(tensors))  # not save_file, whose files nobody else may read
            digest = sha256_file(target)
        else:
            shutil.copyfile(path, target)
            digest = file.sha256  # not that of the copy, which is compared with it when it is opened
        files[target.name] = CardFile(target.name, digest, target.stat().st_size, "")
    if checkpoint.previous is not None:
        inside = folder / FIRST_STAGE
        inside.mkdir()
        _write(checkpoint.previous, inside, convert)
        card = replace(card, previous=FIRST_STAGE)
    card = replace(card, weights=tuple(files.values()))
    (folder / CARD_FILE).write_text(card_text(card), encoding="utf-8")


def _plain_file(name: str) -> str:
    """Return a name for a weights file that a card can have."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    if not re.fullmatch(r"(\.[A-Za-z0-9]{1,16})?", ending, re.ASCII):
        stem, ending = name, ""
    return name if re.fullmatch(r"fold_[a-z0-9]+", stem, re.ASCII) else f"{plain_name(stem)[:60]}{ending}"


def is_here(card: Card) -> bool:
    """Return whether a checkpoint has files on this machine, whole or damaged."""
    files = [folder_of(card) / file.name for file in (*card.weights, *card.samples)]
    return card.source.kind != "python-package" or any(path.exists() for path in files)


def verify_installed(card: Card) -> int:
    """Compare every file of an installed checkpoint with its card, and its weights with the network.

    Returns how many bytes were read. Raises CheckpointError naming the first file that is missing or different.
    """
    opened = open_checkpoint(card.name)  # compares the weights, and those of a first stage
    for file in card.samples:
        verify(folder_of(card) / file.name, file, card)
    check_it_fits(opened)
    parts = [part_of for part_of in (opened, opened.previous) if part_of is not None]
    return sum(path.stat().st_size for part_of in parts for path in part_of.weights)


def remove(name: str) -> int:
    """Delete an installed checkpoint from the user's folder and return the bytes that this freed.

    Raises CheckpointError for a name that is not installed or comes with ThoraxSeg.
    """
    folder = home() / "checkpoints" / checked_name(name)
    if not folder.is_dir():
        cards, _ = read_catalog()
        if name in cards and cards[name].source.kind == "bundled":
            raise CheckpointError(
                f"{name} comes with ThoraxSeg and takes no further space; it cannot be removed."
            )
        raise CheckpointError(f"{name!r} is not installed. See 'thoraxseg checkpoints list' for what is.")
    freed = size_of(folder)
    try:
        # Moved first: a kill in between leaves a folder that no catalog lists, not half a checkpoint.
        doomed = new_scratch(folder.parent)
        folder.rename(doomed / folder.name)
        shutil.rmtree(doomed)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be removed: {error.strerror or error}.") from error
    return freed


def size_of(folder: Path) -> int:
    """Return how many bytes the files in a folder have, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _refuse_a_taken_name(name: str, cards: dict[str, Card]) -> None:
    if name in cards and cards[name].source.kind == "bundled":
        raise CheckpointError(
            f"the name {name!r} is taken by a checkpoint of ThoraxSeg. Choose another --name."
        )
    if name in cards or (home() / "checkpoints" / name).exists():
        raise CheckpointError(
            f"the name {name!r} is taken by a checkpoint of the catalog. Choose another --name, or run 'thoraxseg "
            f"checkpoints remove {name}' first."
        )
