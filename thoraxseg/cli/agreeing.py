"""The commands that measure agreement: compare, observers, evaluate, stats."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thoraxseg.cli.common import Place, Text, common, json_flag, progress_bar, wide_console
from thoraxseg.errors import InputError, OptionError
from thoraxseg.options import parse_spacing
from thoraxseg.progress import Progress

if TYPE_CHECKING:
    from thoraxseg.agreement.writing import Report

output_flag = click.option(
    "-o",
    "--output",
    type=Place(),
    help="Folder for JSON, CSV, page and figures.  [default: thoraxseg-COMMAND, or none with --json]",
)


alpha_flag = click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="What p must be below to be called significant.",
)
MOST_LINES, MOST_REASONS = 12, 5
"""Remarks and reasons that a terminal shows; the files hold all."""


absent_flag = click.option(
    "--absent",
    type=click.Choice(["auto", "empty", "left-out"]),
    default="auto",
    show_default=True,
    help="What it means that a reference or an observer has no voxel of a structure. auto: nothing was found where the "
    "file is empty or the structure is tumors, else it was not contoured, and it is left out there.",
)


def reading_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say how mask files are understood, and hand the command one `reading`."""

    @click.option(
        "--labels",
        "names",
        multiple=True,
        metavar="[WHO:]N=NAME,...",
        type=Text(),
        help="Names of label values, of all label maps or of one file (WHO: reference, prediction, or an observer's or "
        "model's name), such as prediction:1=lungs,2=tumors. Values of one name are one structure; others are "
        "left out.",
    )
    @click.option(
        "--merge",
        multiple=True,
        metavar="NAME=A+B",
        type=Text(),
        help="Take structures together first, such as 'lungs=right lung+left lung'.",
    )
    @click.option(
        "--resample",
        is_flag=True,
        help="Bring masks on other grids onto the first one's (nearest neighbors) instead of refusing them.",
    )
    @click.option(
        "--spacing",
        metavar="MM",
        help="Voxel spacing slice,row,column in mm, only for stacks that state none (TIFF).",
    )
    @functools.wraps(command)
    def wrapped(
        names: tuple[str, ...], merge: tuple[str, ...], resample: bool, spacing: str | None, **kwargs: Any
    ) -> None:
        from thoraxseg.agreement.masks import Reading, parse_merge, parse_names

        spacing_mm = None if spacing is None else parse_spacing(spacing)
        command(reading=Reading(parse_names(names), parse_merge(merge), resample, spacing_mm), **kwargs)

    return wrapped


