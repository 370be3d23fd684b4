"""The command line: words in, files and exit status out. Nothing is computed here."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import click

from thoraxseg import __version__
from thoraxseg.errors import EXIT_STATUS, ThoraxSegError
from thoraxseg.options import SegmentOptions, parse_spacing
from thoraxseg.progress import Cancelled, Progress

STATUS_HELP = "\b\nExit status:\n" + "\n".join(f"  {n:>3}  {text}" for n, text in EXIT_STATUS.items())
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Text(click.ParamType):
    """Text that is not empty: an unset variable in a script must not stand for this folder or a default."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("expected a name or path with at least one character, got an empty one.", param, ctx)
        return value


class _Place(_Text):
    """Text that is a path, whether there is something or not: the engine's errors say more than click's."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(super().convert(value, param, ctx))


@click.group(context_settings=CONTEXT, epilog=STATUS_HELP)
@click.version_option(__version__, prog_name="thoraxseg")
def app() -> None:
    """Contours, volumes and a map of doubt for the thorax of mice and people.

    Opens a micro-CT, an MRI or a chest CT, runs a trained model, and writes a segmentation for
    3D Slicer, an uncertainty volume, measurements with units and a report page.

    Start with 'thoraxseg demo'. Research use only: not for diagnosis or treatment.
    """


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
            type=click.Choice(words) if words else type(f.default),
            default=f.default.value if words else f.default,
            show_default=True,
            help=f.metadata["help"],
        )(wrapped)
    return wrapped


json_flag = click.option("--json", "as_json", is_flag=True, help="Print the record as JSON and nothing else.")


@app.command()
@click.option(
    "-o",
    "--output",
    type=_Place(),
    default="thoraxseg-demo",
    show_default=True,
    help="Folder for the results.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Fetch nothing. Without a cached mouse and weights, a phantom and a stand-in network are used.",
)
@segment_flags
@json_flag
@common
def demo(output: Path, offline: bool, options: SegmentOptions, as_json: bool) -> None:
    """Contour a real mouse from nothing but this command.

    Fetches the public package napari-deepmeta 2.1 (5 MB, MIT) once with pip: a real mouse chest MRI
    and the published DeepMeta weights. Then runs the published pipeline and writes segmentation,
    uncertainty, image, measurements and report.
    """
    from thoraxseg.demo import run_demo

    with progress_bar() as progress:
        record = run_demo(output, options, offline, progress)
    _tell(record, output, as_json)


@app.command()
@click.argument("image", metavar="INPUT", type=_Place())
@click.option(
    "-c",
    "--checkpoint",
    required=True,
    type=_Text(),
    help="Name from 'thoraxseg checkpoints list', or a path to one.",
)
@click.option(
    "-o", "--output", required=True, type=_Place(), help="Folder for the results; made if it does not exist."
)
@click.option("--name", type=_Text(), help="Name of the case in file names.  [default: from INPUT]")
@click.option(
    "--spacing",
    metavar="MM",
    help="Voxel spacing slice,row,column in mm, only for stacks that state none (TIFF).",
)
@segment_flags
@json_flag
@common
def segment(
    image: Path,
    checkpoint: str,
    output: Path,
    name: str | None,
    spacing: str | None,
    options: SegmentOptions,
    as_json: bool,
) -> None:
    """Contour INPUT with a trained model and measure what is found.

    INPUT is a NRRD, NIfTI or MetaImage file, a TIFF stack, or a folder with one DICOM series. The
    output folder gets CASE.seg.nrrd, CASE_uncertainty.nrrd, CASE.json and CASE.html, all of them or
    none; a stack without geometry also gives CASE_image.nrrd. INPUT is never changed.

    \b
    Example:
      thoraxseg segment mouse.nrrd -c deepmeta-mouse-mri -o results
    """  # noqa: D301 - click wants the control character
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.pipeline import segment_file

    spacing_mm = parse_spacing(spacing) if spacing is not None else None
    opened = open_checkpoint(checkpoint)
    with progress_bar() as progress:
        record = segment_file(image, opened, output, options, name, spacing_mm, progress)
    _tell(record, output, as_json)


@app.group()
def checkpoints() -> None:
    """Show and fetch trained models."""


@checkpoints.command("list")
@json_flag
@common
def list_checkpoints(as_json: bool) -> None:
    """List the trained models that this version knows."""
    from thoraxseg.checkpoints import is_installed, list_cards

    rows = [
        {
            "name": card.name,
            "title": card.title,
            "species": card.species,
            "modality": card.modality,
            "structures": [structure.name for structure in card.labels.values()],
            "license": card.license,
            "installed": is_installed(card),
        }
        for card in list_cards().values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = _table("Name", "For", "Structures", "License", "Installed")
    for row in rows:
        where = "yes" if row["installed"] else "no"
        use = f"{row['species']} {row['modality']}"
        table.add_row(row["name"], use, ", ".join(row["structures"]), row["license"], where)
    _console().print(table)
    click.echo("Fetch one with 'thoraxseg checkpoints install NAME'.")


@checkpoints.command("install")
@click.argument("name", type=_Text())
@common
def install_checkpoint(name: str) -> None:
    """Fetch the checkpoint NAME once and verify it by SHA-256."""
    from thoraxseg.checkpoints import install, list_cards
    from thoraxseg.errors import CheckpointError

    cards = list_cards()
    if name not in cards:
        raise CheckpointError(f"unknown checkpoint {name!r}; the catalog has {', '.join(sorted(cards))}.")
    with progress_bar() as progress:
        folder = install(cards[name], progress)
    click.echo(f"{name} is in {folder}")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give a progress callable that draws a bar on a terminal and is silent elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda fraction, message: _stop_if_asked()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description:<28}", markup=False)
    columns = words, BarColumn(), TextColumn("{task.percentage:>3.0f} %")
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)

        def show(fraction: float, message: str) -> None:
            _stop_if_asked()
            bar.update(task, completed=fraction, description=message)

        yield show


def _tell(record: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Print a finished case: as JSON, or in words with the warnings last, where they are seen."""
    if as_json:
        click.echo(json.dumps(record, indent=2, allow_nan=False))
        return
    from thoraxseg.report import format_volume, printable

    console = _console()
    console.print(f"{record['case']} ({record['input']['name']})", style="bold")
    table = _table("Structure", "Volume", "Voxels")
    for row in record["measurements"]["structures"]:
        table.add_row(row["name"], format_volume(row["volume_mm3"]), f"{row['voxels']:,}")
    console.print(table)
    tumors = record["measurements"].get("tumors")
    if tumors is not None:
        limit = f"{tumors['small_below_mm3']:g} mm\N{SUPERSCRIPT THREE}"
        sizes = f"{tumors['small_count']} below {limit}, {tumors['large_count']} not"
        console.print(f"Tumors: {tumors['count']} ({sizes})")
    console.print(f"Time: {record['timings_s']['total']:.1f} s on {record['provenance']['device']}")
    for name in (*record["outputs_sha256"], f"{record['case']}.json"):
        console.print(f"  {printable(str(folder / name))}", soft_wrap=True)
    for note in record["notes"]:
        console.print(f"Note: {note}", style="cyan")
    for warning in record["warnings"]:
        console.print(f"Please check: {warning}", style="yellow")
    console.print(record["notice"], style="dim")


