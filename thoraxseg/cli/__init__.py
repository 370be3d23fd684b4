"""The command line: words in, files and exit status out. Nothing is computed here."""

from __future__ import annotations

import sys

import click

from thoraxseg import __version__
from thoraxseg.cli.agreeing import compare, evaluate, observers, stats
from thoraxseg.cli.catalog import checkpoints
from thoraxseg.cli.common import give_up_stdout
from thoraxseg.cli.reproducing import reproduce
from thoraxseg.cli.segmenting import demo, segment, sweep
from thoraxseg.cli.stops import STOPS, asked_to_stop, ended_by_signals, stopped
from thoraxseg.cli.study import study
from thoraxseg.cli.training import train
from thoraxseg.errors import EXIT_STATUS, InputError, ThoraxSegError
from thoraxseg.progress import Cancelled
from thoraxseg.worker import NO_MEMORY

STATUS_HELP = "\b\nExit status:\n" + "\n".join(f"  {n:>3}  {text}" for n, text in EXIT_STATUS.items())
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT, epilog=STATUS_HELP)
@click.version_option(__version__, prog_name="thoraxseg")
def app() -> None:
    """Contours, volumes and a map of doubt for the thorax of mice and people.

    Opens a micro-CT, an MRI or a chest CT, runs a trained model, and writes a segmentation for
    3D Slicer, an uncertainty volume, measurements with units and a report page.

    Start with 'thoraxseg demo'. Research use only: not for diagnosis or treatment.
    """


for command in (
    demo, segment, sweep, compare, observers, evaluate, stats, reproduce, study, train, checkpoints,
):  # fmt: skip
    app.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; every error becomes one message on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed, as by `>&-`
            stream.reconfigure(errors="replace")  # a terminal without superscripts shows mm?
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # an error may come before click has read the flags
    try:
        # Not app.main: it would turn EOFError into a cancel, and a closed pipe into a defect.
        with ended_by_signals(), app.make_context("thoraxseg", words) as context:
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
    except (*STOPS.values(), Cancelled) as stop:
        return _fail(*stopped(type(stop)), debug=False)
    except (
        BrokenPipeError,
        SystemExit,
    ):  # the reader went away, as `head` does; rich turns the one into the other
        give_up_stdout()
        return 0
    except OSError as error:
        give_up_stdout()
        text = (
            f"{error.filename or 'standard output'}: cannot be read or written: {error.strerror or error}. "
        )
        return _fail(text + "Check the path and the disk; result files that are there are whole.", 5, debug)
    except MemoryError:
        return _fail(NO_MEMORY, InputError.exit_status, debug)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}. This is a defect; run again with --debug and report it."
        return _fail(text, 1, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    from thoraxseg.report.words import printable

    if asked_to_stop:  # libraries turn a stop into errors of their own
        message, status = stopped(asked_to_stop[0])
    if debug:
        import traceback

        traceback.print_exc()
    click.echo(f"Error: {printable(' '.join(message.split()))}", err=True)
    return status


def entry() -> None:
    """Console script: run and exit with the status."""
    sys.exit(main())
