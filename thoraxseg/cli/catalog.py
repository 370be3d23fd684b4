"""The commands around trained models: what there is, getting, checking, converting and removing them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from thoraxseg.checkpoints import About, Card, Choice
from thoraxseg.checkpoints.keep import Kept
from thoraxseg.cli.common import (
    Place,
    Text,
    choice_flags,
    common,
    console,
    json_flag,
    progress_bar,
)


@click.group()
def checkpoints() -> None:
    """Show, fetch, check, convert and remove trained models."""


@checkpoints.command("list")
@json_flag
@common
def list_checkpoints(as_json: bool) -> None:
    """List trained models: those here and those published elsewhere."""
    from rich.padding import Padding

    from thoraxseg.checkpoints import is_installed, list_published, read_catalog
    from thoraxseg.report import printable

    cards, wrong = read_catalog()
    rows = [_row(card, is_installed(card)) for card in cards.values()]
    rows += [
        {
            "name": entry.name,
            "title": entry.title,
            "species": entry.species,
            "modality": entry.modality,
            "structures": list(entry.structures),
            "license": entry.license,
            "installed": False,
            "size_bytes": entry.size_bytes,
            "page": entry.page,
            "fetched": bool(entry.url),
        }
        for entry in list_published().values()
        if entry.name not in cards
    ]
    if as_json:
        damaged = [{"name": name, "installed": False, "problem": said} for name, said in wrong.items()]
        click.echo(json.dumps(rows + damaged, indent=2))
        return
    screen = console()
    groups = {
        "Ready to use": [row for row in rows if row["installed"]],
        "Fetched with 'thoraxseg checkpoints install NAME'": [
            row for row in rows if not row["installed"] and row["fetched"]
        ],
        "Damaged; 'thoraxseg checkpoints verify NAME' says what is wrong": [
            row for row in rows if not row["installed"] and not row["fetched"] and not row["page"]
        ],
        "Published elsewhere; 'thoraxseg checkpoints show NAME' says how to get it": [
            row for row in rows if not row["installed"] and not row["fetched"] and row["page"]
        ],
    }
    for title, members in groups.items():
        if members:
            screen.print(f"\n{title}", style="bold")
        for row in members:
            use = use_words(row["species"], row["modality"])
            screen.print(f"\n  {row['name']}", style="cyan")
            screen.print(Padding(f"{use}: {', '.join(row['structures'])}", (0, 0, 0, 4)))
            said = f"{size_words(row['size_bytes'])}; license: {printable(row['license'])}"
            screen.print(Padding(said, (0, 0, 0, 4)), style="dim")
    for said in dict.fromkeys(wrong.values()):
        screen.print(f"\nPlease check: {printable(said)}", style="yellow")


def _row(card: Card, installed: bool) -> dict[str, Any]:
    return {
        "name": card.name,
        "title": card.title,
        "species": card.species,
        "modality": card.modality,
        "structures": [structure.name for structure in card.labels.values()],
        "license": card.license,
        "installed": installed,
        "size_bytes": sum(file.size_bytes for file in (*card.weights, *card.samples)),
        "page": "",
        "fetched": card.source.kind == "python-package",
    }


def use_words(species: str, modality: str) -> str:
    """Return what a model is for, as `mouse MRI`; what is not stated is said once."""
    if "not stated" in (species, modality):
        known = [word for word in (species, modality) if word != "not stated"]
        return ", ".join([*known, "species or modality not stated"])
    return f"{species} {modality}"


def size_words(size_bytes: int | None) -> str:
    """Return a size for people, as `12 MB`; empty where it is not known."""
    if size_bytes is None:
        return "size not known"
    if size_bytes < 1e6:
        return f"{max(size_bytes, 1000) / 1e3:.0f} kB"
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"


@checkpoints.command("show")
@click.argument("name", type=Text())
@choice_flags
@json_flag
@common
def show_checkpoint(name: str, choice: Choice, as_json: bool) -> None:
    """Show all that is known of a model.

    NAME is one from the list, or a path to a model.
    """
    from thoraxseg.checkpoints import list_cards, list_published, open_checkpoint
    from thoraxseg.checkpoints.card import card_text
    from thoraxseg.checkpoints.published import how_to_get
    from thoraxseg.report import printable

    published, cards = list_published(), list_cards()
    screen = console()
    if name in published and name not in cards and not Path(name).exists():
        entry = published[name]
        if as_json:
            click.echo(json.dumps(vars(entry), indent=2, ensure_ascii=False))
            return
        use = use_words(entry.species, entry.modality)
        digest = entry.sha256 or "none published: it will be shown after fetching, not compared"
        _print_pairs(
            screen,
            entry.title,
            {
                "name": entry.name,
                "for": use,
                "finds": ", ".join(entry.structures),
                "what it is": entry.description,
                "files": f"{entry.format}, {size_words(entry.size_bytes)}",
                "SHA-256": digest,
                "license": entry.license,
                "cite": entry.citation,
                "page": entry.page,
                "facts": entry.facts,
                "how to get": how_to_get(entry),
            },
        )
        return
    # A card of the catalog can be shown before its files are here.
    opened = None if name in cards and choice == Choice() else open_checkpoint(name, choice)
    card = cards[name] if opened is None else opened.card
    if as_json:
        click.echo(card_text(card), nl=False)
        return
    _print_pairs(screen, card.title, _about(card))
    for said in () if opened is None else opened.assumed:
        screen.print(f"Please check: {printable(said)}", style="yellow")


def _about(card: Card) -> dict[str, str]:
    spacing = card.input.spacing_mm
    total = size_words(sum(file.size_bytes for file in card.weights))
    about = {
        "name": card.name,
        "for": use_words(card.species, card.modality),
        "finds": ", ".join(f"{label} {structure.name}" for label, structure in card.labels.items()),
        "what it is": card.description,
        "channels": ", ".join(
            channel.name if channel.source == "image" else f"{channel.name} (made by --lungs or given)"
            for channel in card.channels
        ),
        "spacing": "not stated"
        if spacing is None
        else " x ".join(f"{s:g}" for s in spacing) + " mm (k x j x i)",
        "orientation": "the file's own axes" if card.input.orientation.islower() else card.input.orientation,
        "network": f"{card.architecture.name}, {len(card.weights)} fold(s), {total}",
        "averages": card.inference.averaging,
    }
    if card.nnunet is not None:
        plan = card.nnunet
        about["nnU-Net"] = f"{plan.origin.value}, {plan.configuration}, {plan.trainer}, reader {plan.reader}"
        if plan.previous_stage is not None:
            about["cascade"] = f"after its own {plan.previous_stage}"
    about |= {f"weights {n}": f"{file.name}, SHA-256 {file.sha256}" for n, file in enumerate(card.weights)}
    return about | {
        "license": card.license,
        "cite": card.citation,
        "validation": card.validation,
    }


def _print_pairs(screen: Any, title: str, pairs: dict[str, str]) -> None:
    from rich.table import Table

    from thoraxseg.report import printable

    screen.print(printable(title), style="bold")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for key, value in pairs.items():
        grid.add_row(key, printable(value))
    screen.print(grid)


def about_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say what a model's files do not, and hand the command one `about`."""
    import functools

    from thoraxseg.checkpoints.card import MODALITIES, SPECIES
    from thoraxseg.checkpoints.describe import parse_labels

    @click.option("--name", type=Text(), help="Name in the catalog.  [default: from the model]")
    @click.option("--title", type=Text(), help="A line for people.")
    @click.option("--species", type=click.Choice(SPECIES), help="Species of the training data.")
    @click.option("--modality", type=click.Choice(MODALITIES), help="Modality of the training data.")
    @click.option(
        "--labels",
        metavar="LIST",
        help="What the labels stand for, such as '1=heart,2=spinal cord,3=right lung,4=left lung'.",
    )
    @click.option(
        "--orientation",
        metavar="CODES",
        help="Where the axes i, j, k of the training images ran to, as in LPS. Images are then turned to it; without "
        "it, an nnU-Net model sees the file's own axes.",
    )
    @click.option("--license", "license_", type=Text(), help="License of the weights.")
    @functools.wraps(command)
    def wrapped(
        name: str | None,
        title: str | None,
        species: str | None,
        modality: str | None,
        labels: str | None,
        orientation: str | None,
        license_: str | None,
        **kwargs: Any,
    ) -> None:
        named = None if labels is None else parse_labels(labels)
        about = About(
            name=name,
            title=title,
            species=species,
            modality=modality,
            labels=named,
            orientation=orientation,
            license=license_,
        )
        command(about=about, **kwargs)

    return wrapped


