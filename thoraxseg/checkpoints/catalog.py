"""Which checkpoints exist and where their files lie; a name or a path in, a verified checkpoint out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from thoraxseg.checkpoints.card import Card, CardFile, read_card
from thoraxseg.errors import CheckpointError
from thoraxseg.files import sha256_file

HOME_VARIABLE = "THORAXSEG_HOME"
CARD_FILE = "card.json"
_BUNDLED_CARDS = Path(__file__).parent / "cards"
_BUNDLED_WEIGHTS = Path(__file__).parent / "weights_bundled"


@dataclass(frozen=True)
class Checkpoint:
    """A card together with its weight files, which have the digests the card states."""

    card: Card
    weights: tuple[Path, ...]


def home() -> Path:
    """Return the user's folder for checkpoints: `$THORAXSEG_HOME`, else the system's place for app data."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen)
    from platformdirs import user_data_dir

    return Path(user_data_dir("thoraxseg", appauthor=False))


def list_cards() -> dict[str, Card]:
    """Return the cards that come with ThoraxSeg and those in the user's folder, by name.

    A user's card lies in `checkpoints/NAME/card.json`. Raises CheckpointError for one that is damaged, lies
    in a folder of another name, or takes a name already in use.
    """
    cards = {card.name: card for card in map(read_card, sorted(_BUNDLED_CARDS.glob("*.json")))}
    for path in sorted((home() / "checkpoints").glob(f"*/{CARD_FILE}")):
        card = read_card(path)
        if card.name in cards:
            raise CheckpointError(
                f"{path}: the name {card.name!r} belongs to another checkpoint; rename this one."
            )
        if card.name != path.parent.name or card.source.kind == "bundled":
            raise CheckpointError(
                f"{path}: expected a card of source kind 'local' or 'python-package' in a folder named "
                f"{card.name!r}; rename the folder or correct the card."
            )
        cards[card.name] = card
    return cards


def folder_of(card: Card) -> Path:
    """Return the folder in which the card's files are kept on this machine, whether it exists or not."""
    return _BUNDLED_WEIGHTS if card.source.kind == "bundled" else home() / "checkpoints" / card.name


def open_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint of a catalog name, a folder with `card.json`, a card, or a known weights file.

    Every weight file is hashed and compared with the card. Raises CheckpointError when the name is
    unknown, a file is missing or its SHA-256 is not the card's.
    """
    text = os.fspath(name_or_path)
    cards = list_cards()
    if text in cards:
        return _verified(cards[text], folder_of(cards[text]))
    path = Path(text)
    if path.is_dir():
        return _verified(read_card(path / CARD_FILE), path)
    if path.is_file() and path.suffix == ".json":
        return _verified(read_card(path), path.parent)
    if path.is_file():
        return _recognized(path, cards)
    close = get_close_matches(text, cards, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise CheckpointError(
        f"unknown checkpoint {text!r}: neither a name in the catalog ({', '.join(sorted(cards))}) nor an "
        f"existing file or folder.{hint}"
    )


def _verified(card: Card, folder: Path) -> Checkpoint:
    for file in card.weights:
        verify(folder / file.name, file, card)
    return Checkpoint(card, tuple(folder / file.name for file in card.weights))


def verify(path: Path, file: CardFile, card: Card) -> None:
    """Raise CheckpointError unless the file is there and is, bit for bit, the one the card names."""
    if not path.is_file():
        fetched = card.source.kind == "python-package"
        remedy = f"Run 'thoraxseg checkpoints install {card.name}'." if fetched else "Put it beside its card."
        raise CheckpointError(
            f"checkpoint {card.name}: its file {file.name} is not on this machine. {remedy}"
        )
    digest = _digest(path)
    if digest != file.sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {file.sha256[:12]}... as on the card of {card.name}, got "
            f"{digest[:12]}...: the file is damaged or another one. Delete it and install the checkpoint again."
        )


def _recognized(path: Path, cards: dict[str, Card]) -> Checkpoint:
    digest = _digest(path)
    for card in cards.values():
        if [file.sha256 for file in card.weights] == [digest]:
            return Checkpoint(card, (path,))
    raise CheckpointError(
        f"{path.name}: SHA-256 {digest[:12]}... is on no card of the catalog ({', '.join(sorted(cards))}). "
        f"Put a {CARD_FILE} that describes these weights beside them and give the folder."
    )


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error.strerror or error}.") from error
