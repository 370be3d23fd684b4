"""A name or a path in, a verified checkpoint out: what a file or folder is, its content decides."""

from __future__ import annotations

import os
import tempfile
import zipfile
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from thoraxseg.checkpoints import monai_bundle, nnunet_v1, nnunet_v2, recipes
from thoraxseg.checkpoints.archive import safe_extract
from thoraxseg.checkpoints.card import Card, parse_card, read_card
from thoraxseg.checkpoints.catalog import CARD_FILE, Checkpoint, folder_of, read_catalog, verify
from thoraxseg.checkpoints.describe import (
    About,
    card_of_bundle,
    card_of_plan,
    chosen_folds,
    files_of,
    fold_name,
    plain_name,
    with_words,
)
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.checkpoints.published import list_published
from thoraxseg.checkpoints.weights import is_nnunet_checkpoint, read_weights
from thoraxseg.errors import CheckpointError
from thoraxseg.models import known_architectures, recognize
from thoraxseg.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

KNOWN = (
    "a catalog name; a folder or zip of nnU-Net (version 1 or 2) or a MONAI bundle; one checkpoint file of nnU-Net; "
    "weights (.pth, .pt, .safetensors) of the architectures {}; or a folder with card.json"
)
FIRST_STAGE = "first-stage"
_IMAGES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff", ".dcm")


@dataclass(frozen=True)
class Choice:
    """Which part of a model is meant, where it has several."""

    configuration: str | None = None
    """Of nnU-Net, such as `3d_fullres`."""
    folds: tuple[str, ...] | None = None
    """Names such as `0` or `all`; None: all that are there."""
    best: bool = False
    """nnU-Net's best checkpoint instead of the final one."""


