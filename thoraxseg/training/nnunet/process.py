"""The process in which nnU-Net works, seen from outside: started with its own environment, heard, ended whole."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import thoraxseg
from thoraxseg import errors
from thoraxseg.errors import DependencyError, ThoraxSegError
from thoraxseg.files import publish_together

_LISTEN_SECONDS = 0.2
_GRACE_SECONDS = 5.0


def run_child(
    task: dict[str, Any],
    folder: Path,
    log: Path,
    variables: dict[str, str],
    hear: Callable[[dict[str, Any] | None], None],
) -> None:
    """Do a task in a child process with these environment variables; what it prints is added to `log`.

    `hear` gets every message, and None a few times a second; when it raises, as to cancel, the process and all it
    started are ended first. Raises the error that the child tells, or one that says how it died and where the log is.
    """
    with publish_together(folder) as scratch:
        (scratch / "task.json").write_text(json.dumps(task, indent=2), encoding="utf-8")
    above = str(Path(thoraxseg.__file__).resolve().parents[1])
    paths = os.pathsep.join([above, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-X", "faulthandler", "-m", f"{__package__}.child", str(folder / "task.json")]
    with log.open("ab") as errors_of_child:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_of_child,
                cwd=folder,
                env={**os.environ, **variables, "PYTHONPATH": paths},
                start_new_session=True,  # signals for us are not for it, and it can be ended whole
            )
        except OSError as error:
            raise DependencyError(
                f"nnU-Net's process cannot be started with {sys.executable!r}: {error.strerror or error}."
            ) from error
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    thread = threading.Thread(target=_listen, args=(process.stdout, messages), daemon=True)
    thread.start()
    try:
        while process.poll() is None:
            _take_in(messages, hear, _LISTEN_SECONDS)
        thread.join(_GRACE_SECONDS)  # what it said last
        while not messages.empty():
            _take_in(messages, hear, 0)
    finally:
        _end_tree(process)
    if process.returncode:
        raise _death(process.returncode, log)


def _listen(stream: BinaryIO, messages: queue.SimpleQueue) -> None:
    with stream, suppress(OSError):
        for line in stream:
            with suppress(ValueError):
                messages.put(json.loads(line))


def _take_in(
    messages: queue.SimpleQueue, hear: Callable[[dict[str, Any] | None], None], patience_s: float
) -> None:
    message = None
    with suppress(queue.Empty):
        message = messages.get(timeout=patience_s)
    if message is not None and message["say"] == "failed":
        kind = getattr(errors, message["kind"])
        raise kind(message["text"])
    hear(message)


def _end_tree(process: subprocess.Popen) -> None:
    """Kill a process and all it started, in one group on POSIX; nothing of it needs to be asked, saving is atomic."""
    import psutil

    tree = []
    with suppress(psutil.Error):
        tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for one in (*tree, process):
        with suppress(psutil.Error, OSError):
            one.kill()
    if os.name == "posix":
        import signal

        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # helpers that outlive a dead process
    with suppress(OSError):
        process.stdin.close()
    until = time.monotonic() + _GRACE_SECONDS
    process.wait(_GRACE_SECONDS)
    psutil.wait_procs(tree, timeout=max(0.0, until - time.monotonic()))


def _death(status: int, log: Path) -> ThoraxSegError:
    """Return an error that says how the process ended without a word."""
    how = f"with status {status}"
    if status < 0:
        import signal

        how = f"by signal {-status} ({signal.Signals(-status).name})"
    if status == -9:
        how += ", most likely since the memory did not suffice"
    return ThoraxSegError(
        f"nnU-Net's process ended {how}. Its last words are in {log}. The same command goes on where it was left."
    )