@checkpoints.command("install")
@click.argument("source", type=Text())
@about_flags
@choice_flags
@click.option("--sha256", metavar="HEX", help="SHA-256 that the file must have.")
@common
def install_checkpoint(source: str, about: About, choice: Choice, sha256: str | None) -> None:
    """Put a model into the catalog and verify it.

    SOURCE is a name from the list, a model folder or zip of nnU-Net (1 or 2), a MONAI bundle, a file of weights, a
    folder with a card, or the https address of such a file. A broken download goes on where it ended. Nothing in
    the files is run.

    \b
    Examples:
      thoraxseg checkpoints install deepmeta-mouse-mri
      thoraxseg checkpoints install model.zip --configuration 3d_fullres
      thoraxseg checkpoints install model.zip --name mouse-ct --species mouse
    """  # noqa: D301 - click wants the control character
    from thoraxseg.checkpoints import install

    if sha256 is not None:
        sha256 = _digest(sha256)
    with progress_bar() as progress:
        kept = install(source, about, choice, sha256, progress)
    _tell_kept(kept)


def _tell_kept(kept: Kept) -> None:
    from thoraxseg.report import printable

    click.echo(printable(f"{kept.card.name} is in {kept.folder}"))
    for said in kept.notes:
        click.echo(printable(f"Note: {said}"))


