"""Which checkpoints exist and where their files lie."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    previous: Checkpoint | None = None
    """The first stage of a cascade of nnU-Net."""
    lungs: Checkpoint | None = None
    """What makes the lung map of a network that takes one."""
    members: tuple[Checkpoint, ...] = ()
    """The parts of an ensemble, which has no weights of its own."""
    shares: tuple[float, ...] = ()
    """What each member counts, in sum 1."""
    space: str = ""
    """What an ensemble averages: `probabilities` or `logits`."""
    scratch: Any = field(default=None, compare=False, repr=False)
    """Keeps the folder of an unpacked archive on the disk for as long as the checkpoint is in use."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """What was assumed because the files do not tell it; every result says so."""
        return self.card.assumed


def home() -> Path:
    """Return the user's folder for checkpoints: `$THORAXSEG_HOME`, else the system's place for app data.

    Without a package for it: the panels in 3D Slicer list checkpoints before anything could be installed there.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        place = Path.home() / "Library" / "Application Support"
    else:
        place = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(place) / "thoraxseg"


def list_cards() -> dict[str, Card]:
    """Return the cards that come with ThoraxSeg and those in the user's folder that can be used, by name."""
    return read_catalog()[0]


def read_catalog() -> tuple[dict[str, Card], dict[str, str]]:
    """Return the cards that can be used, by name, and what is wrong with others, by every name they lay claim to.

    A user's card lies in `checkpoints/NAME/card.json`. It is wrong when it is damaged, lies in a folder of another
    name, or takes a name already in use. A name that is claimed wrongly may have a usable card too: which is meant
    is not known.
    """
    cards = {card.name: card for card in map(read_card, sorted(_BUNDLED_CARDS.glob("*.json")))}
    wrong: dict[str, str] = {}
    for path in sorted((home() / "checkpoints").glob(f"[!.]*/{CARD_FILE}")):  # one with a dot is being made
        name = path.parent.name
        try:
            card = read_card(path)
        except CheckpointError as error:
            wrong[name] = (
                f"{error} Until then {name} cannot be opened; 'thoraxseg checkpoints remove {name}' takes it away."
            )
            continue
        if card.name in cards:
            said = f"{path}: the name {card.name!r} belongs to another checkpoint; rename this one."
        elif card.name != name or card.source.kind == "bundled":
            said = (
                f"{path}: expected a card of source kind 'local' or 'python-package' in a folder named "
                f"{card.name!r}; rename the folder or correct the card."
            )
        else:
            cards[name] = card
            continue
        wrong |= {name: said, card.name: said}
    return cards, wrong


def folder_of(card: Card) -> Path:
    """Return the folder in which the card's files are kept on this machine, whether it exists or not."""
    return _BUNDLED_WEIGHTS if card.source.kind == "bundled" else home() / "checkpoints" / card.name


def verify(path: Path, file: CardFile, card: Card) -> None:
    """Raise CheckpointError unless the file is there and is, bit for bit, the one the card names."""
    if not path.is_file():
        fetched = card.source.kind == "python-package"
        again = (
            f"Put it beside its card, or run 'thoraxseg checkpoints remove {card.name}' and install it again."
        )
        remedy = f"Run 'thoraxseg checkpoints install {card.name}'." if fetched else again
        raise CheckpointError(
            f"checkpoint {card.name}: its file {file.name} is not on this machine. {remedy}"
        )
    digest = _digest(path)
    if digest != file.sha256:
        raise CheckpointError(
            f"{path}: expected SHA-256 {file.sha256[:12]}... as on the card of {card.name}, got "
            f"{digest[:12]}...: the file is damaged or another one. Run 'thoraxseg checkpoints remove {card.name}' "
            "and install it again."
        )


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error.strerror or error}.") from error
