"""The child process of `thoraxseg.job`: requests in, progress and results out, the model stays loaded between them.

`python -m thoraxseg.worker FOLDER` speaks JSON lines on its standard input and output; volumes and results go through
files in FOLDER. It ends when its input closes, so when its parent ends, also in the middle of work, and removes FOLDER.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from thoraxseg import __version__
from thoraxseg.checkpoints import About, Checkpoint, Choice, open_checkpoint
from thoraxseg.checkpoints.catalog import HOME_VARIABLE, folder_of, read_catalog
from thoraxseg.errors import DependencyError, InputError, OptionError, OutputError, ThoraxSegError
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.progress import Progress
from thoraxseg.volume import Volume, volume_sha256

if TYPE_CHECKING:
    from thoraxseg.inference import Predictor

MARKER = "of-thoraxseg"
"""A file that says that a folder is a private one of a job: no other is ever removed."""
LABELS, DOUBT, RESULT = "labels.npy", "uncertainty.npy", "result.json"
PROGRESS_SECONDS = 0.05
"""Progress goes out at most this often; the last word always does."""
NO_MEMORY = (
    "the memory of this machine does not suffice for this image and checkpoint. Close other programs, take only a "
    "region of interest, or resample the image to larger voxels, then run again."
)


class _Voice:
    """What the parent hears: one JSON object a line."""

    def __init__(self, stream: BinaryIO, gone: Callable[[], NoReturn]) -> None:
        self._stream, self._gone, self._lock = stream, gone, threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._sent = 0.0
        threading.Thread(target=self._keep_sending, daemon=True).start()

    def say(self, **message: Any) -> None:
        """Send a message, after the progress that was reported before it."""
        with self._lock:
            self._flush()
            self._write(message)

    def progress(self, job: str) -> Progress:
        """Return a progress whose reports are sent a few times a second."""

        def report(fraction: float, message: str) -> None:
            with self._lock:
                self._progress = {"say": "progress", "job": job, "fraction": fraction, "message": message}
                if time.monotonic() - self._sent >= PROGRESS_SECONDS:
                    self._flush()

        return report

    def _keep_sending(self) -> None:
        """Send what came too soon after another report, should nothing follow it."""
        while True:
            time.sleep(PROGRESS_SECONDS)
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if self._progress is not None:
            message, self._progress, self._sent = self._progress, None, time.monotonic()
            self._write(message)

    def _write(self, message: dict[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(message).encode("ascii") + b"\n")
            self._stream.flush()
        except OSError:  # nobody listens any more
            self._gone()


class _Log(logging.Handler):
    """Log records to the parent, as part of the job that runs."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.tell_log(f"{record.levelname}: {record.getMessage()}")


@dataclass(frozen=True)
class _Asked:
    """Which model was asked for, in words."""

    checkpoint: str
    choice: Choice | None
    lungs: str | None
    device: Device


@dataclass(frozen=True, eq=False)
class _Kept:
    """The model that is loaded."""

    asked: _Asked
    stamp: tuple[Any, ...] | None
    """What its files looked like when it was opened; None where files elsewhere count too."""
    opened: Checkpoint
    predictor: Predictor