def open_checkpoint(
    name_or_path: str | os.PathLike[str],
    choice: Choice | None = None,
    lungs: Checkpoint | None = None,
    about: About | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """Return the checkpoint of a catalog name, a file, a folder or an archive.

    `lungs` makes the lung map of a network that takes one, `about` says what the files do not. Every weights
    file is hashed, and compared where a card names its SHA-256. Nothing of a file is run. Raises CheckpointError
    when it is unknown, damaged or incomplete, saying what would be known.
    """
    choice = choice or Choice()
    opened = _opened(os.fspath(name_or_path), choice, progress)
    if about is not None:
        opened = replace(opened, card=with_words(opened.card, about))
    takes_map = any(channel.source == "lungs" for channel in opened.card.channels)
    if lungs is not None and not takes_map:
        raise CheckpointError(
            f"checkpoint {opened.card.name}: takes no lung map. Leave --lungs away, or choose an RRc-UNet 3D with two "
            "channels."
        )
    maker = opened.card.lungs_from
    if lungs is None and maker is not None and any(maker in found for found in read_catalog()):
        lungs = open_checkpoint(maker)
    return opened if lungs is None else replace(opened, lungs=lungs)


def _opened(text: str, choice: Choice, progress: Progress) -> Checkpoint:
    cards, wrong = read_catalog()
    if text in wrong:
        raise CheckpointError(wrong[text])
    if text in cards:
        return _of_card(cards[text], folder_of(cards[text]), choice)
    path = Path(text)
    try:
        is_dir, is_file = bool(text) and path.is_dir(), path.is_file()  # no text is not the working folder
    except (OSError, ValueError):  # too long to be a path
        is_dir = is_file = False
    if is_dir:
        return _of_folder(path, choice)
    if is_file and path.suffix == ".json":
        return _of_card(read_card(path), path.parent, choice)
    if is_file:
        return _of_file(path, cards, choice, progress)
    if text.lower().startswith(("http://", "https://")):
        raise CheckpointError(
            f"{text[:200]}: an address is installed first: 'thoraxseg checkpoints install ADDRESS'."
        )
    published = list_published()
    if text in published:
        raise CheckpointError(
            f"{text} is published, but not on this machine. Run 'thoraxseg checkpoints show {text}' to see how to get "
            "it."
        )
    close = get_close_matches(text[:100], [*cards, *published], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise CheckpointError(
        f"unknown checkpoint {text[:200]!r}: neither a name in the catalog ({', '.join(sorted(cards))}) nor an "
        f"existing file or folder.{hint}"
    )


def _of_card(card: Card, folder: Path, choice: Choice) -> Checkpoint:
    """Return the checkpoint of a card with its files in `folder`, all of them compared with the card."""
    if choice.configuration is not None and (
        card.nnunet is None or card.nnunet.configuration != choice.configuration
    ):
        has = "none" if card.nnunet is None else card.nnunet.configuration
        raise CheckpointError(
            f"checkpoint {card.name}: expected configuration {choice.configuration!r:.60}, it has {has}."
        )
    if choice.best:
        raise CheckpointError(
            f"checkpoint {card.name}: its card names one set of weights; --best is for folders and archives of nnU-Net."
        )
    chosen = chosen_folds(card, choice.folds)
    card = replace(card, weights=tuple(card.weights[index] for index in chosen))
    for file in card.weights:
        verify(folder / file.name, file, card)
    previous = None
    if card.previous is not None:
        place = folder / card.previous / CARD_FILE
        previous = _of_card(read_card(place), place.parent, Choice())
        if previous.card.nnunet is None or previous.card.labels.keys() != card.labels.keys():
            raise CheckpointError(f"{place}: is not the first stage of {card.name}. Install the model again.")
    paths = tuple(folder / file.name for file in card.weights)
    return Checkpoint(card, paths, previous=previous)


def _of_folder(folder: Path, choice: Choice) -> Checkpoint:
    if (folder / CARD_FILE).is_file():
        return _of_card(read_card(folder / CARD_FILE), folder, choice)
    v2, v1 = nnunet_v2.find_models(folder), nnunet_v1.find_models(folder)
    if v2 and v1:
        raise CheckpointError(
            f"{folder}: holds models of nnU-Net version 1 and 2. Give the folder of one of them."
        )
    if v2 or v1:
        return _of_nnunet(folder, "v2" if v2 else "v1", choice)
    _nothing_to_choose(folder, choice)
    bundle = monai_bundle.find_bundle(folder)
    if bundle is not None:
        return _of_bundle(bundle)
    raise CheckpointError(
        f"{folder}: expected a model, found no card.json, no plans.json or plans.pkl with folds, and no MONAI bundle "
        f"in it. Known are: {_known()}."
    )


def _of_file(path: Path, cards: dict[str, Card], choice: Choice, progress: Progress) -> Checkpoint:
    if _is_archive(path):
        # On the disk only for as long as it is in use; installing keeps it.
        scratch = tempfile.TemporaryDirectory(prefix="thoraxseg-model-", ignore_cleanup_errors=True)
        folder = Path(scratch.name) / plain_name(path.stem)
        safe_extract(path, folder, progress)
        try:
            return replace(_of_folder(_inner(folder), choice), scratch=scratch)
        except CheckpointError as error:  # the unpacked folder is gone when a person reads this
            raise CheckpointError(str(error).replace(str(folder), str(path))) from error
    version = is_nnunet_checkpoint(path)
    if version is not None:
        return _of_nnunet(path, version, choice)
    (file,) = files_of({path.name: path})
    _nothing_to_choose(path, choice)
    for card in cards.values():
        if [known.sha256 for known in card.weights] == [file.sha256]:
            return Checkpoint(card, (path,))
    state = _tensors_of(path)
    found = recognize(state)
    if found is None:
        raise CheckpointError(
            f"{path}: its {len(state)} tensors ({', '.join(sorted(state)[:3])[:200]}, ...) are those of no "
            f"architecture known here. Known are: {_known()}."
        )
    name, arguments = found
    recipe = recipes.recipe_for(name, arguments)
    data = recipes.card_data(plain_name(path.stem), name, arguments, recipe)
    data["weights"] = [
        {"name": "weights", "sha256": file.sha256, "size_bytes": file.size_bytes, "member": ""}
    ]
    try:
        card = parse_card(data)
    except FieldError as problem:
        raise CheckpointError(f"{path}: its network cannot be described: {problem}.") from None
    assumed = (
        f"{path.name} holds weights and nothing else. It was recognized as {name} and used as in {recipe.source}; "
        f"not known: {recipe.unknown}. Check the contours. 'thoraxseg checkpoints convert' writes a card that can "
        "be corrected; when it is right, empty its list 'assumed'."
    )
    return Checkpoint(replace(card, weights=(file,), assumed=(assumed,)), (path,))


def _tensors_of(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a weights file; says what could be given where it is something else altogether."""
    if path.name.lower().endswith(_IMAGES):
        raise CheckpointError(
            f"{path}: this looks like an image, not a checkpoint. Were INPUT and --checkpoint exchanged? Known are: "
            f"{_known()}."
        )
    try:
        return read_weights(path)
    except CheckpointError as error:
        if path.suffix.lower() in (".pth", ".pt", ".safetensors", ".model", ".ckpt"):
            raise
        raise CheckpointError(f"{error} Known are: {_known()}.") from error


def _of_nnunet(path: Path, version: str, choice: Choice) -> Checkpoint:
    read = nnunet_v1.read_nnunet_v1 if version == "v1" else nnunet_v2.read_nnunet_v2
    return _of_plan(read(path, choice.configuration, choice.folds, choice.best), choice.best)


def _of_plan(plan: NnunetPlan, best: bool) -> Checkpoint:
    previous = None
    if plan.previous_stage is not None:
        read = nnunet_v1 if plan.origin is Origin.V1 else nnunet_v2
        # The folds of the two stages were trained apart: all of the first one count, as in nnU-Net.
        previous = _of_plan(read.read_previous_stage(plan, None, best), best)
    card = card_of_plan(plan, FIRST_STAGE if previous is not None else None)
    paths = {fold_name(fold, path): path for fold, path in plan.folds.items()}
    card = replace(card, weights=files_of(paths))
    return Checkpoint(card, tuple(paths.values()), previous=previous)


def _of_bundle(folder: Path) -> Checkpoint:
    bundle = monai_bundle.read_monai_bundle(folder)
    card = replace(card_of_bundle(bundle), weights=files_of({bundle.weights.name: bundle.weights}))
    return Checkpoint(card, (bundle.weights,))


def _is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive of files, and not one tensor file of torch, which is a zip too."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return path.suffix.lower() == ".zip"  # damaged, empty or something else: unpacking says what
        with zipfile.ZipFile(path) as archive:
            return not any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return path.suffix.lower() == ".zip"


def _inner(folder: Path) -> Path:
    """Return the folder with the card where an archive holds one folder that has it, else the folder itself.

    Others may lie beside it: macOS adds one of its own to every archive.
    """
    inside = [place for place in folder.iterdir() if (place / CARD_FILE).is_file()]
    return inside[0] if len(inside) == 1 and not (folder / CARD_FILE).is_file() else folder


def _nothing_to_choose(path: Path, choice: Choice) -> None:
    if choice != Choice():
        raise CheckpointError(
            f"{path}: --configuration, --folds and --best are for models of nnU-Net, and this is none."
        )


def _known() -> str:
    return KNOWN.format(", ".join(name for name in known_architectures() if name != "threshold"))


__all__ = ["FIRST_STAGE", "Choice", "open_checkpoint"]
