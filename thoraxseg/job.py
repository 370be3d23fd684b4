"""A request in, contours out, from a child process that keeps its model loaded: start, poll, cancel.

The parent's side of `thoraxseg.worker`. Nothing here waits for the work: a shell asks `Job.poll` now and then.
All of it is used from one thread.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import thoraxseg
from thoraxseg import errors
from thoraxseg.checkpoints import About, Choice, read_catalog
from thoraxseg.checkpoints.catalog import HOME_VARIABLE
from thoraxseg.durations import Expected
from thoraxseg.errors import DependencyError, OptionError, OutputError, ThoraxSegError
from thoraxseg.files import new_scratch
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.progress import Cancelled
from thoraxseg.segmentation import Code, Segmentation, Structure, Terminology
from thoraxseg.volume import Box, Volume, box_slices
from thoraxseg.worker import DOUBT, LABELS, MARKER, NO_MEMORY, RESULT

MAX_LOG_LINES = 2000
GRACE_SECONDS = 1.0
"""How long processes have to end by themselves before they are killed."""
_EARLY = 0.05
"""Below this fraction the time so far says nothing about the whole."""


class State(Enum):
    """How far a job is."""

    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be contoured, with what, how."""

    volume: Volume
    checkpoint: str
    """A name of the catalog, or a path."""
    options: SegmentOptions = field(default_factory=SegmentOptions)
    choice: Choice | None = None
    lungs: str | None = None
    """The checkpoint that makes the lung map of a network that takes one."""
    channels: tuple[Volume, ...] = ()
    """Further input channels on the same grid, in the checkpoint's order."""
    box: Box | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the child process found, on the grid of the input."""

    segmentation: Segmentation
    uncertainty: np.ndarray | None
    """Doubt `(K, J, I)` float32; None when not asked for."""
    quantity: dict[str, Any] | None
    """What `uncertainty` holds: key, name (words for people), unit, maximum."""
    record: dict[str, Any]
    """As `thoraxseg.report.case_record` gives it; its input digest is `thoraxseg.volume.volume_sha256`."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    timings_s: dict[str, float]


