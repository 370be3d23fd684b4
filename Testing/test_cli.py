"""The command line as a user and as an adversary meets it: words, exit statuses, streams, terminals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from Testing import tiny_models as tiny
from thoraxseg import cli
from thoraxseg.cli import main
from thoraxseg.errors import EXIT_STATUS
from thoraxseg.progress import Cancelled

FAMILIES = {
    "checkpoints": cli.app.commands["checkpoints"].commands,
    "study": cli.app.commands["study"].commands,
}
SINGLE = ("segment", "demo", "sweep", "compare", "observers", "evaluate", "stats", "reproduce", "train")
COMMANDS = {
    "app": [],
    **{name: [name] for name in (*SINGLE, *FAMILIES)},
    **{f"{group} {name}": [group, name] for group, names in FAMILIES.items() for name in names},
}
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX terminals, pipes and devices")


def strict_json(text: str):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def process(*words, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "thoraxseg", *map(str, words)]
    kwargs = {"capture_output": True, **kwargs}
    return subprocess.run(command, check=False, timeout=120, **kwargs)


def one_sentence(captured) -> str:
    """Check that stderr is one message without traceback and stdout is empty; return the message."""
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.fixture
def run(mouse_file, quick_checkpoint, tmp_path, no_pictures):
    """Run `segment` on the small mouse; words given replace or follow the usual ones."""

    def start(*extra, image=mouse_file, checkpoint=quick_checkpoint, output=tmp_path / "out") -> int:
        words = ["segment", image, "--checkpoint", checkpoint, "--output", output, *extra]
        return main([str(word) for word in words])

    return start


# Help


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_help_is_whole_sentences_that_fit_a_terminal(words, flag, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: thoraxseg")
    assert max(map(len, text.splitlines())) <= 80
    for many in (
        "[OPTIONS] COMMAND [ARGS]...",
        "[NAMES]...",
        "[RESULTS]...",
        "MASK ...",
        "N=NAME,...",
        "A,B,...",
    ):
        text = text.replace(many, "")
    assert "..." not in text.replace("0, 0.1 ... 1", "")  # click cuts what is too long


def test_the_tests_of_the_help_know_every_command():
    names = {" ".join(words) for words in COMMANDS.values()}
    assert names == {"", *cli.app.commands, *(f"{group} {n}" for group, own in FAMILIES.items() for n in own)}
    assert set(FAMILIES["checkpoints"]) == {"list", "show", "install", "verify", "remove", "convert"}
    assert set(FAMILIES) == {name for name, one in cli.app.commands.items() if hasattr(one, "commands")}


@pytest.mark.parametrize("words", [words for words in COMMANDS.values() if words], ids=" ".join)
def test_every_command_and_flag_says_what_it_does_in_a_sentence(words):
    command = cli.app
    for word in words:
        command = command.commands[word]
    assert command.get_short_help_str(100).endswith(".")
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help.split("  [default")[0].endswith("."), parameter.name


def test_the_first_help_names_every_exit_status_and_the_purpose(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^ +{status}  {re.escape(what)}$", text, re.M) for status, what in EXIT_STATUS.items()
    )
    assert "Research use only" in text
    assert "thoraxseg demo" in text


def test_the_version_is_told(capsys):
    from thoraxseg import __version__

    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_help_and_a_usage_error_load_no_heavy_package():
    code = (
        "import sys; from thoraxseg.cli import main; main(['segment', '--help']); main(['segment']);"
        "print(sorted({'torch', 'SimpleITK', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# A run that succeeds


def test_a_run_tells_volumes_with_units_files_and_warnings(run, tmp_path, capsys):
    assert run(checkpoint="phantom-threshold") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"Lungs +[\d.]+ mm³ +[\d,]+", out)
    assert re.search(r"Tumors: \d+ \(\d+ below 0.4 mm³, \d+ not\)", out)
    assert "Please check: Spacing 0.5 x 0.5 x 0.5 mm" in out
    assert "Research use only" in out
    names = {"mouse.seg.nrrd", "mouse_uncertainty.nrrd", "mouse.html", "mouse.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(str(tmp_path / "out" / name) in out for name in names)


def test_json_on_standard_output_is_the_record_and_nothing_else(run, tmp_path, capsys):
    assert run("--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert strict_json(out) == strict_json((tmp_path / "out" / "mouse.json").read_text("utf-8"))


def test_json_stays_pure_when_stages_are_told_and_nothing_is_found(run, tmp_path, capfd, mouse_file):
    assert run("--json", "--verbose", "--postprocess", "none", "--uncertainty", "none") == 0
    out, err = capfd.readouterr()
    assert strict_json(out)["uncertainty"] is None
    assert "INFO thoraxseg" in err


def test_a_name_and_options_reach_the_record(run, tmp_path):
    assert run("--name", "m7", "--uncertainty", "none", "--postprocess", "none", "--device", "cpu") == 0
    record = strict_json((tmp_path / "out" / "m7.json").read_text("utf-8"))
    chosen = {"device": "cpu", "uncertainty": "none", "postprocess": "none", "contrast": "auto"}
    chosen |= {"samples": 20, "seed": 0, "mirroring": "checkpoint"}
    assert record["provenance"]["options"] == chosen
    assert record["case"] == "m7"
    assert not (tmp_path / "out" / "m7_uncertainty.nrrd").exists()


# Several checkpoints as one


@pytest.fixture
def pair(tmp_path, quick_checkpoint):
    """Two checkpoints that find the same structures, called `one` and `two`."""
    for name in ("one", "two"):
        shutil.copytree(quick_checkpoint, tmp_path / name)
        card = json.loads((tmp_path / name / "card.json").read_text("utf-8"))
        if name == "two":
            card["inference"]["temperature"] = 3.0
        (tmp_path / name / "card.json").write_text(json.dumps(card | {"name": name}), encoding="utf-8")
    return [tmp_path / "one", tmp_path / "two"]


def test_the_record_of_an_ensemble_names_its_members_and_what_each_counts(pair, run, tmp_path, capsys):
    words = ["-c", pair[1], "--shares", "3,1", "--ensemble-on", "logits", "--name", "both"]
    assert run(*words, checkpoint=pair[0]) == 0
    assert "0.75 x one + 0.25 x two" in " ".join(capsys.readouterr().out.split())
    about = strict_json((tmp_path / "out" / "both.json").read_text("utf-8"))["provenance"]["checkpoint"]
    assert (about["name"], about["averaging"], about["weights_sha256"]) == ("one + two", "logits", [])
    assert [(one["name"], one["share"]) for one in about["members"]] == [("one", 0.75), ("two", 0.25)]
    digests = [one["weights_sha256"] for one in about["members"]]
    assert digests[0] == digests[1] and len(digests[0][0]) == 64


def test_an_ensemble_with_a_share_of_one_is_that_checkpoint(pair, run, tmp_path):
    bare = ["--postprocess", "none", "--uncertainty", "none"]
    assert run("-c", pair[1], "--shares", "1,0", "--name", "first", *bare, checkpoint=pair[0]) == 0
    assert run("--name", "alone", *bare, checkpoint=pair[0]) == 0
    found = [
        strict_json((tmp_path / "out" / f"{name}.json").read_text("utf-8")) for name in ("first", "alone")
    ]
    assert found[0]["measurements"]["structures"] == found[1]["measurements"]["structures"]
    assert "members" not in found[1]["provenance"]["checkpoint"]


# The catalog


@pytest.fixture
def catalog(empty_home, tmp_path, quick_checkpoint):
    """A user's folder with one model of two folds, called `mine`, beside what comes with ThoraxSeg."""
    from thoraxseg.checkpoints import About, install

    model = tiny.v2_model(tmp_path / "v2", folds=(0, 1))
    install(model, About(name="mine", title="Ours", species="mouse", modality="micro-CT", license="CC BY"))
    return empty_home / "checkpoints" / "mine"