class _Worker:
    """Does one request after the other."""

    def __init__(self, stream: BinaryIO, gone: Callable[[], NoReturn]) -> None:
        self.voice = _Voice(stream, gone)
        self._job = ""
        self._kept: _Kept | None = None
        self._loads = 0

    def tell_log(self, text: str) -> None:
        """Send lines of the log."""
        self.voice.say(say="log", job=self._job, text=text)

    def do(self, message: dict[str, Any]) -> None:
        """Do what is asked and say how it ended; no error comes out."""
        if message["do"] == "import":
            with suppress(Exception):  # what is missing is said by the request that needs it
                _import_what_is_slow()
            return
        self._job = message["id"]
        self.voice.say(say="started", job=self._job)
        work = {"segment": self._segment, "warm": self._warm, "install": self._install}[message["do"]]
        if message["home"] is not None:
            os.environ[HOME_VARIABLE] = message["home"]
        try:
            answer = work(message, self.voice.progress(self._job))
        except ThoraxSegError as error:
            self._fail(type(error).__name__, str(error))
        except ImportError as error:
            self.tell_log(traceback.format_exc())
            self._fail(DependencyError.__name__, _missing(error))
        except MemoryError:
            self._kept = None  # what it holds may be just what the next image needs
            self._fail(InputError.__name__, NO_MEMORY)
        except (Exception, SystemExit) as error:
            self.tell_log(traceback.format_exc())
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            told = f"an unexpected error in the child process ({said}). Please report it, with the log."
            self._fail(ThoraxSegError.__name__, told)
        else:
            self.voice.say(say="done", job=self._job, answer=answer)
        self._job = ""

    def _fail(self, kind: str, text: str) -> None:
        self.voice.say(say="failed", job=self._job, kind=kind, text=text)

    def _segment(self, message: dict[str, Any], progress: Progress) -> None:
        progress(0.0, "Getting ready")
        from thoraxseg import pipeline, report
        from thoraxseg.files import safe_name

        folder = Path(message["folder"])
        volume, *channels = [_read_volume(folder, told) for told in message["volumes"]]
        options = _options(message["options"])
        started = time.perf_counter()
        predictor = self._predictor(_asked(message, options.device), len(channels), progress)
        loading_s = time.perf_counter() - started
        box = message["box"] and tuple(map(tuple, message["box"]))
        result = pipeline.segment(
            volume, predictor.checkpoint, options, progress, predictor, channels, box=box
        )
        timings = result.provenance["timings_s"]
        timings["load_checkpoint"] = round(timings["load_checkpoint"] + loading_s, 3)
        result.provenance["child_process"] = {"process_id": os.getpid(), "models_loaded": self._loads}
        record = report.case_record(safe_name(volume.name), volume_sha256(volume), result, {})
        quantity = result.quantity
        content = {
            "job": message["id"],
            "structures": {label: asdict(one) for label, one in result.segmentation.structures.items()},
            "name": result.segmentation.name,
            "has_uncertainty": result.uncertainty is not None,
            "quantity": quantity
            and {
                "key": quantity.key,
                "name": quantity.words,
                "unit": quantity.unit,
                "maximum": quantity.maximum,
            },
            "record": record,
            "warnings": result.warnings,
            "notes": result.notes,
            "timings_s": timings,
        }
        text = json.dumps(content, allow_nan=False)
        try:
            np.save(folder / LABELS, result.segmentation.labels)
            if result.uncertainty is not None:
                np.save(folder / DOUBT, result.uncertainty)
            (folder / RESULT).write_text(text, encoding="ascii")  # last: it vouches for the others
        except OSError as error:
            raise OutputError(
                f"{folder}: the contours are made, but cannot be handed over: {error.strerror or error}. Free space on "
                "the disk of temporary files, then run again."
            ) from error

    def _warm(self, message: dict[str, Any], progress: Progress) -> str:
        _import_what_is_slow()
        options = _options({"device": message["device"]})
        return self._predictor(_asked(message, options.device), 0, progress).checkpoint.card.name

    def _install(self, message: dict[str, Any], progress: Progress) -> str:
        from thoraxseg.checkpoints import install

        about = dict(message["about"])
        if about.get("labels") is not None:
            about["labels"] = {int(label): name for label, name in about["labels"].items()}
        kept = install(message["source"], About(**about), _choice(message), message["sha256"], progress)
        for note in kept.notes:
            self.tell_log(f"{kept.card.name}: {note}")
        return kept.card.name

    def _predictor(self, asked: _Asked, further_channels: int, progress: Progress) -> Predictor:
        """Return the predictor of a checkpoint: the one that is loaded, if it still is the same."""
        from thoraxseg import inference, pipeline

        kept = self._kept
        stamp = _stamp(asked)
        if kept is not None and kept.asked == asked and stamp is not None and kept.stamp == stamp:
            opened = kept.opened
        else:
            progress(0.0, "Reading the checkpoint")
            lungs = None if asked.lungs is None else open_checkpoint(asked.lungs)
            opened = open_checkpoint(asked.checkpoint, asked.choice, lungs)
        if opened.previous is not None and asked.checkpoint not in read_catalog()[0]:
            stamp = None  # the first stage lies elsewhere
        checkpoint = pipeline.checkpoint_for(opened, further_channels)
        fits = (
            kept is not None and kept.asked.device is asked.device and kept.predictor.checkpoint == checkpoint
        )
        if fits and not kept.predictor.gpu_too_small:  # the memory of the GPU may be free by now
            predictor = kept.predictor
        else:
            progress(0.0, "Loading the model")
            self._kept = kept = None  # two models need not fit into memory
            _free_gpu()
            predictor = inference.load_predictor(checkpoint, asked.device)
            self._loads += 1
        self._kept = _Kept(asked, stamp, opened, predictor)
        return predictor


