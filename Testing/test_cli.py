"""The command line as a user and as an adversary meets it: words, exit statuses, streams, terminals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from thoraxseg import cli
from thoraxseg.cli import main
from thoraxseg.errors import EXIT_STATUS
from thoraxseg.progress import Cancelled

COMMANDS = {
    "app": [],
    "segment": ["segment"],
    "demo": ["demo"],
    "checkpoints": ["checkpoints"],
    "checkpoints list": ["checkpoints", "list"],
    "checkpoints install": ["checkpoints", "install"],
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
    assert "..." not in text.replace("[OPTIONS] COMMAND [ARGS]...", "")  # click cuts what is too long


@pytest.mark.parametrize("name", ["segment", "demo"])
def test_every_flag_says_what_it_does_in_a_sentence(name):
    for parameter in cli.app.commands[name].params:
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


def test_the_list_of_checkpoints_is_a_table_or_json(capsys):
    assert main(["checkpoints", "list", "--json"]) == 0
    rows = strict_json(capsys.readouterr().out)
    assert main(["checkpoints", "list"]) == 0
    text = capsys.readouterr().out
    assert {"deepmeta-mouse-mri", "phantom-threshold"} <= {row["name"] for row in rows}
    assert all(row["name"] in text and row["license"] in text for row in rows)


def test_a_name_and_options_reach_the_record(run, tmp_path):
    assert run("--name", "m7", "--uncertainty", "none", "--postprocess", "none", "--device", "cpu") == 0
    record = strict_json((tmp_path / "out" / "m7.json").read_text("utf-8"))
    chosen = {"device": "cpu", "uncertainty": "none", "postprocess": "none", "contrast": "auto"}
    assert record["provenance"]["options"] == chosen
    assert record["case"] == "m7"
    assert not (tmp_path / "out" / "m7_uncertainty.nrrd").exists()


# Exit statuses and messages

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
    if kind == "unknown":
        return "phantom-treshold"
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
    "kind", ["unknown", "wrong hash", "no weights", "card cut short", "no card", "unknown weights"]
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
        (MemoryError(), 1),
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
