"""How well the checkpoints that come with ThoraxSeg do, and where they fail.

Run: python benchmarks/default_checkpoints.py NAME [--checkpoint FOLDER] [--output DIR] [--data DIR] [--only PART ...]
Parts: held-out, poses, shifts, atlas (mouse CT), real (mouse MRI, human CT), time. Nothing here was trained on: the
phantoms are those of `mouse_micro_ct`, `mouse_mri` and `human_chest_ct`, painted by other rules for size, gray values
and noise than the training's, and real images. `--data` is a folder with `mouse-ct280-organs.nii.gz` (Rosenhain et
al. 2018) and `human-chest-ct-4mm.nrrd` (Chest Imaging Platform); parts that need one are skipped without it.
Writes results.json and pictures into DIR and prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints import Checkpoint, open_checkpoint
from thoraxseg.inference import Predictor, load_predictor
from thoraxseg.io import read_volume
from thoraxseg.metrics.lesions import match_lesions
from thoraxseg.options import SegmentOptions, Uncertainty
from thoraxseg.phantoms import Phantom, human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.pipeline import segment
from thoraxseg.volume import Volume, geometry_from_spacing, reorient

BARE = SegmentOptions(uncertainty=Uncertainty.NONE)
MOUSE_CT, MOUSE_MRI, HUMAN_CT = (
    "mouse-ct-thorax-mini",
    "mouse-mri-lung-tumor-mini",
    "human-ct-lung-tumor-mini",
)
TUMORS_FROM_MM3 = {MOUSE_MRI: 0.4, HUMAN_CT: 1000.0}
"""Tumors that should be found."""
ORGANS = {1: "heart", 3: "bone", 4: "lung", 9: "tumor", 10: "kidney", 11: "liver"}
"""Labels of the organ map of Rosenhain et al."""


class Judge:
    """One checkpoint, loaded once, and what it says of images whose truth is known."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.predictor: Predictor = load_predictor(checkpoint, BARE.device)
        self.labels = {label: structure.key for label, structure in checkpoint.card.labels.items()}

    def contour(self, volume: Volume) -> np.ndarray:
        """Return the labels `(K, J, I)`."""
        return segment(volume, self.checkpoint, BARE, predictor=self.predictor).segmentation.labels

    def dice(self, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Return the Dice of every structure that is in the truth; lungs are counted with their tumors."""
        scores = {}
        for label, key in self.labels.items():
            mine, true = found == label, truth == label
            if key == "lungs":
                mine, true = found > 0, truth > 0
            if true.any():
                scores[key] = (
                    2 * np.count_nonzero(mine & true) / (np.count_nonzero(mine) + np.count_nonzero(true))
                )
        return scores

    def tumors(self, found: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, int]:
        """Return how many tumors from the limit on there are, how many of them were found, and how many invented."""
        voxel, least = float(np.prod(spacing_mm)), TUMORS_FROM_MM3[self.checkpoint.card.name]
        lesions = match_lesions(truth == 2, found == 2, voxel)
        large = [lesion for lesion in lesions.reference if lesion.volume_mm3 >= least]
        invented = [lesion for lesion in lesions.prediction if not lesion.touches]
        return {"there": len(large), "found": sum(lesion.touches for lesion in large), "false": len(invented)}


def phantom(name: str, seed: int, **words: object) -> Phantom:
    """Return a phantom of the kind that a checkpoint is for."""
    if name == MOUSE_CT:
        defaults = {"spacing_mm": 0.2, "margin_mm": 2.0, "contrast_agent": bool(seed % 2)}
        return mouse_micro_ct(seed=seed, **{**defaults, **words})
    if name == MOUSE_MRI:
        return mouse_mri(seed=seed, **{"tumors": 6, **words})
    return human_chest_ct(seed=seed, **{"spacing_mm": 2.5, "tumors": 3, **words})


def turned(image: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return image and labels `(z, y, x)` turned about the center, in a field of view that holds all of them."""
    from scipy.ndimage import affine_transform

    half = (np.array(image.shape) - 1) / 2
    size = np.ceil(np.abs(matrix).T @ np.array(image.shape) * 0.95).astype(int)
    offset = half - matrix @ ((size - 1) / 2)
    air = float(np.percentile(image, 1))
    seen = affine_transform(image.astype(np.float32), matrix, offset, tuple(size), order=1, cval=air)
    return seen, affine_transform(labels, matrix, offset, tuple(size), order=0)


def random_turn(rng: np.random.Generator, prone: bool) -> np.ndarray:
    """Return a rotation `(3, 3)` over (z, y, x): rolled by any angle or prone, tilted, at times head to tail."""
    from scipy.spatial.transform import Rotation

    roll = 180.0 if prone else rng.uniform(-180, 180)
    end = 180.0 if rng.random() < 0.25 else 0.0
    angles = [roll, end + rng.uniform(-20, 20), rng.uniform(-20, 20)]
    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


def as_volume(array: np.ndarray, spacing_mm: float, codes: str = "RAS") -> Volume:
    """Return an array as a volume whose axes i, j, k run to `codes`."""
    return Volume(array, geometry_from_spacing((spacing_mm,) * 3, codes), name="evaluation")


def held_out(judge: Judge, count: int) -> dict[str, object]:
    """Return scores on phantoms of other rules than the training's."""
    return _over(judge, ((p.volume, p.truth.labels) for p in _phantoms(judge, count)))


def _phantoms(judge: Judge, count: int, **words: object) -> Iterator[Phantom]:
    return (phantom(judge.checkpoint.card.name, seed, **words) for seed in range(100, 100 + count))


def _over(judge: Judge, pairs: Iterator[tuple[Volume, np.ndarray]]) -> dict[str, object]:
    rows, tumors = [], []
    for volume, truth in pairs:
        found = judge.contour(volume)
        rows.append(judge.dice(found, truth))
        if judge.checkpoint.card.name in TUMORS_FROM_MM3:
            tumors.append(judge.tumors(found, truth, volume.spacing_mm))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    scores = {key: [row[key] for row in rows if key in row] for key in keys}
    result: dict[str, object] = {
        "cases": len(rows),
        "dice": {key: round(float(np.mean(values)), 4) for key, values in scores.items()},
        "worst": {key: round(float(np.min(values)), 4) for key, values in scores.items()},
    }
    if tumors:
        there = sum(row["there"] for row in tumors)
        result |= {
            "tumors": there,
            "recall": round(sum(row["found"] for row in tumors) / max(there, 1), 4),
            "false_per_scan": round(sum(row["false"] for row in tumors) / len(tumors), 3),
        }
    return result


def poses(judge: Judge, count: int) -> dict[str, object]:
    """Return scores on turned bodies, and in how many right and left were exchanged; every fourth lies prone."""
    rng, rows, swapped = np.random.default_rng(7), [], 0
    spacing = judge.checkpoint.card.input.spacing_mm[0]
    made: list[Phantom] = list(_phantoms(judge, 10, spacing_mm=spacing, axis_codes="RAS"))
    for n in range(count):
        body = made[n % len(made)]
        image, truth = turned(body.volume.array, body.truth.labels, random_turn(rng, n % 4 == 0))
        found = judge.contour(as_volume(image, spacing))
        rows.append(judge.dice(found, truth))
        if "right_lung" in judge.labels.values():
            sides = [label for label, key in judge.labels.items() if key in ("right_lung", "left_lung")]
            both = [[np.count_nonzero((found == one) & (truth == other)) for other in sides] for one in sides]
            swapped += both[0][1] + both[1][0] >= both[0][0] + both[1][1]
    keys = rows[0]
    return {
        "cases": count,
        "dice": {key: round(float(np.mean([row[key] for row in rows])), 4) for key in keys},
        "worst": {key: round(float(np.min([row[key] for row in rows])), 4) for key in keys},
        "swapped": int(swapped),
    }


def shifts(judge: Judge, count: int) -> dict[str, dict[str, object]]:
    """Return scores where images differ from the phantoms of `held_out` in one thing."""
    name = judge.checkpoint.card.name
    unit = {MOUSE_CT: 0.2, MOUSE_MRI: 0.156, HUMAN_CT: 2.5}[name]
    rng = np.random.default_rng(11)

    def changed(change: Callable[[np.ndarray], np.ndarray], **words: object) -> dict[str, object]:
        made = _phantoms(judge, count, **words)
        pairs = (
            (replace(p.volume, array=change(p.volume.array.astype(np.float32))), p.truth.labels) for p in made
        )
        return _over(judge, pairs)

    def noisy(factor: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: a + rng.normal(0, factor * a.std(), a.shape).astype(np.float32)

    def mirrored() -> dict[str, object]:
        made = _phantoms(judge, count, axis_codes="RAS")
        table = np.arange(256, dtype=np.uint8)
        if name == MOUSE_CT:
            table[[3, 4]] = 4, 3
        pairs = (
            (
                replace(p.volume, array=np.ascontiguousarray(p.volume.array[..., ::-1])),
                table[p.truth.labels[..., ::-1]],
            )
            for p in made
        )
        return _over(judge, pairs)

    def same(array: np.ndarray) -> np.ndarray:
        return array

    rows = {
        "as they are": changed(same),
        "voxels half as large": changed(same, spacing_mm=0.7 * unit),
        "voxels twice as large": changed(same, spacing_mm=2 * unit),
        "slices three times as thick": changed(same, spacing_mm=(3 * unit, unit, unit)),
        "stored in another axis order (PIR)": changed(same, axis_codes="PIR"),
        "noise of 0.2 SD of the image": changed(noisy(0.2)),
        "noise of 0.5 SD of the image": changed(noisy(0.5)),
        "other units (0.2 x + 300)": changed(lambda a: 0.2 * a + 300),
        "gamma 0.6": changed(lambda a: _gamma(a, 0.6)),
        "gamma 1.6": changed(lambda a: _gamma(a, 1.6)),
        "inverted": changed(lambda a: a.max() - a),
        "mirrored, left for right": mirrored(),
    }
    if name == MOUSE_CT:
        rows["contrast agent in all"] = changed(same, contrast_agent=True)
        rows["the whole field around the animal"] = changed(same, margin_mm=8.0, spacing_mm=0.28)
    return rows


def _gamma(array: np.ndarray, power: float) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    return low + (high - low) * ((array - low) / (high - low)) ** np.float32(power)


def atlas(judge: Judge, data: Path, output: Path) -> dict[str, object]:
    """Return scores on images computed from the organ map of a real mouse, which training never saw."""
    file = read_volume(data / "mouse-ct280-organs.nii.gz")
    # Its header calls the body's long axis right-left. By anatomy: i to the head, j to the front, k to the right.
    organs = np.ascontiguousarray(file.array.transpose(2, 1, 0))
    body, rows = body_of(organs), []
    for seed in range(4):
        image = image_of(organs, body, seed)
        found = judge.contour(as_volume(image, 0.28))
        rows.append(
            {
                "heart": _dice(found == 1, organs == 1),
                "lungs": _dice(np.isin(found, (3, 4)), organs == 4),
                "largest on its side": _sides(found),
            }
        )
        if seed == 0:
            picture(image, found, np.where(organs == 4, 1, 0) + 2 * (organs == 1), output / "atlas.png")
    return {"cases": len(rows)} | {key: [round(row[key], 4) for row in rows] for key in rows[0]}


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def _sides(found: np.ndarray) -> float:
    """Return the share of the voxels of both lungs that lie on the side of the cord or heart they are named after."""
    x = np.arange(found.shape[2])
    right, left = ((found == n).sum(axis=(0, 1)) for n in (3, 4))
    if not right.sum() or not left.sum():
        return 0.0
    middle = ((right + left) @ x) / (right + left).sum()
    return float((right[x > middle].sum() + left[x <= middle].sum()) / (right.sum() + left.sum()))


def body_of(organs: np.ndarray) -> np.ndarray:
    """Return where the body is, `(z, y, x)`: the map has organs only; around them 1 mm of soft tissue and skin."""
    from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter
    from skimage.morphology import convex_hull_image

    hull = np.stack([convex_hull_image(plane) if plane.any() else plane for plane in organs > 0])
    hull = minimum_filter(maximum_filter(hull, (41, 1, 1)), (41, 1, 1))  # also where a slice has no organ
    return binary_dilation(hull, iterations=4)


def image_of(organs: np.ndarray, body: np.ndarray, seed: int) -> np.ndarray:
    """Return a CT-like image of an organ map `(z, y, x)`: one gray value an organ, texture, blur and noise."""
    from scipy.ndimage import binary_erosion, gaussian_filter

    rng = np.random.default_rng(seed)
    image = np.where(body, 10.0, -1000.0)
    image[binary_erosion(body, iterations=2)] = 30
    values = {
        "heart": 60,
        "bone": 900,
        "lung": rng.uniform(-600, -350),
        "tumor": 40,
        "kidney": 70,
        "liver": 80,
    }
    if seed % 2:
        values |= {"heart": 280, "liver": 250, "kidney": 350}
    for label, name in ORGANS.items():
        image[organs == label] = values[name]
    texture = gaussian_filter(rng.normal(0, 1, image.shape), 2)
    image += texture / texture.std() * 15 * body
    image = gaussian_filter(image, 0.6)
    return (image + rng.normal(0, 35, image.shape)).astype(np.float32)


def real_mouse_mri(judge: Judge, output: Path) -> dict[str, object]:
    """Return scores on the real mouse of the package napari-deepmeta against the published network's labels."""
    from thoraxseg.checkpoints import install
    from thoraxseg.demo import real_mouse

    install("deepmeta-mouse-mri")
    volume = real_mouse()
    published = segment(volume, open_checkpoint("deepmeta-mouse-mri"), BARE).segmentation.labels
    found = judge.contour(volume)
    turned_found, turned_truth = (reorient(a, volume.ijk_to_ras, "RAS")[0] for a in (found, published))
    picture(
        reorient(volume.array, volume.ijk_to_ras, "RAS")[0], turned_found, turned_truth, output / "real.png"
    )
    voxel = float(np.prod(volume.spacing_mm))
    lesions = match_lesions(published == 2, found == 2, voxel)
    large = [lesion for lesion in lesions.reference if lesion.volume_mm3 >= 0.4]
    return {
        "lungs with tumors": round(_dice(found > 0, published > 0), 4),
        "tumors": round(_dice(found == 2, published == 2), 4),
        "tumors from 0.4 mm3": len(large),
        "of them found": sum(lesion.touches for lesion in large),
        "found where the published network sees none": sum(
            not lesion.touches for lesion in lesions.prediction
        ),
        "volume_mm3": {
            "found": round(voxel * float((found > 0).sum())),
            "published": round(voxel * float((published > 0).sum())),
        },
    }


def real_human_ct(judge: Judge, data: Path, output: Path) -> dict[str, object]:
    """Draw the real coarse chest CT and return the volumes that were found; nobody has contoured it."""
    volume = read_volume(data / "human-chest-ct-4mm.nrrd")
    found = judge.contour(volume)
    array, labels = (reorient(a, volume.ijk_to_ras, "RAS")[0] for a in (volume.array, found))
    picture(array, labels, np.zeros_like(labels), output / "real.png")
    voxel = float(np.prod(volume.spacing_mm)) / 1000
    return {
        "lungs_ml": round(voxel * float((found > 0).sum())),
        "tumors_ml": round(voxel * float((found == 2).sum()), 1),
    }


def times(judge: Judge) -> dict[str, object]:
    """Return the seconds of the whole road, doubt and clean-up with it, on a scan of full size, twice."""
    name = judge.checkpoint.card.name
    small = phantom(name, 100, axis_codes="RAS") if name != MOUSE_MRI else phantom(name, 100)
    volume = small.volume
    if name != MOUSE_MRI:
        shape, spacing = ((550, 200, 250), 0.14) if name == MOUSE_CT else ((300, 512, 512), 0.75)
        spacings = (spacing,) * 3 if name == MOUSE_CT else (1.2, 0.75, 0.75)
        from scipy.ndimage import zoom

        factor = np.array(volume.spacing_mm) / spacings
        large = zoom(volume.array, factor, order=1)
        whole = np.full(shape, large.min(), np.int16)
        where = tuple(
            slice(max(0, (a - b) // 2), max(0, (a - b) // 2) + min(a, b))
            for a, b in zip(shape, large.shape, strict=True)
        )
        whole[where] = large[tuple(slice(0, s.stop - s.start) for s in where)]
        volume = Volume(whole, geometry_from_spacing(spacings, "RAS"), name="full size")
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        result = segment(volume, self_checkpoint(judge), SegmentOptions(), predictor=judge.predictor)
        taken.append(round(time.perf_counter() - began, 2))
    stages = {key: round(value, 2) for key, value in result.provenance["timings_s"].items()}
    return {
        "shape": list(volume.shape),
        "spacing_mm": list(volume.spacing_mm),
        "seconds": taken,
        "stages": stages,
    }


def self_checkpoint(judge: Judge) -> Checkpoint:
    """Return the checkpoint of a judge."""
    return judge.checkpoint


def picture(image: np.ndarray, found: np.ndarray, truth: np.ndarray, path: Path) -> None:
    """Draw three slices along each axis through the thorax: lines for what was found, dots for the truth."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colors = ["#e6194b", "#ffe119", "#3cb44b", "#4363d8"]
    low, high = np.percentile(image, (1, 99.5))
    marked = np.argwhere(found > 0) if (found > 0).any() else np.argwhere(image > low)
    figure, axes = plt.subplots(3, 3, figsize=(10, 10), facecolor="black")
    for row in range(3):
        places = np.quantile(marked[:, row], (0.3, 0.5, 0.7)).astype(int)
        for column, place in enumerate(places):
            shown = [np.take(a, place, axis=row) for a in (image, found, truth)]
            ax = axes[row, column]
            ax.imshow(shown[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect="equal")
            for label in range(1, 5):
                if (shown[1] == label).any():
                    ax.contour(shown[1] == label, [0.5], colors=[colors[label - 1]], linewidths=1.2)
                if (shown[2] == label).any():
                    ax.contour(
                        shown[2] == label, [0.5], colors=["white"], linewidths=0.8, linestyles="dotted"
                    )
            ax.set_axis_off()
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def example(judge: Judge, output: Path) -> None:
    """Draw one held-out phantom."""
    body = phantom(judge.checkpoint.card.name, 101, axis_codes="RAS")
    picture(body.volume.array, judge.contour(body.volume), body.truth.labels, output / "phantom.png")


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[MOUSE_CT, MOUSE_MRI, HUMAN_CT])
    parser.add_argument("--checkpoint", help="folder of the checkpoint, by default the built-in one")
    parser.add_argument("--output", type=Path, default=Path("evaluation"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=10, help="phantoms in each row")
    parser.add_argument("--poses", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=["held-out", "poses", "shifts", "atlas", "real", "time"])
    asked = parser.parse_args()
    output = asked.output / asked.name
    output.mkdir(parents=True, exist_ok=True)
    judge = Judge(open_checkpoint(asked.checkpoint or asked.name))
    path = output / "results.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    parts: dict[str, Callable[[], object]] = {
        "held-out": lambda: held_out(judge, asked.count),
        "poses": lambda: poses(judge, asked.poses),
        "shifts": lambda: shifts(judge, max(3, asked.count // 3)),
        "time": lambda: times(judge),
    }
    if asked.name == MOUSE_CT and asked.data:
        parts["atlas"] = lambda: atlas(judge, asked.data, output)
    if asked.name == MOUSE_MRI:
        parts["real"] = lambda: real_mouse_mri(judge, output)
    if asked.name == HUMAN_CT and asked.data:
        parts["real"] = lambda: real_human_ct(judge, asked.data, output)
    example(judge, output)
    for part in asked.only:
        if part in parts:
            results[part] = parts[part]()
            path.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(f"## {part}\n{json.dumps(results[part], indent=1)}", flush=True)


if __name__ == "__main__":
    main()
