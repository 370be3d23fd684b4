"""The command that runs a paper's protocol and prints our numbers beside the published ones: reproduce."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from thoraxseg.cli.common import Place, Text, common, json_flag, progress_bar
from thoraxseg.errors import InputError
from thoraxseg.options import Device
from thoraxseg.progress import part

PAPERS = ("kaniewski", "malimban", "rrc-unet", "ensemble")


@click.command()
@click.argument("paper", type=click.Choice(PAPERS))
@click.option("--data", type=Place(), help="Folder of the paper's data set, laid out as published.")
@click.option(
    "--phantom", is_flag=True, help="Run the protocol on a small phantom cohort instead of the data."
)
@click.option(
    "--layout", type=Place(), help="Table (CSV) that names the files instead, for data that lie otherwise."
)
@click.option(
    "-c",
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=Text(),
    metavar="ROW=CHECKPOINT",
    help='Row of the paper\'s table and the checkpoint for it (a name or a path), such as "U-Net=unet.pth". Repeat it.',
)
@click.option("--lungs", type=Text(), help="Checkpoint that makes the lung map of a network that takes one.")
@click.option("--cases", type=Text(), metavar="LIST", help="Only these scans, separated by commas.")
@click.option(
    "--replicate", is_flag=True, help="Do as the published code does where it departs from its paper."
)
@click.option(
    "--device",
    type=click.Choice([device.value for device in Device]),
    default=Device.AUTO.value,
    show_default=True,
    help="Where the networks run.",
)
@click.option(
    "-o", "--output", type=Place(), help="Folder for reproduce.json, reproduce.csv and reproduce.html."
)
@json_flag
@common
def reproduce(
    paper: str,
    data: Path | None,
    phantom: bool,
    layout: Path | None,
    checkpoints: tuple[str, ...],
    lungs: str | None,
    cases: str | None,
    replicate: bool,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run the protocol of a PAPER; its tables beside ours.

    Nothing is downloaded: fetch the data set first, and give your checkpoints. Scans that fail are counted and
    listed, the others are scored, and the exit status says so. 'docs/reproduce.md' has the layouts and what differs.

    \b
    Examples:
      thoraxseg reproduce malimban --phantom
      thoraxseg reproduce kaniewski --data deepmeta_dataset \\
        -c DeepMeta=deepmeta-mouse-mri -o tables
      thoraxseg reproduce malimban --data mice -c 3d_fullres=mouse-ct \\
        -c AIMOS=aimos.pth -o tables
    """  # noqa: D301 - click wants the control character
    from thoraxseg.files import check_output
    from thoraxseg.reproduce import NAMES, Request, parse_checkpoint, write
    from thoraxseg.reproduce import reproduce as run

    request = Request(
        paper,
        data,
        layout,
        phantom,
        [parse_checkpoint(text) for text in checkpoints],
        lungs,
        None if cases is None else [case.strip() for case in cases.split(",")],
        replicate,
        Device(device),
    )
    if output is not None:
        check_output(output, NAMES)
    with progress_bar() as progress:
        done = run(request, part(progress, 0.0, 0.9))
        paths = [] if output is None else write(done, output, part(progress, 0.9, 1.0))
    if as_json:
        click.echo(json.dumps(done.record, indent=2, allow_nan=False))
    else:
        _tell(done.record, done.tables, paths)
    if done.failures:
        scans = {one["case"] for one in done.failures}
        raise InputError(
            f"{len(scans)} of {len(done.record['scans'])} scan(s) could not be scored: {_listed(scans)}. The "
            f"tables hold the others. The first reason: {done.failures[0]['reason']}"
        )


def _tell(record: dict[str, Any], tables: Sequence[dict[str, Any]], paths: Sequence[Path]) -> None:
    from thoraxseg.report import printable

    def say(text: str = "", **style: Any) -> None:
        click.secho("\n".join(printable(line) for line in text.split("\n")), **style)

    if record["phantom"]:
        say(record["warnings"][0] + "\n", fg="yellow", bold=True)
    say(f"{record['title']}\n{record['citation']}")
    for table in tables:
        say(f"\n{table['name']}. {table['title']}", bold=True)
        say(text_table(table["columns"], table["rows"]))
        for note in table["footnotes"]:
            say(f"  {note}.", dim=True)
    for table in record["tables"]:
        say(f"\n{table['title']}", bold=True)
        say(text_table(table["columns"], table["rows"]))
        for note in table["footnotes"]:
            say(f"  {note}", dim=True)
    say("\nWhat differs from the paper", bold=True)
    for text in record["differences"]:
        say(f"- {text}")
    for one in record["failures"]:
        say(f"Failed: {one['case']}, {one['model']}: {one['reason']}", fg="red")
    for note in record["notes"]:
        say(f"Note: {note}", fg="cyan")
    for warning in record["warnings"]:
        say(f"Please check: {warning}", fg="yellow")
    for path in paths:
        say(f"  {path}")
    say(record["notice"], dim=True)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in letters of one width, columns two blanks apart; it is not cut to the screen."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _listed(names: set[str]) -> str:
    some = sorted(names)
    return ", ".join(some[:6]) + (f" and {len(some) - 6} more" if len(some) > 6 else "")
