"""What the commands share: flags, kinds of arguments, the progress bar, and how a case is told."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import click

from thoraxseg.cli.stops import stop_if_asked
from thoraxseg.options import SegmentOptions, parse_folds
from thoraxseg.progress import Progress


class Text(click.ParamType):
    """Text that is not empty: an unset variable in a script must not stand for this folder or a default."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; fails when it is empty."""
        if not str(value).strip():
            self.fail("expected a name or path with at least one character, got an empty one.", param, ctx)
        return value


class Place(Text):
    """Text that is a path, whether there is something or not: the engine's errors say more than click's."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; fails when it is empty."""
        return Path(super().convert(value, param, ctx))


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that every command has."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.option("-v", "--verbose", is_flag=True, help="Tell what each stage does.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, verbose: bool, **kwargs: Any) -> None:
        _set_up_logging(verbose or debug)
        command(*args, **kwargs)

    return wrapped


def segment_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every field of SegmentOptions into a flag and hand the command one `options`."""
    fields = dataclasses.fields(SegmentOptions)

    @functools.wraps(command)
    def wrapped(**kwargs: Any) -> None:
        chosen = {f.name: type(f.default)(kwargs.pop(f.name)) for f in fields}
        command(options=SegmentOptions(**chosen), **kwargs)

    for f in reversed(fields):
        words = [choice.value for choice in type(f.default)] if isinstance(f.default, Enum) else None
        wrapped = click.option(
            "--" + f.name.replace("_", "-"),
            f.name,
            type=click.Choice(words) if words else click.IntRange(f.metadata["low"], f.metadata["high"]),
            default=f.default.value if words else f.default,
            show_default=True,
            help=f.metadata["help"],
        )(wrapped)
    return wrapped


def choice_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say which part of an nnU-Net model is meant, and hand the command one `choice`."""

    @click.option(
        "--configuration",
        type=Text(),
        help="Of an nnU-Net model that has several: 2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres.",
    )
    @click.option(
        "--folds", metavar="LIST", help="Folds of nnU-Net, such as 0,1 or all.  [default: all that are there]"
    )
    @click.option("--best", is_flag=True, help="The best checkpoint of nnU-Net instead of the final one.")
    @functools.wraps(command)
    def wrapped(configuration: str | None, folds: str | None, best: bool, **kwargs: Any) -> None:
        from thoraxseg.checkpoints import Choice

        command(choice=Choice(configuration, None if folds is None else parse_folds(folds), best), **kwargs)

    return wrapped


json_flag = click.option("--json", "as_json", is_flag=True, help="Print the record as JSON and nothing else.")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give a progress callable that draws a bar on a terminal and is silent elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda fraction, message: stop_if_asked()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description:<28}", markup=False)
    columns = words, BarColumn(), TextColumn("{task.percentage:>3.0f} %")
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)

        def show(fraction: float, message: str) -> None:
            stop_if_asked()
            bar.update(task, completed=fraction, description=message)

        yield show


def tell(record: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Print a finished case: as JSON, or in words with the warnings last, where they are seen."""
    if as_json:
        click.echo(json.dumps(record, indent=2, allow_nan=False))
        return
    from thoraxseg.report import format_volume, printable

    screen = console()
    screen.print(f"{record['case']} ({record['input']['name']})", style="bold")
    volumes = table("Structure", "Volume", "Voxels")
    for row in record["measurements"]["structures"]:
        volumes.add_row(row["name"], format_volume(row["volume_mm3"]), f"{row['voxels']:,}")
    screen.print(volumes)
    tumors = record["measurements"].get("tumors")
    if tumors is not None:
        limit = f"{tumors['small_below_mm3']:g} mm\N{SUPERSCRIPT THREE}"
        sizes = f"{tumors['small_count']} below {limit}, {tumors['large_count']} not"
        screen.print(f"Tumors: {tumors['count']} ({sizes})")
    screen.print(f"Time: {record['timings_s']['total']:.1f} s on {record['provenance']['device']}")
    for name in (*record["outputs_sha256"], f"{record['case']}.json"):
        screen.print(f"  {printable(str(folder / name))}", soft_wrap=True)
    for note in record["notes"]:
        screen.print(f"Note: {note}", style="cyan")
    for warning in record["warnings"]:
        screen.print(f"Please check: {warning}", style="yellow")
    screen.print(record["notice"], style="dim")


def console() -> Any:
    """Return a console of rich that takes no text for mark-up."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)  # file names are no mark-up


def wide_console() -> Any:
    """Return a console like `console`, and wide where no terminal bounds it: tables of a pipe need not wrap."""
    from rich.console import Console

    found = console()
    return found if found.is_terminal else Console(markup=False, emoji=False, highlight=False, width=160)


def table(*columns: str) -> Any:
    """Return an empty table of rich with these columns; numbers stand at the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        numbers = column in ("Volume", "Voxels", "Size")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=column == "Name")
    return table


def give_up_stdout() -> None:
    """Send the rest of standard output nowhere, or Python complains about it at exit."""
    with suppress(OSError, AttributeError):  # a stream that is no file, or none
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_up_logging(verbose: bool) -> None:
    # Warnings are part of a case's summary; without --verbose they need no second line on stderr.
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("thoraxseg").setLevel(level)