class Job:
    """One piece of work in the child process. What it shows is what `poll` took in last."""

    def __init__(self, child: _Child, volume: Volume | None = None, expected: Expected | None = None) -> None:
        self.id = uuid.uuid4().hex
        self.state = State.STARTING
        self.fraction = 0.0
        self.message = "Starting"
        self.log: list[str] = []
        self.error: ThoraxSegError | None = None
        self._child, self._volume, self._expected = child, volume, expected
        self._answer: Outcome | str | None = None
        self._start, self._end = time.monotonic(), None
        self.folder = child.folder / self.id
        """Where volume and result go through; removed afterwards."""

    def __repr__(self) -> str:
        return f"<Job {self.id[:8]} {self.state.value} {self.fraction:.0%} {self.message!r}>"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, or that it took."""
        return (time.monotonic() if self._end is None else self._end) - self._start

    @property
    def expected_s(self) -> float | None:
        """Seconds that the whole will take, as far as is known: from earlier runs, and more and more from this one."""
        if self.state is State.DONE:
            return self.elapsed_s
        earlier = self._expected and self._expected.seconds
        if self.fraction < _EARLY:
            return None if earlier is None else max(earlier, self.elapsed_s)
        now = self.elapsed_s / self.fraction
        return now if earlier is None else max(earlier + (now - earlier) * self.fraction, self.elapsed_s)

    def poll(self) -> State:
        """Take in what the child process said, without waiting, and return the state."""
        if not self.state.is_final:
            self._child.take_in()
        return self.state

    def wait(self, timeout_s: float) -> State:
        """Poll until the job is over or `timeout_s` seconds have passed, and return the state."""
        until = time.monotonic() + timeout_s
        while not self.poll().is_final and time.monotonic() < until:
            time.sleep(0.02)
        return self.state

    def cancel(self) -> None:
        """End the child process and all that it started; the next job starts a new one."""
        if not self.poll().is_final:
            self._child.end()

    def result(self) -> Outcome | str:
        """Return what was found; of `Engine.install` and `Engine.warm`, the name of the checkpoint.

        Raises the job's error where it failed, Cancelled where it was cancelled, OptionError while it runs or when the
        result was let go.
        """
        if self.error is not None:
            raise self.error
        if self.state is State.CANCELLED:
            raise Cancelled
        if self.state is not State.DONE:
            raise OptionError("the job is not finished: poll it until its state is DONE.")
        if self._answer is None:
            raise OptionError("the result of this job was let go: run again.")
        return self._answer

    def forget(self) -> None:
        """Let go of the result, whose arrays are as large as the volume, once it is somewhere else."""
        self._answer = None

    def tell(self, text: str) -> None:
        """Add lines to the log, which forgets its beginning when it grows long."""
        self.log += text.splitlines()
        if len(self.log) > MAX_LOG_LINES:
            del self.log[: len(self.log) - MAX_LOG_LINES]
            self.log[0] = "(the beginning of the log was left out)"

    def hear(self, message: dict[str, Any]) -> None:
        """Take in one message of the child process."""
        said = message["say"]
        if said == "log":
            self.tell(message["text"])
        if self.state.is_final:
            return
        if said == "started":
            self.state = State.RUNNING
        elif said == "progress":
            self.fraction = max(self.fraction, min(float(message["fraction"]), 1.0))
            self.message = message["message"]
        elif said == "failed":
            self.fail(_error(message["kind"], message["text"]))
        elif said == "done":
            self._finish(message["answer"])

    def fail(self, error: ThoraxSegError) -> None:
        """End the job with an error."""
        self.error, self.message = error, str(error)
        self.tell(str(error))
        self.over(State.FAILED)

    def over(self, state: State) -> None:
        """End the job; its files go, and the volume is not needed any more."""
        self.state, self._end, self._volume = state, time.monotonic(), None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self, answer: str | None) -> None:
        try:
            self._answer = answer if self._volume is None else _read_outcome(self)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            told = str(error)[:300].rstrip(".")
            self.fail(
                ThoraxSegError(
                    f"the result did not come whole from the child process ({told}), so nothing of it is used. Run "
                    "again; if it stays, check the disk of temporary files."
                )
            )
            return
        self.fraction = 1.0
        self.over(State.DONE)
        if self._expected is not None:
            self._expected.remember(self.elapsed_s, self._answer.timings_s)

    @property
    def volume(self) -> Volume | None:
        """The volume that is contoured, on whose grid the result has to be; None once the job is over."""
        return self._volume


class Engine:
    """One child process that keeps its model loaded between jobs; it starts with the first job.

    `python` runs it: by default Slicer's own Python inside of Slicer, else the one that runs now. In `folder`
    private folders are made that hold volumes on their way, by default where the system keeps temporary files.
    """

    def __init__(self, python: str | None = None, folder: Path | None = None) -> None:
        self._python = python or default_python()
        self._folder = Path(folder or tempfile.gettempdir())
        self._child: _Child | None = None
        self.job: Job | None = None
        """The last job, whatever its state."""

    @property
    def is_alive(self) -> bool:
        """Whether the child process runs."""
        return self._child is not None and self._child.is_alive

    @property
    def process_id(self) -> int | None:
        """Number of the child process; None while there is none."""
        return self._child.process.pid if self.is_alive else None

    def segment(self, request: Request) -> Job:
        """Start contouring and return the job.

        Raises OptionError while another job runs or for a box that is not in the volume, OutputError when the volume
        cannot be handed over (a full disk), DependencyError when the child process cannot be started or ended.
        """
        self._refuse_while_busy()
        if request.box is not None:
            box_slices(request.box, request.volume.shape)
        child = self._living_child()
        child.send({"do": "import"})  # while the volume is written
        expected = _expected(request, is_warm=child.warmed == _model(request))
        job = Job(child, request.volume, expected)
        volumes = _write_volumes(job.folder, (request.volume, *request.channels))
        child.warmed = _model(request)
        box = request.box and [[int(end) for end in ends] for ends in request.box]
        return self._start(
            job,
            do="segment",
            folder=str(job.folder),
            volumes=volumes,
            checkpoint=_place(request.checkpoint),
            choice=request.choice and asdict(request.choice),
            lungs=request.lungs and _place(request.lungs),
            options=request.options.to_record(),
            box=box,
        )

    def warm(
        self,
        checkpoint: str,
        device: Device | str = Device.AUTO,
        choice: Choice | None = None,
        lungs: str | None = None,
    ) -> Job:
        """Load a model before it is needed; a job that starts meanwhile follows. Its result is the card's name."""
        self._refuse_while_busy()
        child = self._living_child()
        child.warmed = (checkpoint, choice, lungs, Device(device))
        return self._start(
            Job(child),
            is_warming=True,
            do="warm",
            checkpoint=_place(checkpoint),
            choice=choice and asdict(choice),
            lungs=lungs and _place(lungs),
            device=Device(device).value,
        )

    def install(
        self,
        source: str,
        sha256: str | None = None,
        about: About | None = None,
        choice: Choice | None = None,
    ) -> Job:
        """Put a checkpoint from a file, folder or address into the user's folder; the job's result is its name."""
        self._refuse_while_busy()
        return self._start(
            Job(self._living_child()),
            do="install",
            source=_place(str(source)),
            sha256=sha256,
            about=asdict(about or About()),
            choice=choice and asdict(choice),
        )

    def stop(self) -> None:
        """End the child process and all that it started. It also ends with this object, and with the parent."""
        if self._child is not None:
            self._end_child()
            self._child = None

    def _refuse_while_busy(self) -> None:
        if self._child is not None and any(not job.poll().is_final for job in self._child.busy):
            raise OptionError("another job is running: wait until it is finished, or cancel it.")

    def _living_child(self) -> _Child:
        _require_psutil()
        if self._child is not None and not self._child.is_alive:
            self.stop()
        if self._child is None:
            self._child = _Child(self._python, self._folder)
            self._end_child = weakref.finalize(self, self._child.end)  # also when the interpreter ends
        return self._child

    def _start(self, job: Job, is_warming: bool = False, **message: Any) -> Job:
        chosen = os.environ.get(HOME_VARIABLE)
        place = chosen and os.path.abspath(chosen)  # noqa: PTH100 - without following links
        job._child.begin(job, {**message, "id": job.id, "home": place}, is_warming)
        self.job = job
        return job


