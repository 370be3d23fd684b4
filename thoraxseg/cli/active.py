"""The commands of active learning: what to correct next, which files were accepted, and data sets made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thoraxseg.checkpoints.card import SPECIES
from thoraxseg.cli.common import Place, Text, common, json_flag, progress_bar, wide_console
from thoraxseg.cli.common import table as new_table
from thoraxseg.errors import InputError, OptionError, ThoraxSegError

if TYPE_CHECKING:
    from thoraxseg.export import Exported
    from thoraxseg.study import Store, Who
    from thoraxseg.training.ranking import Ranking

MOST_REASONS = 3
LABELS_HELP = "What the labels of a plain label map are; a .seg.nrrd says it itself."


@click.command()
@click.argument("results", nargs=-1, type=Place())
@click.option(
    "--study", type=Place(), help="Study file: its runs, their animals, and what is accepted already."
)
@click.option(
    "--animals",
    type=Text(),
    help="Which animal each case is of: a table (case, animal), a pattern whose first group it is, or 'case' where "
    "each is one of its own.",
)
@click.option(
    "--done", multiple=True, type=Place(), help="Table (CSV) with a column case: these are labeled."
)
@click.option("--images", type=Place(), help="Table (CSV) with case and image: their gray values count too.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many to show.")
@click.option("-o", "--output", type=Place(), help="Folder for ranking.csv and ranking.json.")
@json_flag
@common
def rank(
    results: tuple[Path, ...],
    study: Path | None,
    animals: str | None,
    done: tuple[Path, ...],
    images: Path | None,
    top: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say which scans to correct next.

    RESULTS are folders that 'thoraxseg segment' wrote, or folders of them. Without any, those that the study names
    ('study log run --record').

    First come scans that the model doubts, with volumes or places that are not usual, or with organs that were not
    found; of scans that are alike one, and of each animal one before any has two. The JSON has the formula.

    \b
    Example:
      thoraxseg study rank results --study mice.sqlite -o next
    """  # noqa: D301 - click wants the control character
    from thoraxseg.files import check_output
    from thoraxseg.study import open_study
    from thoraxseg.training.ranking import FILES, write_ranking
    from thoraxseg.training.ranking import rank as ranked

    if not results and study is None:
        raise OptionError("expected folders with results, or --study with a study file that names some.")
    if output is not None:
        check_output(output, FILES)
    store = open_study(study) if study is not None else None
    with progress_bar() as progress:
        found = ranked(results, store, animals, done, _images_in(images), progress)
    if output is not None:
        write_ranking(output, found)
    if as_json:
        click.echo(json.dumps(found.to_record(), indent=2, allow_nan=False))
    else:
        _show_ranking(found, top, [] if output is None else [output / name for name in FILES])
    if found.broken:
        reasons = "; ".join(reason for _, reason in found.broken[:MOST_REASONS])
        more = len(found.broken) - MOST_REASONS
        rest = f"; and {more} more, see 'broken' in the JSON" if more > 0 else ""
        raise InputError(
            f"{len(found.broken)} result(s) could not be read, all others were ranked: {reasons}{rest}"
        )


@click.command()
@click.argument("path", metavar="STUDY", type=Place())
@click.argument("table", type=Place())
@click.option("--labels", metavar="N=NAME,...", type=Text(), help=LABELS_HELP)
@common
def files(path: Path, table: Path, labels: str | None) -> None:
    """Say which files were accepted in STUDY.

    TABLE is a CSV with the columns animal, image and mask, and perhaps scan and operator: where the animal has one
    scan, or one person accepted it, these say themselves. Paths are relative to the table. Only scans whose verdict is
    'accepted' take files; from then on the mask must not change. All rows are looked at first; one that is wrong fails
    the whole table.
    """
    from thoraxseg.study import open_study

    store = open_study(path)
    rows = _rows_of(store, table)
    with progress_bar() as progress:
        looked_at = []
        for n, (where, who, image, mask) in enumerate(rows):
            progress(n / len(rows), "Looking at the files")
            try:
                looked_at.append((who, image, mask, *look_at_files(image, mask, labels)))
            except ThoraxSegError as error:
                raise type(error)(f"{where}: {error} No file was named.") from error
    for one in looked_at:
        name_files(store, *one)
    from thoraxseg.cli.common import console

    console().print(f"Named the files of {len(rows)} scan(s).")


@click.command("export-dataset")
@click.argument("path", metavar="STUDY", type=Place())
@click.option("-o", "--output", type=Place(), required=True, help="Folder in which the data set is made.")
@click.option(
    "--id", "number", type=int, required=True, help="nnU-Net's number of the data set, such as 101."
)
@click.option("--name", type=Text(), required=True, help="Name of the data set, such as MiceCT.")
@click.option(
    "--channel",
    type=Text(),
    required=True,
    help="What the images are, such as CT or MRI. nnU-Net takes the values of CT as absolute ones.",
)
@click.option(
    "--species",
    type=click.Choice(SPECIES),
    default="not stated",
    show_default=True,
    help="Whose scans these are.",
)
@click.option("--structures", metavar="A,B,...", type=Text(), help="What to export.  [default: all reviewed]")
@click.option("--operator", type=Text(), help="Only what this person accepted.")
@click.option("--anonymous", is_flag=True, help="Codes for animals and scans; no dates, people or paths.")
@click.option(
    "--skip-incomplete", is_flag=True, help="Leave out cases in which a structure was not reviewed."
)
@click.option("--skip-broken", is_flag=True, help="Leave out cases whose files cannot be used.")
@json_flag
@common
def export_dataset(path: Path, output: Path, operator: str | None, as_json: bool, **given: Any) -> None:
    """Make a data set of what was accepted in STUDY.

    A new folder OUTPUT/DatasetNNN_NAME: nnU-Net's raw layout, with animals.csv, and a manifest for 'thoraxseg train'
    on the same files. Only contours whose verdict is 'accepted' and that were not changed since go into it. A structure
    that was not reviewed in some case would be learned as background there: that is refused.

    \b
    Example:
      thoraxseg study export-dataset mice.sqlite -o data --id 101 \\
        --name MiceCT --channel CT
    """  # noqa: D301 - click wants the control character
    from thoraxseg import export
    from thoraxseg.study import acceptance, open_study

    wanted = given.pop("structures")
    structures = tuple(part.strip() for part in wanted.split(",") if part.strip()) if wanted else ()
    options = export.ExportOptions(**given, structures=structures, modality=_modality(given["channel"]))
    with progress_bar() as progress:
        done = export.export_dataset(acceptance(open_study(path), operator), output, options, progress)
    if as_json:
        click.echo((done.folder / "export.json").read_text("utf-8"))
        return
    _show_exported(done)


