"""How long all measures of one pair of label maps take here, and beside it MedPy and MONAI for the same numbers.

Run: python benchmarks/metrics_time.py [--shape 300 300 600] [--rounds 1] [--peers medpy monai]
Four structures that span the volume as organs do (two lungs, heart, cord), the prediction a few voxels off.
Ours gives more numbers than each peer is asked for: a peer gives those whose definition it shares, so that they
can be compared, and the largest difference is printed. The peers walk the whole volume, MONAI crops each pair;
300 x 300 x 600 voxels take MedPy many minutes. Needs `pip install MedPy monai`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

LABELS = {1: "Right lung", 2: "Left lung", 3: "Heart", 4: "Spinal cord"}
SPACING_MM = (0.14, 0.14, 0.14)
TOLERANCE_MM = 0.15  # between one step and the next, so that rounding decides nothing


def main() -> None:
    """Print our time and memory, and each peer's time, ratio and largest difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 300, 600), metavar=("K", "J", "I"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    arguments = parser.parse_args()
    from thoraxseg.metrics.pair import compare_labels

    reference, prediction = thorax(arguments.shape, 0), thorax(arguments.shape, 1)
    compare_labels(*(each[:40, :40, :40] for each in (reference, prediction)), LABELS, SPACING_MM)  # imports
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}"
    )
    print(
        f"two label maps {reference.shape}, {reference.nbytes / 2**20:.0f} MiB each, {len(LABELS)} structures"
    )
    before = peak_bytes()
    times: dict[str, list[float]] = {"ours": []}
    for number in range(arguments.rounds):
        start = time.perf_counter()
        rows = compare_labels(reference, prediction, LABELS, SPACING_MM, tolerance_mm=TOLERANCE_MM)
        times["ours"].append(time.perf_counter() - start)
        if number == 0:
            print(
                f"ours: peak memory {(peak_bytes() - before) / reference.nbytes:.2f} label maps", flush=True
            )
        print(f"round {number}: ours {times['ours'][-1]:.2f} s", flush=True)
        for name in arguments.peers:
            start = time.perf_counter()
            theirs = {
                label: PEERS[name](reference == label, prediction == label, SPACING_MM) for label in LABELS
            }
            times.setdefault(name, []).append(time.perf_counter() - start)
            worst = max(
                abs(rows[label][key] - value) for label, row in theirs.items() for key, value in row.items()
            )
            print(
                f"round {number}: {name} {times[name][-1]:.2f} s for {len(theirs[1])} numbers a structure, "
                f"largest difference {worst:.1e}",
                flush=True,
            )
    for name in arguments.peers:
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times[name], strict=True))
        print(f"median ratio {name} / ours: {ratio:.1f}")
    for label, row in rows.items():
        print(
            f"{LABELS[label]}: DSC {row['dsc']:.3f}, MSD {row['msd_mm']:.3f} mm, HD95 {row['hd95_mm']:.2f} mm"
        )


def thorax(shape: tuple[int, int, int], observer: int) -> np.ndarray:
    """Return a uint8 label map; observer 1 draws what 0 draws with smooth deviations of up to about three voxels."""
    labels = np.zeros(shape, np.uint8)
    j, i = np.ogrid[: shape[1], : shape[2]]
    for k in range(shape[0]):
        bumps = observer * (1.5 * np.sin(k / 9) + np.sin(j / 7 + 1) + np.sin(i / 11 + k / 15))
        z, y, x = k / shape[0], j / shape[1], (i + bumps) / shape[2]
        y = y + observer * np.cos(k / 13) / shape[1]
        labels[k][((z - 0.5) / 0.46) ** 2 + ((y - 0.25) / 0.22) ** 2 + ((x - 0.5) / 0.45) ** 2 <= 1] = 1
        labels[k][((z - 0.5) / 0.43) ** 2 + ((y - 0.75) / 0.21) ** 2 + ((x - 0.5) / 0.44) ** 2 <= 1] = 2
        labels[k][((z - 0.4) / 0.22) ** 2 + ((y - 0.52) / 0.18) ** 2 + ((x - 0.5) / 0.16) ** 2 <= 1] = 3
        middle = 0.93 + 0.02 * np.sin(6 * x)
        labels[k][((z - middle) / 0.05) ** 2 + ((y - 0.5) / 0.05) ** 2 <= 1 + 0 * x] = 4
    return labels


def medpy_numbers(reference: np.ndarray, prediction: np.ndarray, spacing: tuple) -> dict[str, float]:
    """Return what MedPy and we define alike."""
    from medpy.metric import binary

    means = binary.asd(reference, prediction, spacing), binary.asd(prediction, reference, spacing)
    return {
        "dsc": binary.dc(prediction, reference),
        "iou": binary.jc(prediction, reference),
        "precision": binary.precision(prediction, reference),
        "recall": binary.recall(prediction, reference),
        "msd_mm": sum(means) / 2,
        "assd_pooled_mm": binary.assd(prediction, reference, spacing),
        "hd95_pooled_mm": binary.hd95(prediction, reference, spacing),
        "hd_mm": binary.hd(prediction, reference, spacing),
    }


def monai_numbers(reference: np.ndarray, prediction: np.ndarray, spacing: tuple) -> dict[str, float]:
    """Return what MONAI and we define alike."""
    import torch
    from monai import metrics

    one, other = (torch.from_numpy(mask[None, None].astype(np.uint8)) for mask in (reference, prediction))
    shared = {"include_background": True, "spacing": list(spacing)}
    mean, hausdorff = metrics.compute_average_surface_distance, metrics.compute_hausdorff_distance
    return {
        "dsc": metrics.compute_dice(other, one).item(),
        "iou": metrics.compute_iou(other, one).item(),
        "msd_mm": (mean(one, other, **shared).item() + mean(other, one, **shared).item()) / 2,
        "assd_pooled_mm": mean(other, one, symmetric=True, **shared).item(),
        "hd95_mm": hausdorff(other, one, percentile=95, **shared).item(),
        "hd_mm": hausdorff(other, one, **shared).item(),
        "nsd": metrics.compute_surface_dice(other, one, [TOLERANCE_MM], **shared).item(),
    }


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, tuple], dict[str, float]]] = {
    "medpy": medpy_numbers,
    "monai": monai_numbers,
}


def peak_bytes() -> int:
    """Return the largest memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