KEYS = [
    "name",
    "title",
    "species",
    "modality",
    "structures",
    "license",
    "installed",
    "size_bytes",
    "page",
    "fetched",
]
GROUPS = {
    "Ready to use": {"mine", "phantom-threshold"},
    "Fetched with": {"deepmeta-mouse-mri", "moose-preclin-mr-all", "nnunet-v1-task006-lung"},
    "Published elsewhere": {"aimos-mouse-ct-native", "malimban-mouse-ct-3d-fullres"},
}


def listed(capsys) -> dict[str, str]:
    """Run `checkpoints list`; return the text of each group by its title."""
    capsys.readouterr()
    assert main(["checkpoints", "list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    parts = re.split(r"^(?=\S)", text, flags=re.M)
    return {part.splitlines()[0]: part for part in parts if part.strip()}


@pytest.mark.usefixtures("catalog")
def test_the_list_groups_models_by_what_one_can_do_with_them_and_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = listed(capsys)
    assert len(found) == len(GROUPS)
    for start, names in GROUPS.items():
        (part,) = [text for title, text in found.items() if title.startswith(start)]
        assert names <= set(re.findall(r"^  (\S+)$", part, re.M))
    (ready,) = [text for title, text in found.items() if title.startswith("Ready")]
    assert "mouse micro-CT: Lungs, Tumors" in ready and "license: CC BY" in ready
    assert re.search(r"human CT: Tumors\s+5\.0 GB", "".join(found.values()))


@pytest.mark.usefixtures("catalog")
def test_the_list_as_json_has_the_same_keys_for_every_model(capsys):
    assert main(["checkpoints", "list", "--json"]) == 0
    rows = {row["name"]: row for row in strict_json(capsys.readouterr().out)}
    assert all(list(row) == KEYS for row in rows.values())
    assert set().union(*GROUPS.values()) <= set(rows)
    mine = rows["mine"]
    assert (mine["installed"], mine["structures"], mine["fetched"]) == (True, ["Lungs", "Tumors"], False)
    assert mine["size_bytes"] > 10_000
    assert rows["deepmeta-mouse-mri"]["fetched"] and not rows["deepmeta-mouse-mri"]["installed"]
    assert rows["aimos-mouse-ct-native"]["page"].startswith("https://doi.org/")


def test_a_damaged_model_is_listed_as_one_and_not_as_published(catalog, capsys):
    (catalog / "fold_1.pth").write_bytes(b"damaged")
    found = listed(capsys)
    assert [part for title, part in found.items() if title.startswith("Damaged; ") and "  mine" in part]
    assert "  mine" not in "".join(part for title, part in found.items() if not title.startswith("Damaged"))


def test_a_damaged_card_is_named_where_it_matters_and_can_be_removed(catalog, capsys):
    (catalog / "card.json").write_text("{")
    for words in (["show", "mine"], ["verify"], ["verify", "mine"]):
        assert main(["checkpoints", *words]) == 4
        assert str(catalog / "card.json") in capsys.readouterr().err
    assert main(["checkpoints", "list"]) == 0
    assert "Please check" in capsys.readouterr().out
    for words in (["show", "phantom-threshold"], ["install", "phantom-threshold"]):
        assert main(["checkpoints", *words]) == 0  # another one is not its concern
    capsys.readouterr()
    assert main(["checkpoints", "remove", "mine"]) == 0
    assert main(["checkpoints", "list"]) == 0


def test_a_published_model_that_is_installed_is_listed_once(empty_home, tmp_path, capsys):
    from thoraxseg.checkpoints import About, install

    install(tiny.v2_model(tmp_path), About(name="moose-preclin-mr-all"))
    assert main(["checkpoints", "list", "--json"]) == 0
    rows = [row for row in strict_json(capsys.readouterr().out) if row["name"] == "moose-preclin-mr-all"]
    assert [row["installed"] for row in rows] == [True]
    assert main(["checkpoints", "show", "moose-preclin-mr-all"]) == 0
    out = capsys.readouterr().out
    assert "how to get" not in out and "fold_0.pth" in out


def shown(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["checkpoints", "show", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= 80
    return " ".join(out.split())


def test_show_tells_all_of_an_installed_model(catalog, capsys, monkeypatch):
    from thoraxseg.files import sha256_file

    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "mine")
    for word in (
        "Ours",
        "mouse micro-CT",
        "1 Lungs, 2 Tumors",
        "plain_conv_unet, 2 fold(s)",
        "3d_fullres",
        "CC BY",
    ):
        assert word in text
    assert "the file's own axes" in text and "0.15 x 0.3 x 0.14 mm (k x j x i)" in text
    assert all(sha256_file(catalog / f"fold_{n}.pth") in text for n in (0, 1))
    assert "1 fold(s)" in shown(capsys, "mine", "--folds", "1")


def test_show_tells_of_bundled_and_published_models_and_of_what_can_be_fetched(
    empty_home, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert "Not a trained model" in shown(capsys, "phantom-threshold")
    assert "RIA" in shown(capsys, "deepmeta-mouse-mri"), "its card is here before its weights"
    for name in ("aimos-mouse-ct-native", "moose-preclin-mr-all", "nnunet-v1-task055-segthor"):
        text = shown(capsys, name)
        assert "how to get" in text and f"{name}" in text and "https://" in text
        assert "will be shown after fetching" in text or "SHA-256" in text
    assert "Fetch it (5.0 GB) with 'thoraxseg checkpoints install nnunet-v1-task055-segthor'" in text


def test_show_tells_of_a_path_what_was_assumed(empty_home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    torch.save(tiny.state_of("aimos", {"features": [4, 8]}), tmp_path / "w.pth")
    text = shown(capsys, tmp_path / "w.pth")
    assert "Please check: w.pth holds weights and nothing else" in text and "aimos" in text
    assert "3d_fullres" in shown(capsys, tiny.v2_model(tmp_path / "v2"), "--folds", "0")
    assert main(["checkpoints", "show", "nobody"]) == 4
    one_sentence(capsys.readouterr())


@pytest.mark.usefixtures("catalog")
def test_show_as_json_is_the_card_or_the_entry(catalog, capsys):
    assert main(["checkpoints", "show", "mine", "--json"]) == 0
    assert strict_json(capsys.readouterr().out) == strict_json((catalog / "card.json").read_text("utf-8"))
    assert main(["checkpoints", "show", "nnunet-v1-task055-segthor", "--json"]) == 0
    entry = strict_json(capsys.readouterr().out)
    assert (entry["labels"]["2"], entry["url"][:8]) == ("heart", "https://")


def test_a_model_is_installed_verified_converted_and_removed(empty_home, tmp_path, capsys):
    model = tiny.v2_model(tmp_path / "v2", folds=(0, 1))
    words = ["install", model, "--name", "mine", "--labels", "1=heart,2=spinal cord", "--folds", "1"]
    assert main(["checkpoints", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert (err, out.splitlines()[0]) == ("", f"mine is in {empty_home / 'checkpoints' / 'mine'}")
    assert main(["checkpoints", "verify", "mine"]) == 0
    assert re.fullmatch(r"mine: \d+ kB, as on its card\n", capsys.readouterr().out)
    assert main(["checkpoints", "convert", "mine", "-o", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["card.json", "fold_1.safetensors"]
    card = strict_json((tmp_path / "new" / "card.json").read_text("utf-8"))
    assert card["labels"] == {"1": "heart", "2": "spinal_cord"}
    capsys.readouterr()
    assert main(["checkpoints", "remove", "mine"]) == 0
    assert re.fullmatch(r"mine was removed; \d+ kB are free again\.\n", capsys.readouterr().out)
    assert main(["checkpoints", "remove", "mine"]) == 4
    assert "'mine' is not installed" in one_sentence(capsys.readouterr())


def test_an_installed_model_contours_by_its_name(catalog, run, tmp_path):
    words = ["--mirroring", "none", "--uncertainty", "none", "--folds", "1"]
    image = tiny.image_file(tmp_path / "tiny.nrrd")
    assert run(*words, checkpoint="mine", image=image) == 0
    about = strict_json((tmp_path / "out" / "tiny.json").read_text("utf-8"))["provenance"]["checkpoint"]
    assert (about["name"], about["species"], about["weights"]) == ("mine", "mouse", ["fold_1.pth"])
    assert about["nnunet"]["configuration"] == "3d_fullres"


@pytest.mark.parametrize("words", [["mine"], []], ids=["by name", "all"])
def test_verify_ends_with_4_and_names_the_file_of_which_one_byte_is_flipped(words, catalog, capsys):
    assert main(["checkpoints", "verify", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == (1 if words else 2), "what was never fetched is not verified"
    raw = bytearray((catalog / "fold_0.pth").read_bytes())
    raw[len(raw) // 2] ^= 1
    (catalog / "fold_0.pth").write_bytes(raw)
    assert main(["checkpoints", "verify", *words]) == 4
    assert str(catalog / "fold_0.pth") in capsys.readouterr().err


def test_the_digest_and_the_source_of_an_install_are_checked(empty_home, tmp_path, capsys):
    torch.save(tiny.state_of("aimos", {"features": [4, 8]}), tmp_path / "w.pth")
    for words, status, said in (
        (["w.pth", "--sha256", "0" * 64], 4, "expected SHA-256 000000000000"),
        (["nobody.pth"], 4, "unknown checkpoint 'nobody.pth'"),
        (["http://example.org/w.pth"], 6, "https://"),
        (["aimos-mouse-ct-native"], 6, "with a browser"),
        (["w.pth", "--name", "phantom-threshold"], 4, "is taken"),
    ):
        os.chdir(tmp_path)
        assert main(["checkpoints", "install", *words]) == status
        assert said in one_sentence(capsys.readouterr())
    assert not [path for path in empty_home.rglob("*") if path.is_file()]


def test_outside_text_of_a_model_cannot_steer_the_terminal(empty_home, tmp_path, capsys):
    evil = "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold]"
    path = tmp_path / "w\x1b[31m\u202e.pth"
    torch.save(tiny.state_of("aimos", {"features": [4, 8]}), path)
    assert (
        main(["checkpoints", "install", str(path), "--name", "mine", "--license", evil, "--title", evil]) == 0
    )
    for words in (["list"], ["show", "mine"], ["show", str(path)], ["verify", "mine"]):
        assert main(["checkpoints", *words]) == 0
    convert = ["checkpoints", "convert", str(path), "-o", str(tmp_path / "new\x1b[31m")]
    assert main(convert) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err and "[bold]x[/bold]" in out


# Exit statuses and messages

TWICE = ["-c", "phantom-threshold", "-c", "phantom-threshold"]
USAGE = {
    "an unknown command": ["frobnicate"],
    "an unknown flag": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--frobnicate"],
    "no input": ["segment", "-c", "phantom-threshold", "-o", "o"],
    "no checkpoint": ["segment", "x.nrrd", "-o", "o"],
    "no output": ["segment", "x.nrrd", "-c", "c"],
    "an unknown choice": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--device", "tpu"],
    "an empty input": ["segment", "", "-c", "phantom-threshold", "-o", "o"],
    "an empty checkpoint": ["segment", "x.nrrd", "-c", "", "-o", "o"],
    "an empty output": ["segment", "x.nrrd", "-c", "c", "-o", " "],
    "an empty name": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--name", " "],
    "an empty output of the demo": ["demo", "--offline", "-o", ""],
    "words for a spacing": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--spacing", "wide"],
    "a negative spacing": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--spacing=-1,1,1"],
    "a spacing of zero": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--spacing", "0"],
    "a spacing of NaN": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--spacing", "nan"],
    "a number of samples out of range": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--samples", "1"],
    "words for folds": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--folds", "first"],
    "a fold twice": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--folds", "1,1"],
    "an empty lung checkpoint": ["segment", "x.nrrd", "-c", "phantom-threshold", "-o", "o", "--lungs", ""],
    "an empty channel": ["segment", "x.nrrd", "-c", "phantom-threshold", "-o", "o", "--channel", " "],
    "an empty configuration": ["segment", "x.nrrd", "-c", "c", "-o", "o", "--configuration", ""],
    "shares of one checkpoint": ["segment", "x.nrrd", "-c", "phantom-threshold", "-o", "o", "--shares", "1"],
    "too few shares": ["segment", "x.nrrd", *TWICE, "-o", "o", "--shares", "1"],
    "words for shares": ["segment", "x.nrrd", *TWICE, "-o", "o", "--shares", "half,half"],
    "negative shares": ["segment", "x.nrrd", *TWICE, "-o", "o", "--shares=-1,2"],
    "shares of nothing": ["segment", "x.nrrd", *TWICE, "-o", "o", "--shares", "0,0"],
    "shares of NaN": ["segment", "x.nrrd", *TWICE, "-o", "o", "--shares", "nan,1"],
    "an unknown way to average": ["segment", "x.nrrd", *TWICE, "-o", "o", "--ensemble-on", "labels"],
    "folds of an ensemble": ["segment", "x.nrrd", *TWICE, "-o", "o", "--folds", "0"],
    "lungs that no member takes": ["segment", "x.nrrd", *TWICE, "-o", "o", "--lungs", "phantom-threshold"],
    "a sweep without a table": ["sweep", *TWICE, "-o", "o"],
    "a sweep of one checkpoint": ["sweep", "x.csv", "-c", "phantom-threshold", "-o", "o"],
    "no prediction": ["compare", "-r", "x.nrrd"],
    "an empty reference": ["compare", "-r", "", "-p", "x.nrrd"],
    "an unknown slice axis": ["compare", "-r", "x.nrrd", "-p", "x.nrrd", "--slice-axis", "z"],
    "a tolerance of zero": ["compare", "-r", "x.nrrd", "-p", "x.nrrd", "--tolerance", "0"],
    "a tolerance of NaN": ["compare", "-r", "x.nrrd", "-p", "x.nrrd", "--tolerance", "nan"],
    "names without numbers": ["compare", "-r", "x.nrrd", "-p", "x.nrrd", "--labels", "heart"],
    "a merge of one": ["observers", "x.nrrd", "y.nrrd", "--merge", "lungs=lung"],
    "no masks": ["observers"],
    "an unknown absence": ["observers", "x.nrrd", "y.nrrd", "--absent", "maybe"],
    "a model without a table": ["observers", "x.nrrd", "y.nrrd", "--model", "net"],
    "no cohort": ["evaluate"],
    "an alpha of one": ["evaluate", "x.csv", "--alpha", "1"],
    "no scores": ["stats"],
    "words for a failed score": ["stats", "x.csv", "--failed-as", "nothing"],
    "a failed score of NaN": ["stats", "x.csv", "--failed-as", "nan"],
    "words for labels": ["checkpoints", "install", "x.pth", "--labels", "heart"],
    "an unknown species": ["checkpoints", "install", "x.pth", "--species", "cat"],
    "a name with a path": ["checkpoints", "install", "x.pth", "--name", "../x"],
    "a digest that is none": ["checkpoints", "install", "x.pth", "--sha256", "abc"],
    "an empty source": ["checkpoints", "install", " "],
    "no folder to convert into": ["checkpoints", "convert", "x.pth"],
    "nothing to show": ["checkpoints", "show"],
    "nothing to remove": ["checkpoints", "remove"],
    "an odd name to remove": ["checkpoints", "remove", "../x"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_wrong_usage_ends_with_2_and_an_explanation(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def make_bad_input(kind: str, folder, good):
    """Return the path of an image that cannot be used."""
    import SimpleITK as sitk

    path = folder / "bad.nrrd"
    data = good.read_bytes()
    cut = data.index(b"\n\n") + 2
    array = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)

    def save(image, name="bad.nii.gz"):
        sitk.WriteImage(image, str(folder / name))
        return folder / name

    def header(old, new):
        path.write_bytes(re.sub(old, new, data[:cut]) + data[cut:])
        return path

    if kind == "missing":
        return folder / "nobody.nrrd"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped bytes":
        path.write_bytes(data[:-200] + bytes(b ^ 255 for b in data[-200:-100]) + data[-100:])
    elif kind == "a web page":
        path.write_text("<!doctype html><html>404</html>")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "zero spacing":
        return header(rb"space directions: \([^)]*\)", b"space directions: (0,0,0)")
    elif kind == "infinite spacing":
        return header(rb"space directions: \([^)]*\)", b"space directions: (inf,0,0)")
    elif kind == "sheared axes":
        return header(rb"space directions: .*", b"space directions: (0.5,0,0) (0.3,0.5,0) (0,0,0.5)")
    elif kind == "negative spacing":
        return save_mha(folder, "-0.5 0.5 0.5")
    elif kind == "NaN":
        array[2, 3, 4] = np.nan
        return save(sitk.GetImageFromArray(array), "bad.nrrd")
    elif kind == "constant":
        return save(sitk.GetImageFromArray(np.zeros((6, 7, 8), np.int16)), "bad.nrrd")
    elif kind == "4-D":
        return save(sitk.GetImageFromArray(np.random.default_rng(0).random((3, 6, 7, 8)), isVector=False))
    elif kind == "RGB":
        return save(sitk.GetImageFromArray(np.zeros((6, 7, 8, 3), np.uint8), isVector=True), "bad.mha")
    elif kind == "an empty folder":
        (folder / "series").mkdir()
        return folder / "series"
    elif kind == "a device":
        return "/dev/zero"
    return path


def save_mha(folder, spacing: str):
    path = folder / "bad.mha"
    text = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = {spacing}\nDimSize = 4 4 4\n"
    path.write_bytes(text.encode() + b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(range(64)))
    return path


BAD_INPUTS = [
    *("missing", "empty", "cut short", "flipped bytes", "a web page", "text", "zero spacing"),
    *("infinite spacing", "sheared axes", "negative spacing", "NaN", "constant", "4-D", "RGB"),
    *("an empty folder", pytest.param("a device", marks=posix)),
]


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_an_input_that_cannot_be_used_ends_with_3_and_one_sentence(kind, run, tmp_path, mouse_file, capsys):
    path = make_bad_input(kind, tmp_path, mouse_file)
    assert run(image=path) == 3
    message = one_sentence(capsys.readouterr())
    assert Path(path).name in message
    assert len(message.partition(Path(path).name)[2]) > 40  # what was expected, what came, what to do
    assert not (tmp_path / "out").exists()


def make_bad_checkpoint(kind: str, folder, good):
    names = {
        "unknown": "phantom-treshold",
        "published": "moose-preclin-mr-all",
        "too long a path": "x" * 5000,
    }
    if kind in names:
        return names[kind]
    if kind == "an empty folder":
        return folder
    if kind in ("text as weights", "an archive of nothing"):
        path = folder / ("weights.pth" if kind == "text as weights" else "model.zip")
        path.write_text("hello")
        return path
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = next(folder.glob("*.safetensors"))
    if kind == "wrong hash":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "card cut short":
        (folder / "card.json").write_text('{"schema": 1,')
    elif kind == "no card":
        (folder / "card.json").unlink()
    elif kind == "unknown weights":
        return folder / "card.json.bin" if (folder / "card.json").rename(folder / "card.json.bin") else None
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        *("unknown", "published", "wrong hash", "no weights", "card cut short", "no card", "unknown weights"),
        *("an empty folder", "text as weights", "an archive of nothing", "too long a path"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_ends_with_4_and_one_sentence(
    kind, run, tmp_path, quick_checkpoint, capsys
):
    (tmp_path / "spoiled").mkdir()
    assert run(checkpoint=make_bad_checkpoint(kind, tmp_path / "spoiled", quick_checkpoint)) == 4
    one_sentence(capsys.readouterr())
    assert not (tmp_path / "out").exists()


def test_a_misspelled_checkpoint_is_answered_with_the_right_one(run, capsys):
    run(checkpoint="phantom-treshold")
    assert "Did you mean phantom-threshold?" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["a file", "under a file", pytest.param("/proc/nowhere", marks=posix)])
def test_an_output_that_is_no_folder_ends_with_5_and_one_sentence(place, run, tmp_path, capsys):
    (tmp_path / "a file").write_text("mine")
    output = {"a file": tmp_path / "a file", "under a file": tmp_path / "a file" / "x"}.get(place, place)
    assert run(output=output) == 5
    assert "Choose another output folder" in one_sentence(capsys.readouterr())
    assert (tmp_path / "a file").read_text() == "mine"


def test_a_device_that_is_not_there_ends_with_7(run, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--device", "cuda") == 7
    assert "--device cpu" in one_sentence(capsys.readouterr())


@pytest.mark.parametrize("words", [["demo"], ["checkpoints", "install", "deepmeta-mouse-mri"]], ids=" ".join)
def test_a_fetch_without_network_ends_with_6_and_names_the_way_out(
    words, empty_home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 6
    assert "thoraxseg demo --offline" in one_sentence(capsys.readouterr())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ZeroDivisionError("two\nlines"), 1),
        (EOFError("not a cancel"), 1),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
        (Cancelled(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_happens_inside_becomes_one_line_and_a_status(error, status, run, monkeypatch, capsys):
    from thoraxseg import pipeline

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pipeline, "segment", fail)
    assert run() == status
    one_sentence(capsys.readouterr())


def test_too_little_memory_is_no_defect_and_says_what_to_do(run, monkeypatch, capsys):
    from thoraxseg import pipeline

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(pipeline, "segment", fail)
    assert run() == 3
    said = one_sentence(capsys.readouterr())
    assert "memory" in said and "Close other programs" in said and "defect" not in said


def test_debug_shows_where_an_error_came_from(run, tmp_path, capsys):
    assert run("--debug", image=tmp_path / "nobody.nrrd") == 3
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("Error: ")


def test_a_file_name_cannot_steer_the_terminal(run, tmp_path, mouse_file, capsys):
    evil = tmp_path / "a\x1b[31m\u202e\x07[bold]:heart:.nrrd"
    evil.write_bytes(mouse_file.read_bytes())
    assert run(image=evil) == 0
    out = capsys.readouterr().out
    assert r"a\x1b[31m\u202e\x07[bold]:heart:.nrrd" in out
    assert run(image=tmp_path / "b\x1b[31m.nrrd") == 3
    assert "\x1b" not in out + capsys.readouterr().err


# Streams


@posix
@pytest.mark.parametrize(
    "words", [["checkpoints", "list"], ["checkpoints", "list", "--json"], ["--help"]], ids=" ".join
)
def test_a_reader_that_goes_away_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    done = process(*words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize(
    "words", [["checkpoints", "list"], ["checkpoints", "list", "--json"], ["--help"]], ids=" ".join
)
def test_a_full_standard_output_is_an_output_error(words):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = process(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 5
    assert done.stderr.decode().count("\n") == 1
    assert "standard output: cannot be read or written: No space left" in done.stderr.decode()


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(closed):
    command = f'"{sys.executable}" -m thoraxseg checkpoints list {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp437", marks=pytest.mark.slow)])
def test_a_terminal_of_few_characters_shows_what_it_can(encoding, mouse_file, quick_checkpoint, tmp_path):
    image = tmp_path / "mäuse ☃.nrrd"
    image.write_bytes(mouse_file.read_bytes())
    words = ["segment", image, "-c", quick_checkpoint, "-o", tmp_path / "out", "--uncertainty", "none"]
    done = process(*words, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Lungs" in done.stdout


def in_a_terminal(*words) -> tuple[int, str]:
    """Run the command line with a pseudo-terminal as its streams; return exit status and what it shows."""
    import pty

    shown = b""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "thoraxseg", *map(str, words)])
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode("utf-8", "replace")


@posix
def test_a_terminal_shows_a_bar_and_folders_named_like_mark_up(mouse_file, quick_checkpoint, tmp_path):
    folder = tmp_path / "[red]a[/b]:heart:"
    status, shown = in_a_terminal("segment", mouse_file, "-c", quick_checkpoint, "-o", folder)
    assert status == 0, shown
    assert "━" in shown
    assert re.search(r"\d+ %", shown)
    assert "Drawing slices" in shown
    assert "[red]a[/b]:heart:" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", shown)
    assert shown.rstrip().endswith("treatment.\x1b[0m")


def test_without_a_terminal_nothing_is_drawn(mouse_file, quick_checkpoint, tmp_path):
    done = process("segment", mouse_file, "-c", quick_checkpoint, "-o", tmp_path, "--json")
    assert done.stderr == b""
    assert strict_json(done.stdout.decode("ascii"))["case"] == "mouse"


# Signals and threads


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_main_gives_the_signal_handlers_back(number):
    def ours(*args):
        """The caller's own handler."""

    before, hook = signal.signal(number, ours), sys.unraisablehook
    try:
        main(["--version"])
        assert signal.getsignal(number) is ours
        assert sys.unraisablehook is hook
    finally:
        signal.signal(number, before)


def test_main_runs_in_a_thread_too(capsys):
    found = []
    thread = threading.Thread(target=lambda: found.append(main(["--version"])))
    thread.start()
    thread.join()
    assert found == [0]


@posix
def test_a_sigterm_is_not_swallowed_by_a_library_that_catches_exceptions(run, monkeypatch, capsys):
    from thoraxseg import pipeline

    def careless(*args, **kwargs):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Exception:
            pass

    monkeypatch.setattr(pipeline, "segment", careless)
    assert run() == 143
    assert "terminated" in one_sentence(capsys.readouterr())


@posix
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_that_python_ignores_in_a_callback_still_stops_the_run(
    number, status, run, monkeypatch, capsys
):
    from thoraxseg import pipeline

    class Thing:
        def __del__(self):  # what is raised in here, or where a weak reference ends, is only printed
            os.kill(os.getpid(), number)
            for _ in range(1000):
                pass

    original = pipeline.segment

    def segment(*args, **kwargs):
        Thing()
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "segment", segment)
    assert run() == status
    one_sentence(capsys.readouterr())


@posix
def test_a_ctrl_c_that_the_shell_told_us_to_ignore_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(["--version"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@posix
def test_a_stop_that_a_library_turns_into_an_error_of_its_own_is_still_a_stop(run, monkeypatch, capsys):
    from thoraxseg import pipeline

    def translate(*args, **kwargs):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except BaseException as error:
            raise RuntimeError("a layer failed") from error

    monkeypatch.setattr(pipeline, "segment", translate)
    assert run() == 143
    assert "terminated" in one_sentence(capsys.readouterr())
