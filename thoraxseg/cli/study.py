"""The commands around a study file: making it, entering times, and reading how long contouring took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from thoraxseg.cli.active import LABELS_HELP, export_dataset, files, look_at_files, name_files, rank
from thoraxseg.cli.common import Place, Text, common, console, json_flag
from thoraxseg.cli.common import table as new_table
from thoraxseg.errors import InputError, OptionError
from thoraxseg.study import KINDS, MEASURED, PAPER_MANUAL_MIN, Event, Review, Who

NONE = "none"
_HEADS = {
    "preprocessing_s": "Preprocessing",
    "inference_s": "Inference",
    "export_s": "Export",
    "runtime_s": "Run",
    "looking_s": "Look",
    "editing_s": "Edit",
    "manual_s": "Hand",
    "idle_s": "Idle",
    "spent_s": "Spent",
}
REFERENCE_HELP = "Minutes that contouring one scan by hand takes"
STUDY = click.argument("path", metavar="STUDY", type=Place())
ANIMAL = click.option("--animal", required=True, type=Text(), help="Name or number of the animal.")
OPERATOR = click.option(
    "--operator", required=True, type=Text(), help="Who did it: a person, or a program for runs."
)
SCAN = click.option(
    "--scan", type=Text(), default="1", show_default=True, help="Which scan of the animal, such as a day."
)


@click.group()
def study() -> None:
    """Keep the time that contouring takes, and what was accepted."""


@study.command()
@STUDY
@click.option("--manual-minutes", metavar="MIN", help=f"{REFERENCE_HELP}.  [default: not set]")
@common
def new(path: Path, manual_minutes: str | None) -> None:
    """Make the study file STUDY.

    It is one file, such as mice.sqlite. Nothing that is there is overwritten.
    """
    from thoraxseg.report import printable
    from thoraxseg.study import create_study

    minutes = None if manual_minutes is None else _minutes(manual_minutes)
    made = create_study(path)
    if minutes is not None:
        made.set_manual_reference(minutes)
    console().print(f"Made {printable(str(path))}.", soft_wrap=True)


@study.command("set")
@STUDY
@click.option(
    "--manual-minutes",
    metavar="MIN",
    required=True,
    help=f"{REFERENCE_HELP}, or 'none'. The mouse CT paper (Malimban et al. 2022) has about {PAPER_MANUAL_MIN:g}.",
)
@common
def change(path: Path, manual_minutes: str) -> None:
    """Set what the times of STUDY are compared with."""
    from thoraxseg.study import open_study

    minutes = None if manual_minutes.strip().lower() == NONE else _minutes(manual_minutes)
    open_study(path).set_manual_reference(minutes)
    said = "No manual reference is set" if minutes is None else f"Manual reference: {minutes:g} min a scan"
    console().print(f"{said}.")


@study.command()
@STUDY
@click.argument("event", type=click.Choice([kind.replace(" ", "-") for kind in KINDS]))
@ANIMAL
@OPERATOR
@SCAN
@click.option("--structure", type=Text(), help="What was contoured (edit, manual), such as heart.")
@click.option("--seconds", type=float, help="How long it took; of a run, from the image to the files.")
@click.option("--preprocessing", "preprocessing_s", type=float, help="Seconds of it; of a run only.")
@click.option("--inference", "inference_s", type=float, help="Seconds of it; of a run only.")
@click.option("--export", "export_s", type=float, help="Seconds of it; of a run only.")
@click.option("--record", type=Place(), help="Take the times of a run from a CASE.json of 'segment'.")
@click.option("--image", type=Place(), help="The image that was contoured, as a file or folder; with accept.")
@click.option("--mask", type=Place(), help="The contours that are accepted, such as a saved .seg.nrrd.")
@click.option("--labels", metavar="N=NAME,...", type=Text(), help=LABELS_HELP)
@common
def log(
    path: Path,
    event: str,
    animal: str,
    operator: str,
    scan: str,
    structure: str | None,
    seconds: float | None,
    record: Path | None,
    image: Path | None,
    mask: Path | None,
    labels: str | None,
    **parts: float | None,
) -> None:
    """Enter one EVENT into STUDY.

    A time from a stopwatch or a script, or a verdict. With --image and --mask, 'accept' says which files it is about:
    they can become training data ('study export-dataset').

    \b
    Examples:
      thoraxseg study log mice.sqlite manual --animal M7 --operator Ann \\
        --seconds 2280
      thoraxseg study log mice.sqlite edit --animal M7 --operator Ann \\
        --structure heart --seconds 95
      thoraxseg study log mice.sqlite run --animal M7 --operator Ann \\
        --record results/M7.json
      thoraxseg study log mice.sqlite accept --animal M7 --operator Ann \\
        --image M7.nii.gz --mask M7.seg.nrrd
    """  # noqa: D301 - click wants the control character
    from thoraxseg.study import log_event, name_result, open_study

    given = {name: value for name, value in parts.items() if value is not None}
    if record is not None:
        if event != "run" or given or seconds is not None:
            raise OptionError("--record is for a run, and has all its times: leave the other times away.")
        given = _run_of(record)
        seconds = given.pop("total_s")
    if (
        (image is None) != (mask is None)
        or (event != "accept" and (image or labels))
        or (labels and not mask)
    ):
        raise OptionError("--image and --mask go together, and with accept only; --labels goes with them.")
    who, store = Who(animal, scan, operator), open_study(path)
    looked_at = None if image is None or mask is None else (image, mask, *look_at_files(image, mask, labels))
    done = log_event(store, who, event.replace("-", " "), structure, seconds, given)
    if looked_at is not None:
        name_files(store, who, *looked_at)
    if record is not None:
        name_result(store, who, record)
    _tell_entry("Entered", who, done)


@study.command()
@STUDY
@ANIMAL
@OPERATOR
@SCAN
@common
def undo(path: Path, animal: str, operator: str, scan: str) -> None:
    """Take back the last entry into STUDY.

    It is the last one that 'study log' made for this scan and operator; again, the one before it.
    It counts nowhere then, and stays in the file as withdrawn. Measured times cannot be taken back.
    """
    from thoraxseg.study import open_study, undo_last

    who = Who(animal, scan, operator)
    _tell_entry("Took back", who, undo_last(open_study(path), who))


@study.command()
@STUDY
@click.option(
    "--manual-minutes",
    metavar="MIN",
    help=f"{REFERENCE_HELP}, or 'measured': the mean of those contoured by hand here.  [default: that of STUDY]",
)
@click.option("--anonymous", is_flag=True, help="Codes for animals, scans and operators; no dates.")
@click.option(
    "-o", "--output", type=Place(), help="New file for the times: .csv, or .json with totals and definitions."
)
@json_flag
@common
def time(path: Path, manual_minutes: str | None, anonymous: bool, output: Path | None, as_json: bool) -> None:
    """Tell how long contouring took in STUDY.

    By scan and operator, and what it saved.

    Two figures: that of the mouse CT paper (Malimban et al. 2022: 40 s against 40 min, 98 %), which
    counts the run alone, and one that also counts looking, editing and contouring by hand. Idle time is
    in neither.
    """
    from thoraxseg.study import coded, open_study, record, reviews, write_times

    reference = None if manual_minutes is None else _minutes(manual_minutes, MEASURED)
    found = reviews(open_study(path), reference)
    found = coded(found) if anonymous else found
    if output is not None:
        write_times(output, found)
    if as_json:
        click.echo(json.dumps(record(found), indent=2, allow_nan=False))
        return
    _show(found, record(found), output)


for command in (files, rank, export_dataset):
    study.add_command(command)


def duration(seconds: float | None) -> str:
    """Return seconds for people: `9.5 s`, then minutes and seconds `3:05`, then hours `1:02:03`; a dash for None."""
    if seconds is None:
        return "-"
    if seconds == 0:
        return "0 s"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 9.95:
        return f"{sign}{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}:{minutes:02d}:{rest:02d}" if hours else f"{sign}{minutes}:{rest:02d}"


def _tell_entry(what: str, who: Who, event: Event) -> None:
    from thoraxseg.report import printable

    took = event.seconds + event.idle_s
    words = [event.kind, event.structure, duration(took) if took else ""]
    told = f"{what} for {who.animal}, scan {who.scan}, {who.operator}: {' '.join(word for word in words if word)}."
    console().print(printable(told), soft_wrap=True)


def _minutes(text: str, word: Literal["measured"] | None = None) -> Any:
    from thoraxseg.study import checked_minutes

    if word is not None and text.strip().lower() == word:
        return word
    try:
        return checked_minutes(float(text))
    except ValueError:
        others = {None: "", MEASURED: " or 'measured'"}[word]
        raise OptionError(
            f"--manual-minutes: expected minutes above 0, such as 40{others}; got {text!r:.80}."
        ) from None


def _run_of(path: Path) -> dict[str, float]:
    """Return the times of a run from the record of a case."""
    from thoraxseg.study import run_from_timings

    try:
        timings = json.loads(path.read_text("utf-8"))["timings_s"]
        return run_from_timings({str(name): float(seconds) for name, seconds in timings.items()})
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: expected the CASE.json of 'thoraxseg segment', which has timings_s in seconds; it has none that "
            "can be read."
        ) from error


def _show(found: Sequence[Review], told: dict[str, Any], output: Path | None) -> None:
    from thoraxseg.report import printable

    screen, rows, sums = console(), told["reviews"], told["totals"]["study"]
    if not found:
        screen.print("No times are logged in this study yet.")
    else:
        screen.print(_reviews_table(rows))
        if any(row["editing_by_structure_s"] for row in rows):
            screen.print(_structures_table(rows))
        if len(told["totals"]["operators"]) > 1:
            screen.print(_operators_table(told["totals"]["operators"]))
        screen.print(_totals_table(sums))
        for line in (*_counts(sums), *_explained(told)):
            screen.print(line)
    if output is not None:
        screen.print(f"  {printable(str(output))}", soft_wrap=True)
    for row in rows:
        for note in row["notes"]:
            who = f"{row['animal']}, scan {row['scan']}, {row['operator']}"
            screen.print(f"Please check: {printable(who)}: {note}.", style="yellow")
    screen.print(told["notice"], style="dim")


def _table(*columns: str, words: int) -> Any:
    """Return an empty table whose first columns are words; the others are numbers, at the right, and never cut."""
    table = new_table(*columns)
    table.padding = (0, 1, 0, 0)  # ten columns are to fit into a terminal
    for number, column in enumerate(table.columns):
        column.overflow = "fold"
        if number < words:
            column.min_width = 8
        else:
            column.justify, column.no_wrap = "right", True
    return table


def _reviews_table(rows: Sequence[dict[str, Any]]) -> Any:
    keys = ["runtime_s", "looking_s", "editing_s", "idle_s"]
    if any(row["manual_s"] for row in rows):
        keys.insert(3, "manual_s")
    heads = [_HEADS[key] for key in keys]
    table = _table("Animal, scan", "Operator", "Verdict", *heads, "By run", "In all", words=3)
    for row in rows:
        table.add_row(
            *_who(row),
            row["verdict"] if row["contouring"] == "reviewed" else row["contouring"],
            *(duration(row[key] or None) for key in keys),
            _percent(row["saved_percent_paper"]),
            _percent(row["saved_percent_with_review"]),
        )
    return table


def _structures_table(rows: Sequence[dict[str, Any]]) -> Any:
    from thoraxseg.report import printable

    names = sorted({name for row in rows for name in row["editing_by_structure_s"]})
    table = _table("Animal, scan", "Operator", "Edit", "Time", words=3)
    for row in rows:
        for name in names:
            if name in row["editing_by_structure_s"]:
                seconds = row["editing_by_structure_s"][name]
                table.add_row(*_who(row), printable(name or "unnamed"), duration(seconds))
    return table


def _operators_table(operators: Sequence[dict[str, Any]]) -> Any:
    """One line per operator; times and savings are means over finished reviews."""
    from thoraxseg.report import printable

    keys = ["looking_s", "editing_s", "idle_s", "spent_s"]
    if any(one["per_review"]["manual_s"]["sum"] for one in operators):
        keys.insert(2, "manual_s")
    heads = [_HEADS[key] for key in keys]
    table = _table("Mean of", "Finished", "Unfinished", *heads, "In all", words=1)
    for one in operators:
        means = {key: summary["mean"] for key, summary in one["per_review"].items()}
        table.add_row(
            printable(one["operator"]),
            str(one["reviews"] - one["unfinished"]["reviews"]),
            str(one["unfinished"]["reviews"]),
            *(duration(means[key]) for key in keys),
            _percent(means["saved_percent_with_review"]),
        )
    return table


def _totals_table(sums: dict[str, Any]) -> Any:
    """One line per measure: over scans with a run, over finished reviews, over scans contoured by hand."""
    table = _table("Study", "n", "Mean \N{PLUS-MINUS SIGN} SD", "Median", "Sum", words=1)
    scans, people = sums["per_scan"], sums["per_review"]
    lines = [(_HEADS[key], scans[key], duration) for key in ("preprocessing_s", "inference_s", "export_s")]
    lines += [(_HEADS["runtime_s"], scans["runtime_s"], duration)]
    keys = ["looking_s", "editing_s", "idle_s", "spent_s"]
    if people["manual_s"]["sum"]:
        keys.insert(2, "manual_s")
    lines += [(_HEADS[key], people[key], duration) for key in keys]
    lines += [("All by hand", sums["by_hand"]["manual_s"], duration)]
    lines += [("Saved by run", scans["saved_percent_paper"], _percent)]
    lines += [("Saved in all", people["saved_percent_with_review"], _percent)]
    for name, summary, words in lines:
        if summary["n"]:
            sd = "" if summary["sd"] is None else f" \N{PLUS-MINUS SIGN} {words(summary['sd'])}"
            total = words(summary["sum"]) if words is duration else ""
            middle = f"{words(summary['mean'])}{sd}", words(summary["median"])
            table.add_row(name, str(summary["n"]), *middle, total)
    return table


def _counts(sums: dict[str, Any]) -> list[str]:
    left = sums["unfinished"]
    text = (
        f"{sums['reviews']} review(s), {sums['scans']} scan(s), {sums['animals']} animal(s): {sums['accepted']} "
        f"accepted, {sums['rejected']} rejected, {left['reviews']} unfinished"
    )
    if left["reviews"]:
        work = left["looking_s"] + left["editing_s"] + left["manual_s"]
        text += f" ({duration(work)} of work, in no mean)"
    by_hand = sums["contoured_by_hand"]
    return [f"{text}; {by_hand} contoured by hand." if by_hand else f"{text}."]


def _explained(told: dict[str, Any]) -> list[str]:
    lines = ["Times are minutes:seconds."]
    limits = sorted({limit for row in told["reviews"] for limit in row["idle_after_s"]})
    if limits:
        words = " or ".join(f"{limit:g} s" for limit in limits)
        lines.append(
            f"Idle, not counted as work: beyond {words} after the last touch, and between activities."
        )
    minutes = told["manual_reference_min"]
    if minutes is None:
        return [
            *lines,
            "Saved: undefined, since no manual reference is set. Give --manual-minutes, or set it once with "
            f"'thoraxseg study set'; the mouse CT paper has about {PAPER_MANUAL_MIN:g} min.",
        ]
    return [
        *lines,
        f"Saved, against {minutes:.4g} min by hand. By run: the last run alone, as the mouse CT paper computes its "
        "98 %. In all: every run, looking, editing and contouring by hand count; where none of it was logged, rejected "
        "contours are still to be made by hand.",
    ]


def _who(row: dict[str, Any]) -> list[str]:
    from thoraxseg.report import printable

    return [printable(f"{row['animal']}, {row['scan']}"), printable(row["operator"])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