def _stamp(asked: _Asked) -> tuple[Any, ...]:
    """Return what tells whether a model's files are the same as before, without reading all of them.

    Cards are compared as a whole, other files by path, size and time of change.
    """
    cards, wrong = read_catalog()
    found: list[Any] = []
    for text in (asked.checkpoint, asked.lungs):
        if text is None:
            continue
        card = cards.get(text)
        made_by = cards.get(card.lungs_from) if card is not None and card.lungs_from else None
        found += [card, wrong.get(text), made_by]
        for place in (*(folder_of(one) for one in (card, made_by) if one), *([] if card else [Path(text)])):
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                with suppress(OSError):
                    about = path.stat()
                    found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(found)


def _asked(message: dict[str, Any], device: Device) -> _Asked:
    return _Asked(message["checkpoint"], _choice(message), message["lungs"], device)


def _choice(message: dict[str, Any]) -> Choice | None:
    told = message["choice"]
    if told is None:
        return None
    return replace(Choice(**told), folds=None if told["folds"] is None else tuple(told["folds"]))


def _options(told: dict[str, Any]) -> SegmentOptions:
    try:
        return SegmentOptions(**told)
    except TypeError as error:
        raise OptionError(f"options: expected those of ThoraxSeg {__version__}, got {error}.") from error


def _read_volume(folder: Path, told: dict[str, Any]) -> Volume:
    """Return a volume that the parent wrote; raises InputError unless it came whole."""
    path = folder / told["file"]
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{told['name']}: its voxels did not reach the child process: {path.name} is missing or damaged "
            f"({str(error)[:200]}). Run again; if it stays, check the disk of temporary files."
        ) from error
    if list(array.shape) != told["shape"] or array.dtype.str != told["type"]:
        raise InputError(
            f"{told['name']}: expected {told['shape']} voxels of type {told['type']}, {path.name} holds "
            f"{list(array.shape)} of type {array.dtype.str}. Run again."
        )
    notes, assumed = tuple(told["notes"]), told["geometry_assumed"]
    return Volume(array, np.array(told["ijk_to_ras"]), told["name"], notes, assumed)


def _import_what_is_slow() -> None:
    """Import what every request needs, while the parent still writes the volume."""
    import torch  # noqa: F401

    import thoraxseg.pipeline  # noqa: F401


def _missing(error: ImportError) -> str:
    """Return in words what cannot be imported, and what to do."""
    name = (error.name or "of this step").split(".")[0]
    return (
        f"the Python package {name} is missing or broken where the work is done ({sys.executable}): "
        f"{str(error)[:200]}. Install it there, then run again."
    )


def _free_gpu() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_ending = threading.Lock()


def _end(folder: Path) -> NoReturn:
    """End this process and all it started, at once, and leave no file of a patient behind."""
    _ending.acquire()  # a second thread waits here for the end, instead of ending the first one's work half way
    try:
        import psutil

        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        if (folder / MARKER).is_file():
            for _ in range(2):  # the work that still goes on may just have written a file
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def _listen(stream: BinaryIO, requests: queue.SimpleQueue, folder: Path) -> None:
    """Take in requests until the parent is gone, be it in the middle of a line."""
    with suppress(OSError, ValueError):
        for line in stream:
            requests.put(json.loads(line))
    _end(folder)


def main() -> NoReturn:
    """Serve requests until standard input closes."""
    folder = Path(sys.argv[1])
    # What libraries print, or read, must not touch the conversation: it goes on over copies of the two pipes.
    heard, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    worker = _Worker(said, lambda: _end(folder))
    logging.basicConfig(level=logging.WARNING, handlers=[_Log(worker)])
    logging.getLogger("thoraxseg").setLevel(logging.INFO)
    logging.captureWarnings(True)
    said.write(b"\n")  # ends what was printed before this began
    worker.voice.say(say="hello", process_id=os.getpid())
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heard, requests, folder), daemon=True).start()
    while True:
        worker.do(requests.get())


if __name__ == "__main__":
    main()
