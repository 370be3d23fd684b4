"""How long the demo's computing takes here, and beside it the published code on the same mouse.

Run: python benchmarks/demo_time.py [--rounds 3] [--peer]
Needs `thoraxseg checkpoints install deepmeta-mouse-mri` first. `--peer` also runs napari-deepmeta 2.1
(contrast, network, post-processing; without napari), alternating with ours in the same process, and
compares the labels; it needs `pip install opencv-python-headless connected-components-3d`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from pathlib import Path

import numpy as np

PEER = "napari-deepmeta==2.1"


def main() -> None:
    """Print one line a round and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    arguments = parser.parse_args()
    import torch

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        peer = load_peer(Path(scratch)) if arguments.peer else None
        ours, report, theirs = [], [], []
        for number in range(arguments.rounds):
            record, labels = run_ours(Path(scratch) / f"round{number}")
            times = record["timings_s"]
            report.append(times["figures"] + times["write_volumes"])
            ours.append(times["total"] - report[-1])
            line = f"round {number}: ours {ours[-1]:.2f} s + files and figures {report[-1]:.2f} s"
            if peer is not None:
                start = time.perf_counter()
                published = run_peer(peer)
                theirs.append(time.perf_counter() - start)
                differing = int((published != labels).sum())
                line += f", published {theirs[-1]:.2f} s, voxels that differ {differing}"
            print(line, flush=True)
        median = statistics.median
        print(
            f"median: computing {median(ours):.2f} s, with files and figures {median(ours) + median(report):.2f} s"
        )
        if theirs:
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            print(f"median ratio published / ours: {median(ratios):.2f}")


def run_ours(folder: Path) -> tuple[dict, np.ndarray]:
    """Run the demo's road into `folder`; return the record and the labels `(K, J, I)`."""
    from thoraxseg.demo import run_demo
    from thoraxseg.io import read_segmentation
    from thoraxseg.options import SegmentOptions

    record = run_demo(folder, SegmentOptions(), offline=True)
    return record, read_segmentation(folder / f"{record['case']}.seg.nrrd").labels


def load_peer(folder: Path) -> types.ModuleType:
    """Unpack the published package and import its functions without its napari widget."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PEER]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    package = types.ModuleType("napari_deepmeta")
    package.__path__ = [str(folder / "napari_deepmeta")]
    sys.modules["napari_deepmeta"] = package
    import napari_deepmeta.deepmeta_functions as functions

    return functions


def run_peer(functions: types.ModuleType) -> np.ndarray:
    """Return the published code's labels of the same mouse, from file to labels."""
    import tifffile
    import torch

    from thoraxseg.checkpoints import list_cards, sample_path

    stack = tifffile.imread(sample_path(list_cards()["deepmeta-mouse-mri"], "souris_8.tif"))
    with torch.no_grad():
        image = functions.prepare_mouse(stack, True)
        labels = functions.segment_stack(image).max(1).indices.numpy()
        return np.asarray(functions.postprocess(image, labels)).reshape(stack.shape).astype(np.uint8)


if __name__ == "__main__":
    main()
