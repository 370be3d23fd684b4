"""How long CIgen of several observers takes: one pass over rater counts, and beside it all pairs of masks.

Run: OMP_NUM_THREADS=1 python benchmarks/conformity_time.py [--rounds 3] [--shape 300 300 600] [--observers 5]
Observers draw the same four ellipsoids (two lungs, heart, cord), each a little shifted and scaled. The other
way makes a mask of each label of each observer once and goes through all pairs of them. Both ways alternate in
one process; every value must be equal to the last bit. Memory is what numpy holds at most beside the label
maps, measured in a round of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from thoraxseg.metrics.conformity import cigen_from_pairs, conformity_of_labels

ORGANS = {  # label: center and half axes as shares of the grid
    1: ((0.5, 0.5, 0.5), (0.16, 0.14, 0.10)),
    2: ((0.75, 0.5, 0.5), (0.04, 0.04, 0.42)),
    3: ((0.45, 0.25, 0.5), (0.26, 0.15, 0.24)),
    4: ((0.45, 0.75, 0.5), (0.26, 0.15, 0.24)),
}


def main() -> None:
    """Print one line a round, the medians and the memory of both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 300, 600), metavar=("K", "J", "I"))
    parser.add_argument("--observers", type=int, default=5)
    arguments = parser.parse_args()
    label_maps = [draw(arguments.shape, seed) for seed in range(arguments.observers)]
    drawn = np.count_nonzero(label_maps[0]) / label_maps[0].size
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, load {os.getloadavg()[0]:.1f}; "
        f"{arguments.observers} observers, {len(ORGANS)} labels, {arguments.shape} voxels, {drawn:.0%} drawn"
    )
    ours, theirs = [], []
    for number in range(arguments.rounds):
        seconds, found = timed(count_raters, label_maps)
        ours.append(seconds)
        seconds, expected = timed(pair_masks, label_maps)
        theirs.append(seconds)
        print(
            f"round {number}: rater counts {ours[-1]:.3f} s, pairs of masks {theirs[-1]:.3f} s, "
            f"values {'equal' if found == expected else 'DIFFER'}",
            flush=True,
        )
    print("CIgen " + ", ".join(f"label {label} {value:.6f}" for label, value in found.items()))
    median = statistics.median
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"median: rater counts {median(ours):.3f} s, pairs of masks {median(theirs):.3f} s")
    print(f"median ratio pairs of masks / rater counts: {median(ratios):.2f}")
    sizes = [peak_mib(way, label_maps) for way in (count_raters, pair_masks)]
    print(
        f"memory: rater counts {sizes[0]:.1f} MiB, pairs of masks {sizes[1]:.1f} MiB, "
        f"one label map {label_maps[0].nbytes / 2**20:.1f} MiB"
    )


def draw(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return one observer's label map, uint8 `(K, J, I)`."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for label, (center, half) in ORGANS.items():
        middle = np.array(shape) * (np.array(center) + random.normal(0, 0.004, 3))
        radii = np.array(shape) * np.array(half) * random.normal(1, 0.03, 3)
        axes = [np.arange(n, dtype=np.float32) for n in shape]
        k, j, i = (((axis - m) / r) ** 2 for axis, m, r in zip(axes, middle, radii, strict=True))
        for slice_labels, far in zip(labels, k, strict=True):
            slice_labels[far + j[:, None] + i <= 1] = label
    return labels


def count_raters(label_maps: list[np.ndarray]) -> dict[int, float]:
    """Return label -> CIgen by ThoraxSeg's one pass over all label maps."""
    return {label: found.cigen for label, found in conformity_of_labels(label_maps, ORGANS).items()}


def pair_masks(label_maps: list[np.ndarray]) -> dict[int, float]:
    """Return label -> CIgen by its definition: every pair of whole masks."""
    return {label: cigen_from_pairs([item == label for item in label_maps]) for label in ORGANS}


def timed(way: Callable, label_maps: list[np.ndarray]) -> tuple[float, dict[int, float]]:
    """Return the seconds that a way takes and what it finds."""
    start = time.perf_counter()
    found = way(label_maps)
    return time.perf_counter() - start, found


def peak_mib(way: Callable, label_maps: list[np.ndarray]) -> float:
    """Return the most memory in MiB that a way holds beside its input."""
    tracemalloc.start()
    way(label_maps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


if __name__ == "__main__":
    main()