def _console() -> Any:
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)  # file names are no mark-up


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        numbers = column in ("Volume", "Voxels")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=column == "Name")
    return table


def _give_up_stdout() -> None:
    """Send the rest of standard output nowhere, or Python complains about it at exit."""
    with suppress(OSError, AttributeError):  # a stream that is no file, or none
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_up_logging(verbose: bool) -> None:
    # Warnings are part of a case's summary; without --verbose they need no second line on stderr.
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("thoraxseg").setLevel(level)


class _Terminated(BaseException):
    """The process was asked to end (SIGTERM); like KeyboardInterrupt, no `except Exception` stops it."""


_STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: _Terminated}
_asked_to_stop: list[type[BaseException]] = []


def _stop(signum: int, frame: object) -> None:
    _asked_to_stop.append(_STOPS[signum])
    raise _STOPS[signum]


def _stopped(stop: type[BaseException]) -> tuple[str, int]:
    word, status = ("terminated", 143) if stop is _Terminated else ("cancelled", 130)
    return f"{word}; nothing was left half written.", status


def _stop_if_asked() -> None:
    """Stop again: Python ignores what is raised where a weak reference ends, and matplotlib has many."""
    if _asked_to_stop:
        raise _asked_to_stop[0]


def _ignored(error: Any) -> None:
    if not issubclass(error.exc_type, tuple(_STOPS.values())):
        sys.__unraisablehook__(error)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, with everything half written removed."""
    _asked_to_stop.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    # A shell that starts us in the background may have told us not to hear Ctrl-C.
    heard = [number for number in _STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    hook, sys.unraisablehook = sys.unraisablehook, _ignored
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; every error becomes one message on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed, as by `>&-`
            stream.reconfigure(errors="replace")  # a terminal without superscripts shows mm?
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # an error may come before click has read the flags
    try:
        # Not app.main: it would turn EOFError into a cancel, and a closed pipe into a defect.
        with _ended_by_signals(), app.make_context("thoraxseg", words) as context:
            app.invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except ThoraxSegError as error:
        return _fail(str(error), error.exit_status, debug)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (*_STOPS.values(), Cancelled) as stop:
        return _fail(*_stopped(type(stop)), debug=False)
    except (
        BrokenPipeError,
        SystemExit,
    ):  # the reader went away, as `head` does; rich turns the one into the other
        _give_up_stdout()
        return 0
    except OSError as error:
        _give_up_stdout()
        text = (
            f"{error.filename or 'standard output'}: cannot be read or written: {error.strerror or error}. "
        )
        return _fail(text + "Check the path and the disk; result files that are there are whole.", 5, debug)
    except MemoryError:
        text = "out of memory: expected enough RAM for this image; close programs or crop it."
        return _fail(text, 1, debug)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}. This is a defect; run again with --debug and report it."
        return _fail(text, 1, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    from thoraxseg.report.words import printable

    if _asked_to_stop:  # libraries turn a stop into errors of their own
        message, status = _stopped(_asked_to_stop[0])
    if debug:
        import traceback

        traceback.print_exc()
    click.echo(f"Error: {printable(' '.join(message.split()))}", err=True)
    return status


def entry() -> None:
    """Console script: run and exit with the status."""
    sys.exit(main())