def look_at_files(image: Path, mask: Path, labels: str | None) -> tuple[dict[int, str], str]:
    """Return what was reviewed in a mask, label -> key, and the digest of the image; both must lie on one grid."""
    from thoraxseg import export
    from thoraxseg.checkpoints.describe import parse_labels
    from thoraxseg.io import hash_input

    structures = export.reviewed_structures(mask, None if labels is None else parse_labels(labels))
    export.check_pair(image, mask)
    return structures, hash_input(image)


def name_files(
    store: Store, who: Who, image: Path, mask: Path, structures: dict[int, str], image_sha256: str
) -> None:
    """Write the files of an accepted scan into the study."""
    from thoraxseg.study import name_contours

    name_contours(store, who, image, mask, structures, image_sha256)


def _rows_of(store: Store, path: Path) -> list[tuple[str, Who, Path, Path]]:
    """Return the rows of a table of files: where it stands, whose verdict it is, image and mask."""
    from thoraxseg.study import Who, reviews
    from thoraxseg.study.accepted import ACCEPTED
    from thoraxseg.tables import read_table

    table = read_table(path, ("animal", "image", "mask"))
    accepted = [review for review in reviews(store) if review.verdict == ACCEPTED]
    rows = []
    for row in table.rows:
        scan, operator = row.values.get("scan", ""), row.values.get("operator", "")
        fitting = [
            review
            for review in accepted
            if review.animal == row["animal"]
            and scan in ("", review.scan)
            and operator in ("", review.operator)
        ]
        if len(fitting) != 1:
            known = ", ".join(f"scan {one.scan} by {one.operator}" for one in fitting[:5]) or "none"
            raise InputError(
                f"{table.where(row)}: expected one accepted scan of {row['animal']!r:.80}, got {known}. Fill the "
                "columns scan and operator; only accepted scans take files."
            )
        one = fitting[0]
        home = table.path.parent
        who = Who(one.animal, one.scan, one.operator)
        rows.append((table.where(row), who, home / row["image"], home / row["mask"]))
    return rows


def _images_in(path: Path | None) -> dict[str, Path]:
    from thoraxseg.tables import read_table

    if path is None:
        return {}
    return {row["case"]: path.parent / row["image"] for row in read_table(path, ("case", "image")).rows}


def _modality(channel: str) -> str:
    """Return the modality that the name of the channel says for sure; CT may be micro-CT."""
    return "MRI" if channel.strip().upper() in ("MRI", "MR") else "not stated"


def _show_ranking(found: Ranking, top: int, paths: Sequence[Path]) -> None:
    from thoraxseg.report import printable

    screen = wide_console()
    table = new_table("Place", "Case", "Animal", "Score", "New", "Why")
    for one in found.ranked[:top]:
        numbers = f"{one.score:.2f}", f"{one.novelty:.2f}"
        table.add_row(
            str(one.place), printable(one.case), printable(one.animal), *numbers, printable(one.reason)
        )
    if found.ranked:
        screen.print(table)
    else:
        screen.print("There is nothing left to correct.")
    more = len(found.ranked) - top
    parts = [f"{len(found.ranked)} to correct" + (f", {more} of them not shown" if more > 0 else "")]
    parts += [f"{len(found.left_out)} left out", f"{len(found.broken)} that cannot be read"]
    screen.print(f"{'; '.join(parts)}.")
    for path in paths:
        screen.print(f"  {printable(str(path))}", soft_wrap=True)
    for note in found.notes:
        screen.print(f"Note: {printable(note)}", style="cyan")
    for path, _ in found.broken:
        screen.print(f"Please check: {printable(path)}", style="yellow", soft_wrap=True)


def _show_exported(done: Exported) -> None:
    from thoraxseg import RESEARCH_USE
    from thoraxseg.cli.common import console
    from thoraxseg.report import printable

    screen = console()
    names = ", ".join(f"{label} {structure.name}" for label, structure in done.labels.items())
    screen.print(f"{len(done.cases)} case(s) of {done.animals} animal(s): {printable(names)}.")
    screen.print(f"  {printable(str(done.folder))}", soft_wrap=True)
    for note in done.notes:
        screen.print(f"Note: {printable(note)}", style="cyan")
    for one in done.left_out:
        screen.print(
            f"Left out: {printable(one.case)}: {printable(one.reason)}", style="yellow", soft_wrap=True
        )
    screen.print(RESEARCH_USE, style="dim")
