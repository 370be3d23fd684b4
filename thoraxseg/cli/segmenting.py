"""The commands that contour: demo, segment, sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from thoraxseg.checkpoints import Checkpoint, Choice
from thoraxseg.cli.common import (
    Place,
    Text,
    choice_flags,
    common,
    console,
    json_flag,
    progress_bar,
    segment_flags,
    tell,
)
from thoraxseg.cli.common import table as new_table
from thoraxseg.errors import OptionError
from thoraxseg.options import SegmentOptions, parse_spacing
from thoraxseg.progress import Progress, part


@click.command()
@click.option(
    "-o",
    "--output",
    type=Place(),
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
    tell(record, output, as_json)


@click.command()
@click.argument("image", metavar="INPUT", type=Place())
@click.option(
    "-c",
    "--checkpoint",
    "names",
    required=True,
    multiple=True,
    type=Text(),
    help="Name from 'thoraxseg checkpoints list', or a path: a model folder or zip of nnU-Net (1 or 2), a MONAI "
    "bundle, a file of weights, a folder with a card. Given several times, their answers are averaged.",
)
@click.option(
    "-o", "--output", required=True, type=Place(), help="Folder for the results; made if it does not exist."
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    type=Place(),
    help="Image of a further input channel, on the grid of INPUT; in the order of the checkpoint's channels.",
)
@click.option(
    "--lungs",
    type=Text(),
    help="Checkpoint that makes the lung map of a network that takes one, such as RRc-UNet 3D.",
)
@choice_flags
@click.option(
    "--shares",
    metavar="LIST",
    help="What each of several checkpoints counts, such as 0.7,0.3.  [default: equal]",
)
@click.option(
    "--ensemble-on",
    "space",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    show_default=True,
    help="What of several checkpoints is averaged.",
)
@click.option("--name", type=Text(), help="Name of the case in file names.  [default: from INPUT]")
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
    names: tuple[str, ...],
    output: Path,
    channels: tuple[Path, ...],
    lungs: str | None,
    choice: Choice,
    shares: str | None,
    space: str,
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
    Examples:
      thoraxseg segment mouse.nrrd -c deepmeta-mouse-mri -o results
      thoraxseg segment ct.nii.gz -c Dataset601_Mouse --folds 0,1 -o results
      thoraxseg segment ct.nii.gz -c rrc.pth --lungs coordinate.pth -o results
      thoraxseg segment ct.nii.gz -c a.pth -c b.pth --shares 0.7,0.3 -o results
    """  # noqa: D301 - click wants the control character
    from thoraxseg.pipeline import segment_file

    spacing_mm = parse_spacing(spacing) if spacing is not None else None
    with progress_bar() as progress:
        opened = _opened(names, lungs, choice, shares, space, progress)
        record = segment_file(
            image, opened, output, options, name, spacing_mm, part(progress, 0.05, 1.0), channels
        )
    tell(record, output, as_json)


def _opened(
    names: tuple[str, ...],
    lungs: str | None,
    choice: Choice,
    shares: str | None,
    space: str,
    progress: Progress,
) -> Checkpoint:
    """Return the checkpoint that was named, or the ensemble of several."""
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.checkpoints.ensemble import ensemble_of

    map_maker = None if lungs is None else open_checkpoint(lungs)
    if len(names) == 1:
        if shares is not None:
            raise OptionError("--shares is for several checkpoints: give --checkpoint several times.")
        return open_checkpoint(names[0], choice, map_maker, progress=part(progress, 0.0, 0.05))
    if choice != Choice():
        raise OptionError(
            "--configuration, --folds and --best are for one checkpoint. For an ensemble, install each model with them "
            "first ('thoraxseg checkpoints install') and give the names."
        )
    members = [open_checkpoint(one) for one in names]
    if map_maker is not None:
        taking = [any(channel.source == "lungs" for channel in one.card.channels) for one in members]
        if not any(taking):
            raise OptionError("--lungs: none of these checkpoints takes a lung map.")
        members = [
            replace(one, lungs=map_maker) if takes else one
            for one, takes in zip(members, taking, strict=True)
        ]
    return ensemble_of(members, None if shares is None else parse_shares(shares), space)


@click.command()
@click.argument("table", metavar="TABLE", type=Place())
@click.option(
    "-c",
    "--checkpoint",
    "names",
    required=True,
    multiple=True,
    type=Text(),
    help="Checkpoint A, then checkpoint B.",
)
@click.option("-o", "--output", required=True, type=Place(), help="Folder for sweep.json and sweep.csv.")
@click.option("--lungs", type=Text(), help="Checkpoint that makes the lung map of a network that takes one.")
@click.option(
    "--ensemble-on",
    "space",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    show_default=True,
    help="What is averaged.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the networks run.",
)
@json_flag
@common
def sweep(
    table: Path,
    names: tuple[str, ...],
    output: Path,
    lungs: str | None,
    space: str,
    device: str,
    as_json: bool,
) -> None:
    """Find the best weight of two checkpoints on labeled cases.

    TABLE is a CSV with the columns case, image and reference (a label map or .seg.nrrd); paths are relative to
    it. w A + (1 - w) B is compared with the references for w = 0, 0.1 ... 1. Use validation cases: a weight chosen
    on the cases that you report flatters the result.

    \b
    Example:
      thoraxseg sweep validation.csv -c unet.pth -c deepmedic.pth -o sweep
    """  # noqa: D301 - click wants the control character
    from thoraxseg.files import check_output
    from thoraxseg.sweep import NAMES, read_cases, write_sweep
    from thoraxseg.sweep import sweep as sweep_over

    if len(names) != 2:
        raise OptionError(
            f"sweep: expected two checkpoints (--checkpoint A --checkpoint B), got {len(names)}."
        )
    cases = read_cases(table)
    check_output(output, NAMES)
    with progress_bar() as progress:
        checkpoints = _opened(names, lungs, Choice(), None, space, progress).members
        found = sweep_over(cases, checkpoints, space, SegmentOptions(device=device), progress)
        paths = write_sweep(found, output)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    keys = list(found["table"][0]["dice"])
    rows = new_table("w", "Mean Dice", *keys)
    for row in found["table"]:
        mark = " best" if row["w"] == found["best_w"] else ""
        scores = [f"{row['dice'][key]:.4f}" for key in keys]
        rows.add_row(f"{row['w']:.1f}{mark}", f"{row['mean_dice']:.4f}", *scores)
    screen = console()
    screen.print(f"w {names[0]} + (1 - w) {names[1]}, on {space}, {len(cases)} case(s)", style="bold")
    screen.print(rows)
    for said in (*found["assumed"], *found["notes"]):
        screen.print(f"Note: {said}", style="cyan")
    for path in paths:
        screen.print(f"  {path}", soft_wrap=True)
    screen.print(found["notice"], style="dim")


def parse_shares(text: str) -> tuple[float, ...]:
    """Return the numbers in text such as `0.7,0.3`; raises OptionError for anything else."""
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError as error:
        raise OptionError(f"--shares: expected numbers such as 0.7,0.3, got {text!r}.") from error
