"""The checkpoints that a module offers: which there are, which can be used, which was used last."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from thoraxseg.checkpoints import Card, home, list_published, read_catalog
from thoraxseg.checkpoints.catalog import folder_of
from thoraxseg.checkpoints.published import Published
from thoraxseg.checkpoints.structures import named
from thoraxseg.errors import CheckpointError, OutputError
from thoraxseg.files import publish_together

if TYPE_CHECKING:
    from thoraxseg.checkpoints import About
    from thoraxseg.job import Job
    from ThoraxSegLib.Logic import ThoraxSegLogic
    from ThoraxSegLib.Tasks import Task

logger = logging.getLogger(__name__)

LAST_USED_FILE = "last-used.json"
"""In `thoraxseg.checkpoints.home()`: task -> name of the checkpoint used last; each module remembers its own."""


@dataclass(frozen=True)
class Entry:
    """One checkpoint as a list shows it."""

    name: str
    """Of the catalog, for `Runs.start`; of a published model, for `install`."""
    title: str
    species: str
    modality: str
    license: str
    structures: tuple[str, ...]
    """What it finds, in words."""
    isInstalled: bool
    """Whether its files are on this machine."""
    problem: str
    """Why it cannot be used now and what to do, as a sentence; empty for one that can."""
    tooltip: str
    """Rich text, with everything from outside escaped."""

    @property
    def isReady(self) -> bool:
        """Whether a run may be started with it."""
        return self.isInstalled and not self.problem


class Catalog:
    """The checkpoints of a module's task, and those of no task that find some of its structures."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic

    def entries(self) -> list[Entry]:
        """Return all that the module may offer: ready ones first, of these the one used last, then by title.

        Also listed are published models that are not here yet, and damaged cards with what is wrong with them.
        """
        cards, wrong = read_catalog()
        task = self.logic.task
        found = [_entryOf(card, wrong.get(name, "")) for name, card in cards.items() if _belongs(card, task)]
        found += [
            _entryOfPublished(published)
            for name, published in list_published().items()
            if name not in cards and name not in wrong and _mayBelong(published, task)
        ]
        found += [_entryOfDamaged(name, said) for name, said in wrong.items() if name not in cards]
        last = self.lastUsed()
        return sorted(
            found, key=lambda e: (not e.isReady, e.name != last, not e.isInstalled, e.title.casefold())
        )

    def card(self, name: str) -> Card:
        """Return the card of a checkpoint of the catalog, whatever its task.

        Raises CheckpointError when no checkpoint has the name, or its card is damaged.
        """
        cards, wrong = read_catalog()
        if name in wrong:
            raise CheckpointError(wrong[name])
        if not name:
            raise CheckpointError(_("No checkpoint is chosen. Choose one."))
        if name in cards:
            return cards[name]
        if name in list_published():
            raise CheckpointError(
                _("The checkpoint {name} is not on this machine yet. Install it first.").format(name=name)
            )
        raise CheckpointError(
            _("There is no checkpoint {name}. Choose one of the list, or install it first.").format(
                name=repr(name)
            )
        )

    def check(self, name: str) -> None:
        """Do nothing if a run of this module may use the checkpoint.

        Raises CheckpointError, with what to do, for one that is unknown, damaged, not installed, of the other module,
        or of no task and without any structure of this one.
        """
        card = self.card(name)
        task = self.logic.task
        if not _belongs(card, task):
            finds = ", ".join(structure.name for structure in card.labels.values())
            raise CheckpointError(
                _(
                    "The checkpoint {name} is not for {title}: it finds {finds}. Choose another checkpoint or the "
                    "other module."
                ).format(name=name, title=task.title, finds=finds)
            )
        missing = _missing(card)
        if missing:
            raise CheckpointError(missing)

    def lastUsed(self) -> str:
        """Return the name of the checkpoint that this module used last, "" if none or if it is gone."""
        name = _readLastUsed().get(self.logic.task.key, "")
        return name if isinstance(name, str) and name in read_catalog()[0] else ""

    def remember(self, name: str) -> None:
        """Keep the name of the checkpoint used last, whole or not at all; the other module's stays.

        A folder that cannot be written is told in the log only: no run should fail for it.
        """
        known = {**_readLastUsed(), self.logic.task.key: name}
        try:
            with publish_together(home()) as scratch:
                (scratch / LAST_USED_FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        except OutputError as error:
            logger.warning("The checkpoint used last cannot be remembered: %s", error)

    def install(self, source: str, sha256: str | None = None, about: About | None = None) -> Job:
        """Begin to install a checkpoint from a file, a folder, an https address or by its name; `result()` is its name.

        The work is done by the child process of `logic.runs`. Raises OptionError while that is busy.
        """
        return self.logic.runs.engine.install(source, sha256, about)


def _belongs(card: Card, task: Task) -> bool:
    """Tell whether a module offers a card: it is of its task, or of none and finds some of its structures."""
    if card.task != "other":
        return card.task == task.key
    return _shares((structure.key for structure in card.labels.values()), task)


def _mayBelong(published: Published, task: Task) -> bool:
    if published.task != "other":
        return published.task == task.key
    return _shares((named(name, 0).key for name in published.structures), task)


def _shares(keys: Iterable[str], task: Task) -> bool:
    return bool({*keys} & {*task.structureKeys})


def _missing(card: Card) -> str:
    """Return which file of a checkpoint is not on this machine and what to do; "" if all are there.

    Their digests are compared by whoever opens them: that takes seconds and is not for a list.
    """
    gone = [file.name for file in card.weights if not (folder_of(card) / file.name).is_file()]
    if not gone:
        return ""
    if len(gone) == len(card.weights):
        return _("The checkpoint {name} is not on this machine yet. Install it first.").format(name=card.name)
    return _("The checkpoint {name} lacks {file}. Remove it and install it again.").format(
        name=card.name, file=gone[0]
    )


def _entryOf(card: Card, wrong: str) -> Entry:
    missing = _missing(card)
    structures = tuple(structure.name for structure in card.labels.values())
    about = [
        (_("Finds"), ", ".join(structures)),
        (_("Validation"), card.validation),
        (_("License"), card.license),
        (_("Citation"), card.citation),
        (_("Assumed"), " ".join(card.assumed)),
    ]
    return Entry(
        card.name,
        card.title,
        card.species,
        card.modality,
        card.license,
        structures,
        not missing,
        wrong or missing,
        _tooltip(card.title, wrong or missing, card.description, about),
    )


def _entryOfPublished(published: Published) -> Entry:
    if published.url:
        size = _(" ({size:.1f} GB)").format(size=published.size_bytes / 1e9) if published.size_bytes else ""
        problem = _("Not on this machine yet{size}. Install it first.").format(size=size)
    else:
        problem = _(
            "It cannot be fetched from here. Download its files from {page} with a browser, then install them from "
            "the file."
        ).format(page=published.page)
    about = [
        (_("Finds"), ", ".join(published.structures)),
        (_("License"), published.license),
        (_("Citation"), published.citation),
        (_("Page"), published.page),
    ]
    return Entry(
        published.name,
        published.title,
        published.species,
        published.modality,
        published.license,
        published.structures,
        False,
        problem,
        _tooltip(published.title, problem, published.description, about),
    )


def _entryOfDamaged(name: str, said: str) -> Entry:
    unknown = _("not stated")
    return Entry(name, name, unknown, unknown, "", (), False, said, _tooltip(name, said, "", []))


def _tooltip(title: str, problem: str, description: str, about: list[tuple[str, str]]) -> str:
    """Return rich text; cards come from outside, so nothing of theirs is taken for markup."""
    paragraphs = [f"<b>{_safe(title)}</b>"]
    paragraphs += [_safe(text) for text in (problem, description) if text]
    paragraphs += [f"<i>{_safe(what)}:</i> {_safe(text)}" for what, text in about if text]
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


def _safe(text: str) -> str:
    return html.escape("".join(letter if letter.isprintable() else " " for letter in text))


def _readLastUsed() -> dict[str, Any]:
    try:
        known = json.loads((home() / LAST_USED_FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # none yet, or spoiled by hand
        return {}
    return known if isinstance(known, dict) else {}