def default_python() -> str:
    """Return the Python that runs the child process: PythonSlicer inside of Slicer, else the present one."""
    found = shutil.which("PythonSlicer") if "slicer" in sys.modules else None
    return found or sys.executable


class _Child:
    """The process, the threads that listen to it, and the jobs it was given."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = new_scratch(folder)
        (self.folder / MARKER).touch()
        above = str(Path(thoraxseg.__file__).resolve().parents[1])
        paths = [above, *filter(None, [os.environ.get("PYTHONPATH")])]
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.folder))
        command = [python, "-X", "faulthandler", "-m", "thoraxseg.worker", str(self.folder)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=above,  # Python looks for modules there too: nothing of the user's is in it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **temporary},
                start_new_session=True,  # a group of its own: signals for us are not for it, and it can be ended whole
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DependencyError(
                f"the child process cannot be started with {python!r}: {error.strerror or error}. Check that this "
                "Python is there and may be run."
            ) from error
        self.warmed: tuple[Any, ...] | None = None
        """Which model it has loaded, or will have."""
        self.busy: list[Job] = []
        """Jobs that have to be over before the next one may start."""
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._is_ended = False
        self._worker: Any = None
        self._last_job: Job | None = None
        self._died: float | None = None
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._threads = [
            threading.Thread(target=target, args=(stream, sink), daemon=True)
            for target, stream, sink in (
                (_read_messages, self.process.stdout, self._heard),
                (_read_lines, self.process.stderr, self._errors),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return not self._is_ended and self.process.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """Send a request; whether the process is there to hear it shows in `take_in`."""
        with suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def begin(self, job: Job, message: dict[str, Any], is_warming: bool) -> None:
        """Give a job to the process; only one that is not `is_warming` keeps others from being given."""
        # Those that are over are let go: results are large.
        self._jobs = {one.id: one for one in (*self._jobs.values(), job) if not one.state.is_final}
        self._last_job = job
        self.busy = [] if is_warming else [job]
        self.send(message)

    def take_in(self) -> None:
        """Give what was said to the jobs; if the process is dead, they failed."""
        is_dead = self.process.poll() is not None
        if is_dead and self._died is None:
            self._died = time.monotonic()
        # A process that the dead one started may hold the pipes open: they are not waited for longer than this.
        patient = is_dead and time.monotonic() < self._died + GRACE_SECONDS
        listening = patient and any(thread.is_alive() for thread in self._threads)
        while self._errors and self._last_job is not None:
            self._last_job.tell(self._errors.popleft())
        with suppress(queue.Empty):
            while True:
                self._give(self._heard.get_nowait())
        if is_dead and not listening:
            for job in self._jobs.values():
                if not job.state.is_final:
                    job.fail(_death(self.process.returncode))
            self.end()

    def _give(self, message: dict[str, Any]) -> None:
        if message["say"] == "hello":
            self._worker = _process(message["process_id"])
        elif (job := self._jobs.get(message.get("job"))) is not None:
            job.hear(message)
        elif message["say"] == "log" and self._last_job is not None:
            self._last_job.tell(message["text"])

    def end(self) -> None:
        """End the process and all its descendants, remove the folder, and cancel the jobs that are not over."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
        _end_tree(self.process, self._worker)
        for job in self._jobs.values():
            if not job.state.is_final:
                job.over(State.CANCELLED)
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_messages(stream: BinaryIO, heard: queue.SimpleQueue) -> None:
    with stream, suppress(OSError):
        for line in stream:
            message = None
            with suppress(ValueError):
                message = json.loads(line)
            if isinstance(message, dict) and "say" in message:
                heard.put(message)
            elif line.strip():  # printed before the process took its output away from everybody else
                heard.put({"say": "log", "text": line.decode("utf-8", "replace").rstrip()})