@checkpoints.command("convert")
@click.argument("source", type=Text())
@click.option("-o", "--output", required=True, type=Place(), help="New folder for card.json and weights.")
@about_flags
@choice_flags
@common
def convert_checkpoint(source: str, output: Path, about: About, choice: Choice) -> None:
    """Write a model as safetensors and a card to correct.

    SOURCE is whatever 'segment --checkpoint' takes. No value changes; the folder can be given to 'segment', sent to
    colleagues, or installed.
    """
    from thoraxseg.checkpoints import convert

    with progress_bar() as progress:
        kept = convert(source, output, about, choice, progress)
    _tell_kept(kept)


@checkpoints.command("verify")
@click.argument("names", nargs=-1, type=Text())
@common
def verify_checkpoints(names: tuple[str, ...]) -> None:
    """Compare installed models with their cards, bit for bit.

    Their weights must also fit their networks. Without NAMES, all that are installed.
    """
    from thoraxseg.checkpoints import read_catalog, verify_installed
    from thoraxseg.checkpoints.keep import is_here
    from thoraxseg.errors import CheckpointError

    cards, damaged = read_catalog()
    if unknown := [name for name in names if name not in cards and name not in damaged]:
        raise CheckpointError(
            f"unknown checkpoint {unknown[0]!r}; the catalog has {', '.join(sorted(cards))}."
        )
    wanted = names or list(dict.fromkeys([*(name for name in cards if is_here(cards[name])), *damaged]))
    wrong = []
    for name in wanted:
        try:
            if name in damaged:
                raise CheckpointError(damaged[name])
            read = verify_installed(cards[name])
        except CheckpointError as error:
            wrong.append(str(error))
            click.echo(f"{name}: WRONG")
        else:
            click.echo(f"{name}: {size_words(read)}, as on its card")
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(wanted)} checkpoint(s) are not as on their cards. {' '.join(wrong)}"
        )


@checkpoints.command("remove")
@click.argument("name", type=Text())
@common
def remove_checkpoint(name: str) -> None:
    """Delete an installed model and free its disk space."""
    from thoraxseg.checkpoints import remove

    freed = remove(name)
    click.echo(f"{name} was removed; {size_words(freed)} are free again.")


def _digest(text: str) -> str:
    from thoraxseg.errors import OptionError

    text = text.strip().lower()
    if len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
        raise OptionError(f"--sha256: expected 64 hexadecimal digits, got {text[:80]!r}.")
    return text
