"""How long the whole agreement report of five observers on twenty phantoms takes, from files to files.

Run: python benchmarks/observers_time.py [--cases 20] [--observers 5] [--spacing 0.28]
The observers' contours are the phantom's true ones with seeded bumps, each observer with larger ones than the one
before. Writing the phantoms is not timed; the command is `thoraxseg observers` in a process of its own, with start-up.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from thoraxseg.io import write_segmentation
from thoraxseg.phantoms import mouse_micro_ct
from thoraxseg.segmentation import Segmentation

BUMPS_VOXELS = 3


def main() -> None:
    """Write the masks, run the command, print its seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--observers", type=int, default=5)
    parser.add_argument("--spacing", type=float, default=0.28, help="mm; 0.14 is that of the mouse CT paper")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = write_study(folder, asked.cases, asked.observers, asked.spacing)
        print(
            f"{platform.machine()}: {asked.observers} observers, {asked.cases} phantoms of {shape} voxels (k, j, i)"
        )
        start = time.perf_counter()
        command = [sys.executable, "-m", "thoraxseg", "observers", folder / "study.csv", "-o", folder / "out"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(
            f"thoraxseg observers: {time.perf_counter() - start:.1f} s, {len(list((folder / 'out').iterdir()))} files"
        )


def write_study(folder: Path, cases: int, observers: int, spacing_mm: float) -> tuple[int, ...]:
    """Write the masks and their table; return the shape of the last phantom."""
    names = [f"observer_{n}" for n in range(observers)]
    rows = [",".join(["case", "animal", *names])]
    for case in range(cases):
        phantom = mouse_micro_ct(seed=case, spacing_mm=spacing_mm)
        truth = phantom.truth
        for n, name in enumerate(names):
            labels = drawn(truth.labels, np.random.default_rng(1000 * case + n), 0.7 + 0.2 * n)
            contours = Segmentation(labels, truth.ijk_to_ras, truth.structures, name)
            write_segmentation(folder / f"{case}_{name}.seg.nrrd", contours)
        rows.append(
            ",".join([f"scan{case}", f"mouse{case // 3}", *(f"{case}_{name}.seg.nrrd" for name in names)])
        )
    (folder / "study.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return labels.shape


def drawn(truth: np.ndarray, rng: np.random.Generator, bumps_voxels: float) -> np.ndarray:
    """Return a label map whose borders lie off the true ones by smooth bumps of so many voxels (SD)."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    field = gaussian_filter(rng.normal(size=truth.shape), BUMPS_VOXELS)
    field *= bumps_voxels / field.std()
    result = np.zeros_like(truth)
    for label in np.unique(truth[truth > 0]):
        mask = truth == label
        inside = distance_transform_edt(mask) - distance_transform_edt(~mask)
        result[inside + field > 0] = label
    return result


if __name__ == "__main__":
    main()