def _read_lines(stream: BinaryIO, lines: deque[str]) -> None:
    with stream, suppress(OSError):
        for line in stream:
            lines.append(line.decode("utf-8", "replace").rstrip())


def _require_psutil() -> None:
    """Raise DependencyError where the package is missing without which no process tree can be ended."""
    try:
        import psutil  # noqa: F401
    except ImportError as error:  # in 3D Slicer, before anything was installed
        raise DependencyError(
            "the child process needs the Python package psutil, which is missing here. Install it (pip install "
            "psutil), then run again."
        ) from error


def _process(number: int) -> Any:
    """Return the psutil.Process of a number, which stays that of this process when numbers are used again, or None."""
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(number)
    return None


def _end_tree(process: subprocess.Popen, worker: Any) -> None:
    """End a process and its descendants: asked first, then killed.

    Inside of Slicer the process is a launcher, and its child is the `worker`, which outlives it.
    """
    import psutil

    tree: dict[int, psutil.Process] = {}
    is_ours = process.poll() is None  # once it is over, its number may be somebody else's
    for root in (_process(process.pid) if is_ours else None, worker):
        with suppress(psutil.Error, AttributeError):
            if root.is_running():
                tree |= {one.pid: one for one in (root, *root.children(recursive=True))}
    for one in tree.values():
        with suppress(psutil.Error):
            one.terminate()
    with suppress(OSError):
        process.stdin.close()
    for one in _still_running(tree.values()):
        with suppress(psutil.Error):
            one.kill()
    if os.name == "posix" and (is_ours or not psutil.pid_exists(process.pid)):
        import signal

        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its group: what was started in the meantime
    _still_running(tree.values())  # killing takes a moment
    with suppress(subprocess.TimeoutExpired):
        process.wait(10 * GRACE_SECONDS)


