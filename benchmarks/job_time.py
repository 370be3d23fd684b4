"""What a child process that keeps its model loaded saves: the first animal, the next ones, and a new process for each.

Run: python benchmarks/job_time.py [--rounds 3] [--checkpoint phantom-threshold] [--spacing 0.28]
All three contour the same phantom of a mouse MRI with the same checkpoint in one run, in turns.
"New process" is a child process that is started for one animal and ended, as tools do that call a program per case.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

from thoraxseg.job import Engine, Request, State
from thoraxseg.phantoms import mouse_mri


def main() -> None:
    """Time the jobs and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", default="phantom-threshold")
    parser.add_argument("--spacing", type=float, default=0.28, help="mm of the phantom's voxels")
    asked = parser.parse_args()
    volume = mouse_mri(seed=0, spacing_mm=asked.spacing).volume
    print(
        f"{platform.machine()}: {asked.checkpoint} on {volume.shape} voxels (k, j, i), {asked.rounds} rounds"
    )
    kept, seconds = (
        Engine(),
        {"first in the kept process": [], "next in the kept process": [], "new process": []},
    )
    request = Request(volume, asked.checkpoint)
    seconds["first in the kept process"].append(timed(kept, request))
    for _ in range(asked.rounds):
        seconds["next in the kept process"].append(timed(kept, request))
        new = Engine()
        seconds["new process"].append(timed(new, request))
        new.stop()
    kept.stop()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.2f} s")
    ratio = medians["new process"] / medians["next in the kept process"]
    print(f"a new process for each animal takes {ratio:.1f} times as long")


def timed(engine: Engine, request: Request) -> float:
    """Return the seconds from the request until the result is here."""
    start = time.perf_counter()
    job = engine.segment(request)
    while not job.poll().is_final:
        time.sleep(0.005)
    if job.state is not State.DONE:
        raise job.error
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