def measuring_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say how masks are compared, and hand the command one `how`."""

    @click.option(
        "--tolerance",
        type=float,
        help="Tolerance of the surface Dice in mm.  [default: the largest voxel spacing]",
    )
    @click.option(
        "--slice-axis",
        type=click.Choice(["k", "j", "i"]),
        default="k",
        show_default=True,
        help="Axis whose slices are scored one by one; k is the slowest in the file, as in stacks.",
    )
    @click.option(
        "--lesions",
        multiple=True,
        type=Text(),
        help="Structure (name or label) whose lesions are matched one by one.  [default: tumors]",
    )
    @click.option(
        "--empty-both",
        type=click.Choice(["one", "undefined"]),
        default="one",
        show_default=True,
        help="What two empty masks score in overlap.",
    )
    @functools.wraps(command)
    def wrapped(
        tolerance: float | None, slice_axis: str, lesions: tuple[str, ...], empty_both: str, **kwargs: Any
    ) -> None:
        from thoraxseg.agreement.measuring import DEFAULT_LESIONS, Measuring

        command(how=Measuring(tolerance, slice_axis, lesions or DEFAULT_LESIONS, empty_both), **kwargs)

    return wrapped


def hand_out(stem: str, output: Path | None, as_json: bool, work: Callable[[Progress], Report]) -> None:
    """Do the work, write its files, print its tables or its JSON; failed cases end with an error."""
    from thoraxseg.agreement.writing import free_folder, names_of, write
    from thoraxseg.files import check_output

    if output is None and not as_json:
        output = free_folder(stem)
    if output is not None:
        check_output(output, names_of(stem))
    with progress_bar() as progress:
        report = work(progress)
        paths = [] if output is None else write(report, output)
    if as_json:
        click.echo(json.dumps(report.record, indent=2, allow_nan=False))
    else:
        _show(report, paths)
    if report.failed:
        reasons = "; ".join(f"{one['case']}: {one['reason']}" for one in report.failed[:MOST_REASONS])
        more = len(report.failed) - MOST_REASONS
        rest = f"; and {more} more, see 'failures' in the JSON" if more > 0 else ""
        raise InputError(
            f"{len(report.failed)} file(s) or scan(s) could not be measured, all others were: {reasons}{rest}"
        )


def _show(report: Report, paths: list[Path]) -> None:
    from rich import box
    from rich.table import Table

    from thoraxseg.report import printable

    screen = wide_console()
    screen.print(f"{report.title}: {report.subtitle}", style="bold")
    for found in report.shown():
        rows = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column, kind in zip(found.columns, found.kinds, strict=True):
            rows.add_column(column, justify="right" if kind == "number" else "left", no_wrap=kind == "word")
        for row in found.rows:
            rows.add_row(*(printable(cell) for cell in row))
        screen.print(f"\n{found.title}")
        screen.print(rows)
        for note in found.footnotes:
            screen.print(f"  {printable(note)}", style="dim")
    for key, word, style in (("notes", "Note", "cyan"), ("warnings", "Please check", "yellow")):
        said = report.record[key]
        for text in said[:MOST_LINES]:
            screen.print(f"{word}: {text}", style=style)
        if len(said) > MOST_LINES:
            screen.print(f"{word}: {len(said) - MOST_LINES} more, see the page or the JSON.", style=style)
    told = [path for path in paths if path.suffix in (".json", ".html", ".csv", ".nrrd")]
    for path in sorted(told, key=lambda path: path.suffix == ".nrrd")[:MOST_LINES]:
        screen.print(f"  {printable(str(path))}", soft_wrap=True)
    if len(told) > MOST_LINES:
        screen.print(f"  and {len(told) - MOST_LINES} more files there")
    screen.print(report.record["notice"], style="dim")


@click.command()
@click.option("-r", "--reference", required=True, type=Place(), help="The masks that count as true.")
@click.option("-p", "--prediction", required=True, type=Place(), help="The masks that are judged.")
@output_flag
@reading_flags
@measuring_flags
@json_flag
@common
def compare(
    reference: Path, prediction: Path, output: Path | None, reading: Any, how: Any, as_json: bool
) -> None:
    """Measure how well a segmentation agrees with a reference.

    Takes label maps (NRRD, NIfTI, MetaImage, TIFF) and .seg.nrrd. Structures are matched by name where both files
    name them, else by label value. Gives overlap, surface distances in mm, volumes, means over slices and matched
    lesions of every structure, each with its definition.

    \b
    Examples:
      thoraxseg compare -r observer.seg.nrrd -p mouse.seg.nrrd -o agreement
      thoraxseg compare -r truth.nii.gz -p answer.nii.gz --labels 1=lungs
    """  # noqa: D301 - click wants the control character
    from thoraxseg.agreement.compare import compare as measured

    hand_out(
        "compare", output, as_json, lambda progress: measured(reference, prediction, reading, how, progress)
    )


@click.command()
@click.argument("masks", metavar="MASK MASK ...", nargs=-1, required=True, type=Place())
@output_flag
@click.option(
    "--model",
    "models",
    multiple=True,
    type=Text(),
    help="Column of a table that holds a model's masks: judged against the observers' consensus.",
)
@absent_flag
@click.option("--staple", is_flag=True, help="Write the consensus by STAPLE, too.")
@click.option(
    "--write-masks", is_flag=True, help="With a table: write consensus and disagreement of every scan."
)
@reading_flags
@measuring_flags
@json_flag
@common
def observers(
    masks: tuple[Path, ...],
    output: Path | None,
    models: tuple[str, ...],
    absent: str,
    staple: bool,
    write_masks: bool,
    reading: Any,
    how: Any,
    as_json: bool,
) -> None:
    """Measure how well observers agree, and what they agree on.

    Takes the masks of two observers or more of one scan, or one table (CSV) with the columns case, animal and one
    column per observer; paths are relative to it. Gives CIgen, pairs and each observer against the others; writes the
    consensus (majority, all) as .seg.nrrd and the share of disagreeing pairs as a volume.

    \b
    Examples:
      thoraxseg observers anna.seg.nrrd ben.seg.nrrd chris.seg.nrrd -o agreement
      thoraxseg observers study.csv --model nnunet -o agreement
    """  # noqa: D301 - click wants the control character
    from thoraxseg.agreement.observer_study import observer_study
    from thoraxseg.agreement.observers import observers as observing
    from thoraxseg.agreement.scan import Absent

    of_absent = Absent(absent)
    if staple and not write_masks and masks[0].suffix.lower() == ".csv":
        raise OptionError("--staple: writes masks; with a table (CSV) give --write-masks, too.")
    if len(masks) == 1 and masks[0].suffix.lower() == ".csv":
        hand_out(
            "observers",
            output,
            as_json,
            lambda progress: observer_study(
                masks[0], models, reading, how, of_absent, staple, write_masks, progress
            ),
        )
        return
    if models or write_masks:
        raise OptionError("--model and --write-masks are for a table (CSV) of scans.")
    hand_out(
        "observers",
        output,
        as_json,
        lambda progress: observing(masks, reading, how, of_absent, staple, progress),
    )


@click.command()
@click.argument("manifest", metavar="MANIFEST", type=Place())
@output_flag
@click.option("--base", type=Text(), help="Model that the others are tested against.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=Text(),
    help="Measure of the table, such as dsc, iou, msd_mm, hd95_mm, nsd.  [default: dsc, msd_mm, hd95_mm]",
)
@absent_flag
@alpha_flag
@reading_flags
@measuring_flags
@json_flag
@common
def evaluate(
    manifest: Path,
    output: Path | None,
    base: str | None,
    measures: tuple[str, ...],
    alpha: float,
    absent: str,
    reading: Any,
    how: Any,
    as_json: bool,
) -> None:
    """Measure models against references over a cohort.

    MANIFEST is a CSV with the columns case, animal, reference and one column per model; paths are relative to it.
    An empty cell, or the word failed, is a case in which the model gave no answer. Gives mean, SD and median per
    structure and model, tests against the base model over scans and over animals, and every score.

    \b
    Example:
      thoraxseg evaluate cohort.csv --base 3d_fullres -o evaluation
    """  # noqa: D301 - click wants the control character
    from thoraxseg.agreement.cohort import HEADLINE
    from thoraxseg.agreement.evaluate import evaluate as evaluated
    from thoraxseg.agreement.scan import Absent

    of_absent = Absent(absent)
    hand_out(
        "evaluate",
        output,
        as_json,
        lambda progress: evaluated(
            manifest, base, measures or HEADLINE, alpha, reading, how, of_absent, progress
        ),
    )


@click.command()
@click.argument("table", metavar="TABLE", type=Place())
@output_flag
@click.option(
    "--a", "a", multiple=True, type=Text(), help="Column to compare; several are corrected.  [default: a]"
)
@click.option("--b", "b", type=Text(), help="Column that it is compared with.  [default: b]")
@alpha_flag
@click.option("--failed-as", type=float, help="Compare once more with this number for cells that say failed.")
@json_flag
@common
def stats(
    table: Path,
    output: Path | None,
    a: tuple[str, ...],
    b: str | None,
    alpha: float,
    failed_as: float | None,
    as_json: bool,
) -> None:
    """Compare paired scores by Wilcoxon signed-rank tests.

    TABLE is a CSV with the columns scan, a, b and, best, animal. Tests over scans and over animals, exact for any
    number of scans that a study has, with zeros and ties stated, corrections for several comparisons, and the effect
    with its interval. An empty cell is a missing score, the word failed a failed case.

    \b
    Examples:
      thoraxseg stats dice.csv -o comparison
      thoraxseg stats dice.csv --a 2d --a aimos --b 3d_fullres
    """  # noqa: D301 - click wants the control character
    from thoraxseg.agreement.stats import stats as compared

    hand_out("stats", output, as_json, lambda progress: compared(table, a, b, alpha, failed_as, progress))