def _still_running(processes: Iterable[Any]) -> list[Any]:
    """Return those that still run after `GRACE_SECONDS`."""
    until = time.monotonic() + GRACE_SECONDS
    while (alive := [one for one in processes if _is_running(one)]) and time.monotonic() < until:
        time.sleep(0.01)
    return alive


def _is_running(process: Any) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _death(status: int) -> ThoraxSegError:
    """Return an error that says how the process ended."""
    killed, no_memory = -9, 0xC0000017
    if status in (killed, no_memory):
        return ThoraxSegError(
            "the child process was ended by the system or another program, most likely because "
            f"{NO_MEMORY[0].lower()}{NO_MEMORY[1:]}"
        )
    if status < 0:
        import signal

        how = f"by signal {-status} ({signal.Signals(-status).name})"
    else:
        how = f"with status {status if status < 256 else hex(status)}"
    return ThoraxSegError(
        f"the child process ended unexpectedly, {how}. The log tells what it said last. Run again; a new process is "
        "started."
    )


def _error(kind: str, text: str) -> ThoraxSegError:
    """Return an error of the child process as the same class here."""
    found = getattr(errors, kind, None)
    is_ours = isinstance(found, type) and issubclass(found, ThoraxSegError)
    return (found if is_ours else ThoraxSegError)(text)


def _place(text: str) -> str:
    """Return a path that does not depend on the working folder; a name of the catalog stays as it is."""
    if os.path.isabs(text) or not os.path.exists(text) or text in read_catalog()[0]:  # noqa: PTH110, PTH117
        return text
    return os.path.abspath(text)  # noqa: PTH100 - without following links


def _model(request: Request) -> tuple[Any, ...]:
    return (request.checkpoint, request.choice, request.lungs, request.options.device)


def _write_volumes(folder: Path, volumes: tuple[Volume, ...]) -> list[dict[str, Any]]:
    """Write the voxels of each volume into `folder` and return what else there is to tell; whole or OutputError."""
    told = []
    try:
        folder.mkdir(mode=0o700)
        for index, volume in enumerate(volumes):
            path = folder / f"volume-{index}.npy"
            np.save(path, volume.array)
            told.append(
                {
                    "file": path.name,
                    "shape": list(volume.shape),
                    "type": volume.array.dtype.str,
                    "ijk_to_ras": volume.ijk_to_ras.tolist(),
                    "name": volume.name,
                    "notes": list(volume.notes),
                    "geometry_assumed": volume.geometry_assumed,
                }
            )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(
            f"{folder}: the volume cannot be handed to the child process: {error.strerror or error}. Free space on the "
            "disk of temporary files, then run again."
        ) from error
    return told


def _read_outcome(job: Job) -> Outcome:
    """Return the result in a job's folder; raises ValueError or OSError unless it is whole and of this job."""
    content = json.loads((job.folder / RESULT).read_text("ascii"))
    if content["job"] != job.id:
        raise ValueError("it is the result of another job")
    labels = _read_array(job, LABELS)
    doubt = _read_array(job, DOUBT) if content["has_uncertainty"] else None
    structures = {int(label): _structure(told) for label, told in content["structures"].items()}
    return Outcome(
        Segmentation(labels, job.volume.ijk_to_ras, structures, content["name"]),
        doubt,
        content["quantity"],
        content["record"],
        tuple(content["warnings"]),
        tuple(content["notes"]),
        content["timings_s"],
    )


def _read_array(job: Job, name: str) -> np.ndarray:
    array = np.load(job.folder / name, allow_pickle=False)
    if array.shape != job.volume.shape:
        raise ValueError(f"{name} has shape {array.shape}, the image {job.volume.shape}")
    return array


def _structure(told: dict[str, Any]) -> Structure:
    codes = {name: Code(**code) for name, code in told["terminology"].items()}
    return Structure(told["key"], told["name"], tuple(told["color"]), Terminology(**codes))


def _expected(request: Request, is_warm: bool) -> Expected:
    shape = request.volume.shape
    if request.box is not None:
        shape = [high - low for low, high in request.box]
    return Expected(request.checkpoint, request.options, int(np.prod(shape)), is_warm)
