"""The command that trains a system on a data set and ends with a checkpoint: train."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from shlex import quote
from typing import Any

import click

from thoraxseg.cli.common import Place, Text, common, json_flag, progress_bar
from thoraxseg.errors import OptionError
from thoraxseg.tables import is_there


@click.command()
@click.argument("config", required=False, type=Place())
@click.option(
    "--system", type=Text(), help="What is trained; --list shows all, with the papers they are from."
)
@click.option(
    "--data",
    type=Text(),
    help="The data set: a folder of nnU-Net (dataset.json), a table (CSV: case, image, label), or a study (.sqlite).",
)
@click.option("-o", "--output", type=Place(), help="Folder of the run; the same command goes on in it.")
@click.option(
    "--from", "start_from", type=Text(), help="Checkpoint (a name or path) whose weights are gone on with."
)
@click.option("--reset-head", is_flag=True, help="With --from: learn other structures in a new last layer.")
@click.option("--fold", type=Text(), help="Which fold is trained, from 0, or all.  [default: 0]")
@click.option("--folds", type=click.IntRange(min=2), help="How many folds, by animal.  [default: 5]")
@click.option("--seed", type=click.IntRange(min=0), help="Where random numbers start.  [default: 0]")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where it is trained.  [default: auto]"
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of those of the recipe.")
@click.option(
    "--fast", is_flag=True, help="The short variant for a CPU: fewer filters, smaller patches, few epochs."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value of the recipe: settings.optimizer.lr=1e-4, sampling.patch_size=[64,64,64]. Repeat it.",
)
@click.option("--animals", type=Text(), help="Which animal each case is of: a table, a pattern, or 'case'.")
@click.option(
    "--labels", metavar="N=NAME,...", type=Text(), help="What label values stand for: 1=heart,2=tumors."
)
@click.option(
    "--label-map",
    "label_map",
    multiple=True,
    metavar="NAME=A+B",
    help="Labels that are one, as in lungs=right_lung+left_lung; those of background or ignore are not learned. "
    "Repeat it.",
)
@click.option("--operator", type=Text(), help="Of a study: whose verdicts count.")
@click.option("--species", type=Text(), help="Of the data set, where it does not say: mouse or human.")
@click.option("--modality", type=Text(), help="Of the data set, where it does not say: CT, micro-CT or MRI.")
@click.option("--spacing", type=Text(), help="Of files that state none, in mm: slice,row,column.")
@click.option(
    "--skip-broken", is_flag=True, help="Leave out cases that cannot be used; they are named and counted."
)
@click.option("--name", type=Text(), help="Of the checkpoint.  [default: system and data set]")
@click.option("--license", "license_", type=Text(), help="Of the checkpoint.  [default: as the data]")
@click.option("--half", is_flag=True, help="Keep the weights of the checkpoint in 16 bits.")
@click.option(
    "--search", type=click.IntRange(min=1), metavar="N", help="Try N random settings of the declared ranges."
)
@click.option(
    "--dry-run", is_flag=True, help="Look through the data set and tell what would be done; write nothing."
)
@click.option("--list", "list_systems", is_flag=True, help="List the systems and the papers they are from.")
@json_flag
@common
def train(
    config: Path | None,
    system: str | None,
    data: str | None,
    output: Path | None,
    search: int | None,
    dry_run: bool,
    list_systems: bool,
    as_json: bool,
    overrides: tuple[str, ...],
    fast: bool,
    **flags: Any,
) -> None:
    """Train a system on your data and get a checkpoint.

    CONFIG is a file (JSON) with a preset and other values, such as the config.json of an earlier run. Animals are never
    on both sides of a fold. A run that was stopped goes on with the same command; on a CPU it ends with the same
    weights. Learning that diverges ends with the best weights that there were.

    \b
    Examples:
      thoraxseg train --list
      thoraxseg train --system deepmeta --data mice.csv -o run
      thoraxseg train --system monai-unet --data Task06_Lung -o run --fold all
      thoraxseg train --from run/checkpoint --data corrections -o tuned
      thoraxseg train --system unet --data mice.csv -o tried --search 20
    """  # noqa: D301 - click wants the control character
    if list_systems:
        _tell_systems(as_json)
        return
    from thoraxseg.training.run import plan_run
    from thoraxseg.training.run import train as run
    from thoraxseg.training.search import search_settings

    made = _config(config, system, data, overrides, fast, flags)
    if dry_run:
        with progress_bar() as progress:
            plan = plan_run(made, progress)
        _tell_plan(plan.to_record(), as_json)
        return
    if output is None:
        raise OptionError("--output: expected a folder for the run. Nothing is trained without one.")
    if search is not None:
        with progress_bar() as progress:
            found = search_settings(made, output, search, progress)
        _tell_search(found, output, as_json)
        return
    with progress_bar() as progress:
        trained = run(made, output, progress)
    _tell(trained.summary, output, as_json)


def _config(
    path: Path | None,
    system: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    fast: bool,
    flags: dict[str, Any],
) -> Any:
    """Return the config of the command: a file's values, over them those of the flags."""
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.training.config import CHECKPOINT, make_config, read_config

    values = {} if path is None else read_config(path)
    of_file = values.pop("preset", None)
    if system is not None and of_file not in (None, system):
        raise OptionError(f"--system {system}: {path} is of {of_file}. Give one of the two.")
    system = system or of_file
    values |= _given(flags)
    if data is not None:
        values["data"] = _lasting(data)
    if not values.get("data"):
        raise OptionError("--data: expected a data set: a folder of nnU-Net, a table (CSV) or a study file.")
    epochs = flags["epochs"]
    words = ([] if epochs is None else [f"settings.epochs={epochs}"]) + list(overrides)
    start = values.get("from")
    card = None
    if system in (None, CHECKPOINT) and start is not None:
        system, card = None, open_checkpoint(start).card
    return make_config(system, values, words, card, fast)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the values that were given by flags, as a config has them."""
    from thoraxseg.checkpoints import read_catalog
    from thoraxseg.checkpoints.describe import parse_labels
    from thoraxseg.options import parse_spacing
    from thoraxseg.training.data import CASE_IS_ANIMAL, parse_label_map

    same = ("operator", "species", "modality", "name", "folds", "seed", "device")
    values = {key: flags[key] for key in same if flags[key] is not None}
    if flags["animals"] is not None:
        values["animals"] = _lasting(flags["animals"], (CASE_IS_ANIMAL,))
    values |= {key: True for key in ("skip_broken", "reset_head", "half") if flags[key]}
    if flags["license_"] is not None:
        values["license"] = flags["license_"]
    if flags["start_from"] is not None:
        values["from"] = _lasting(flags["start_from"], *read_catalog())
    if flags["labels"] is not None:
        values["labels"] = {str(value): name for value, name in parse_labels(flags["labels"]).items()}
    if flags["label_map"]:
        values["label_map"] = {key: list(parts) for key, parts in parse_label_map(flags["label_map"]).items()}
    if flags["spacing"] is not None:
        values["stack_spacing_mm"] = list(parse_spacing(flags["spacing"]))
    if flags["fold"] is not None:
        text = flags["fold"].strip()
        if text != "all" and not (text.isascii() and text.isdigit()):
            raise OptionError(f"--fold: expected a number from 0, or all, got {text!r:.40}.")
        values["fold"] = text if text == "all" else int(text)
    return values


def _lasting(text: str, *words: Container[str]) -> str:
    """Return a path as one that does not depend on the current folder, for config.json; `words` as they are."""
    is_word = any(text in known for known in words)
    return str(Path(text).absolute()) if not is_word and is_there(Path(text)) else text


def _tell_systems(as_json: bool) -> None:
    from thoraxseg.training.presets import PRESETS

    if as_json:
        found = {
            name: {"system": one.system, "source": one.source, "notes": list(one.notes)}
            for name, one in PRESETS.items()
        }
        click.echo(json.dumps(found, indent=2))
        return
    for name, preset in PRESETS.items():
        click.secho(f"{name:<24}{preset.system}", bold=True)
        click.echo(
            click.wrap_text(f"{preset.source}. Not in it: {'; '.join(preset.notes)}.", 100, *["    "] * 2)
        )


def _tell_plan(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record, indent=2, allow_nan=False))
        return
    click.secho(f"{record['preset']} on {record['data']}", bold=True)
    click.echo(
        f"{record['cases']} cases of {record['animals']} animals; {', '.join(record['structures'].values())}"
    )
    if "network" in record:
        words = ", ".join(f"{key} {value}" for key, value in record["network"].items() if key != "name")
        click.echo(f"Network: {record['network']['name']} ({words}), {record['parameters']:,} parameters")
        steps = [f"{step['name']} {_rest(step)}".strip() for step in record["preprocess"]]
        click.echo(f"Images: {', '.join(steps)}")
    for fold in record["folds"]:
        held = ", ".join(fold["held_out_animals"])
        click.echo(
            f"Fold {fold['fold']}: {fold['training']} cases to learn from, {fold['validation']} held out ({held})"
        )
    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items() if value is not None)
    click.echo(f"Settings: {settings}")
    for key, value in record["changed"].items():
        click.echo(f"Changed: {key} = {value}")
    for note in record["notes"]:
        click.secho(f"Note: {note}", fg="cyan")


def _tell(summary: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary, indent=2, allow_nan=False))
        return
    from thoraxseg.report import printable

    for note in summary["notes"]:
        click.secho(f"Note: {printable(note)}", fg="cyan")
    click.echo(summary["validation"])
    for warning in summary["warnings"]:
        click.secho(f"Please check: {warning}", fg="yellow")
    click.echo(printable(str(folder / summary["checkpoint"])))
    click.echo(f"Use it: thoraxseg segment IMAGE -c {printable(quote(str(folder / summary['checkpoint'])))}")


def _tell_search(found: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    for trial in found["trials"]:
        score = "failed" if trial["score"] is None else f"{found['measure']} {trial['score']:.4f}"
        values = ", ".join(f"{key} = {value}" for key, value in trial["values"].items())
        click.echo(
            f"{trial['trial']:>4}  {score:<16}{values}{'' if not trial['problem'] else ': ' + trial['problem']}"
        )
    if found["best"] is not None:
        click.echo(f"Best: {folder / found['best']}")


def _rest(step: dict[str, Any]) -> str:
    return " ".join(str(value) for key, value in step.items() if key != "name")
