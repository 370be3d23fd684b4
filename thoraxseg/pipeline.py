"""The road from a volume to contours, numbers and a report."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg import inference, measure, precheck, report, roads
from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.card import Card
from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.files import check_writable, publish_together, safe_name, sha256_file
from thoraxseg.io import (
    ASSUMED_KEY,
    StackGeometry,
    hash_input,
    read_segmentation,
    read_volume,
    write_scalar_nrrd,
    write_segmentation,
)
from thoraxseg.options import SegmentOptions
from thoraxseg.progress import Progress, part, silent
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import Box, Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What `segment` found, on the grid of the input."""

    volume: Volume
    segmentation: Segmentation
    uncertainty: np.ndarray | None
    """Doubt `(K, J, I)` float32, 0 to `quantity.maximum`; None when not asked for."""
    quantity: inference.Quantity | None
    """What `uncertainty` holds, such as the entropy of the class probabilities in nats."""
    measurements: dict[str, Any]
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    probabilities: Callable[[], np.ndarray]
    """Call it for the class probabilities `(L, K, J, I)` float32; they are resized only then."""


def segment(
    volume: Volume,
    checkpoint: Checkpoint,
    options: SegmentOptions | None = None,
    progress: Progress = silent,
    predictor: inference.Predictor | None = None,
    channels: Sequence[Volume] = (),
    box: Box | None = None,
) -> Result:
    """Contour `volume` with `checkpoint` and measure what was found.

    `channels` are further input channels on the same grid, in the checkpoint's order. A loaded `predictor` of the
    same checkpoint and device saves reading the weights again. With `box` only that part is looked at; the result
    still is on the whole grid, with background outside. A progress that raises `Cancelled` stops the work within
    one window or slice. Raises InputError, OptionError, CheckpointError or DependencyError, each saying what to do.
    """
    options = options or SegmentOptions()
    card = checkpoint.card
    checkpoint = checkpoint_for(checkpoint, len(channels))
    clock = Stopwatch()
    given = [volume, *channels]
    if box is not None:
        roads.check_same_grid(given)  # the parts of grids that differ could be alike
    looked_at = [one if box is None else one.cropped(box) for one in given]
    warnings = [*checkpoint.assumed, *_prechecked(looked_at[0], checkpoint)]
    with clock("load_checkpoint"):
        progress(0.0, "Loading the checkpoint")
        predictor = _fitting(predictor, checkpoint) or inference.load_predictor(checkpoint, options.device)
    answer = roads.contour(looked_at, predictor, options, clock, part(progress, 0.05, 0.95))
    warnings += answer.warnings
    cut_off = []
    if box is not None:
        cut_off = _cut_off(answer.labels, box, volume.shape, card)
        answer = answer.on_whole_grid(volume.shape, box)
    segmentation = Segmentation(answer.labels, volume.ijk_to_ras, dict(card.labels), volume.name)
    with clock("measure"):
        progress(0.97, "Measuring")
        measurements = _measure(segmentation, answer.doubt, answer.quantity, card)
        implausible = measure.check_anatomy(segmentation)
    perhaps = " The region of interest cuts structures, which may be why." if cut_off else ""
    warnings += [*_absent(segmentation, box), *cut_off, *(sentence + perhaps for sentence in implausible)]
    for warning in warnings:
        logger.warning("%s: %s", volume.name, warning)
    progress(1.0, "Contours are ready")
    provenance = report.provenance(
        volume, checkpoint, options.to_record(), answer.predictor.device, clock.seconds
    )
    provenance["channels"] = [
        {"channel": wanted.name, "file": report.printable(image.name)}
        for wanted, image in zip(card.channels, given, strict=False)
    ]
    if channels:
        pairs = (f"{one['channel']}: {one['file']}" for one in provenance["channels"])
        answer.notes.append(f"Channels as given, in the checkpoint's order: {', '.join(pairs)}.")
    provenance["sampling"] = answer.sampling
    provenance["box_kji"] = None if box is None else [list(map(int, ends)) for ends in box]
    return Result(
        volume,
        segmentation,
        answer.doubt,
        answer.quantity,
        measurements,
        provenance,
        tuple(dict.fromkeys(warnings)),
        tuple(dict.fromkeys((*volume.notes, *answer.notes))),
        answer.probabilities,
    )


def checkpoint_for(checkpoint: Checkpoint, further_channels: int) -> Checkpoint:
    """Return the checkpoint as `segment` uses it with so many further channels: a lung map that is given is not made.

    Raises OptionError where the user gives both the map and the checkpoint that makes it.
    """
    card = checkpoint.card
    if checkpoint.lungs is None or checkpoint.members or further_channels + 1 != len(card.channels):
        return checkpoint
    if card.lungs_from is None:
        raise OptionError(
            "--lungs and a lung map given with --channel exclude one another: leave one of them away."
        )
    return replace(checkpoint, lungs=None)  # the user's map counts, not the card's habit


def segment_file(
    path: Path,
    checkpoint: Checkpoint,
    folder: Path,
    options: SegmentOptions | None = None,
    name: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    progress: Progress = silent,
    channels: Sequence[Path] = (),
) -> dict[str, Any]:
    """Read an image, contour it, write the case into `folder` and return the record.

    `channels` are files of further input channels. `spacing_mm` (slice, row, column) is for stacks that state none;
    without it the card's is assumed, and said. The case is called `name`, else after the file. Raises what
    `segment` and `write_case` raise.
    """
    path, folder, clock = Path(path), Path(folder), Stopwatch()
    paths = [path, *map(Path, channels)]
    with clock("read"):
        progress(0.0, "Reading the image")
        geometry = stack_geometry(checkpoint.card, spacing_mm)
        volume = read_volume(path, geometry, spacing_mm is not None)
        others = [_read_channel(one, geometry, spacing_mm is not None) for one in paths[1:]]
        digests = [hash_input(one) for one in paths]
        digest = digests[0] if not others else hashlib.sha256("".join(digests).encode()).hexdigest()
    # The bytes of a name are the same everywhere; their letters depend on the locale.
    name = os.fsencode(name or case_name(path)).decode("utf-8", "surrogateescape")
    with _no_empty_folder(folder):
        check_writable(folder)
        for one in paths:
            _refuse_the_input(one, folder, safe_name(name))
        _earlier_outputs(folder, safe_name(name), digest)
        result = segment(volume, checkpoint, options, part(progress, 0.02, 0.85), channels=others)
        for told, sha256 in zip(result.provenance["channels"], digests, strict=True):
            told["sha256"] = sha256
        result.provenance["timings_s"] = {**clock.seconds, **result.provenance["timings_s"]}
        return write_case(result, folder, name, digest, part(progress, 0.85, 1.0))


def _read_channel(path: Path, geometry: StackGeometry | None, spacing_given: bool) -> Volume:
    """Return the image of a further channel; of a segmentation, its lungs as a map."""
    if not path.name.lower().endswith(".seg.nrrd"):
        return read_volume(path, geometry, spacing_given)
    found = read_segmentation(path)
    keys = {label: key_of(structure) for label, structure in found.structures.items()}
    lungs = [label for label, key in keys.items() if key in roads.LUNG_KEYS]
    if not {keys[label] for label in lungs} - {"tumors"}:
        names = ", ".join(structure.name for structure in found.structures.values())
        raise InputError(
            f"{path}: expected a segmentation with lungs, to be used as lung map, it has {names}."
        )
    return Volume(np.isin(found.labels, lungs).astype(np.uint8), found.ijk_to_ras, path.name)


def _prechecked(volume: Volume, checkpoint: Checkpoint) -> list[str]:
    """Return what the image departs in from the checkpoint and all that it builds on."""
    parts = [part for part in (checkpoint.lungs, *checkpoint.members) if part is not None]
    own = [] if checkpoint.members else precheck.check_input(volume, checkpoint.card)
    return own + [said for part in parts for said in (*part.assumed, *_prechecked(volume, part))]


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Take back a folder that this run made when it ends without a result."""
    new = not folder.exists()
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise


def case_name(path: Path) -> str:
    """Return the name of an image file or folder without its known endings; a link gives its own name."""
    name = Path(os.path.abspath(path)).name  # noqa: PTH100 - Path.resolve would follow links
    for ending in (".seg.nrrd", ".nii.gz", ".ome.tif", ".ome.tiff"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name if Path(path).is_dir() else Path(name).stem


def stack_geometry(card: Card, spacing_mm: tuple[float, float, float] | None = None) -> StackGeometry | None:
    """Return where a stack that states no geometry lies, by the card: None where it does not say, nor `spacing_mm`."""
    if spacing_mm is not None:
        return StackGeometry(
            spacing_mm, card.input.orientation, f"--spacing, axes as {card.name} was trained"
        )
    if card.input.stack_spacing_mm is None:
        return None
    expected = card.input
    reason = f"the card of {card.name}"
    return StackGeometry(expected.stack_spacing_mm, expected.orientation, reason, expected.stack_shape)


def write_case(
    result: Result,
    folder: Path,
    name: str,
    input_sha256: str,
    progress: Progress = silent,
    with_image: bool = False,
) -> dict[str, Any]:
    """Write `NAME.seg.nrrd`, `NAME_uncertainty.nrrd`, `NAME.html` and `NAME.json`; return the JSON's content.

    An image that states no geometry is written too, as `NAME_image.nrrd` with the geometry that was
    assumed: without it no viewer could lay the contours over it. `with_image` writes it in any case.
    All files appear whole, the JSON last, or none does. `name` becomes a safe file name. Raises
    OutputError when the folder cannot be written, already holds the result of another input, or a
    segmentation that was edited since. Files of an earlier run that this one does not make are removed.
    """
    folder, case, clock = Path(folder), safe_name(name), Stopwatch()
    earlier = _earlier_outputs(folder, case, input_sha256)
    names = _output_names(case)
    with publish_together(folder, marker=names["record"]) as scratch:
        with clock("write_volumes"):
            progress(0.0, "Writing the segmentation")
            write_segmentation(scratch / names["segmentation"], result.segmentation)
            if with_image or result.volume.geometry_assumed:
                about = {ASSUMED_KEY: "assumed" if result.volume.geometry_assumed else "stated"}
                path = scratch / names["image"]
                write_scalar_nrrd(path, result.volume.array, result.volume.ijk_to_ras, about)
            if result.uncertainty is not None:
                progress(0.1, "Writing the map of doubt")
                fields = report.uncertainty_fields(result.quantity)
                path = scratch / names["uncertainty"]
                write_scalar_nrrd(path, result.uncertainty, result.volume.ijk_to_ras, fields)
        with clock("figures"):
            span = part(progress, 0.2, 0.9)
            pictures = report.draw(
                result.volume, result.segmentation, result.uncertainty, result.quantity, span
            )
        record = report.case_record(case, input_sha256, result, clock.seconds)
        progress(0.9, "Writing the report")
        (scratch / names["page"]).write_text(report.render_page(record, pictures), encoding="utf-8")
        record["outputs_sha256"] = {path.name: sha256_file(path) for path in sorted(scratch.iterdir())}
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / names["record"]).write_text(text + "\n", encoding="utf-8")
    record = json.loads(text)  # what readers of the file get, lists and all
    _remove_stale(folder, earlier, record["outputs_sha256"])
    progress(1.0, f"Wrote {case}")
    return record


@dataclass
class Stopwatch:
    """Wall-clock seconds by stage: `with clock("inference"): ...`."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block under the name of a stage; what runs several times, as in an ensemble, adds up."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


def _fitting(predictor: inference.Predictor | None, checkpoint: Checkpoint) -> inference.Predictor | None:
    if predictor is not None and predictor.checkpoint != checkpoint:
        raise OptionError(
            f"the loaded predictor is of {predictor.checkpoint.card.name}, not of {checkpoint.card.name}; "
            "load the one that belongs to the checkpoint."
        )
    return predictor


def _measure(
    segmentation: Segmentation, doubt: np.ndarray | None, quantity: inference.Quantity | None, card: Card
) -> dict[str, Any]:
    volumes = measure.structure_volumes(segmentation)
    structures = [asdict(volume) for volume in volumes]
    if doubt is not None:
        for entry, found in zip(structures, measure.structure_doubt(segmentation, doubt), strict=True):
            entry[f"mean_{quantity.key}"] = found.mean
            entry["most_doubtful_slice_k"] = found.most_doubtful_slice_k
    measurements: dict[str, Any] = {"structures": structures}
    if card.tumors is not None:
        rule, by_label = card.tumors, {volume.label: volume for volume in volumes}
        count = measure.count_nodules(segmentation, rule.label, rule.connectivity, rule.small_below_mm3)
        measurements["tumors"] = {
            "count": len(count.nodules),
            "small_count": count.number_of("small"),
            "large_count": count.number_of("large"),
            "total_volume_mm3": by_label[rule.label].volume_mm3,
            "connectivity": count.connectivity,
            "small_below_mm3": count.small_below_mm3,
            "nodules": [asdict(nodule) for nodule in count.nodules],
        }
        host = by_label[rule.host_label]
        total = host.volume_mm3 + by_label[rule.label].volume_mm3
        measurements[f"{host.key}_with_tumors_volume_mm3"] = total
    return measurements


def _cut_off(labels: np.ndarray, box: Box, shape: tuple[int, ...], card: Card) -> list[str]:
    """Return a warning that names the structures at a border of `box` behind which the image goes on."""
    found: set[int] = set()
    for axis, ((low, high), size) in enumerate(zip(box, shape, strict=True)):
        found |= set(np.unique(labels.take(0, axis)).tolist()) if low > 0 else set()
        found |= set(np.unique(labels.take(-1, axis)).tolist()) if high < size else set()
    names = [structure.name for label, structure in sorted(card.labels.items()) if label in found]
    if not names:
        return []
    return [
        f"The border of the region of interest cuts {', '.join(names)}: the image goes on there, so volumes are too "
        "small. Make the region larger if the whole is meant."
    ]


def _absent(segmentation: Segmentation, box: Box | None) -> list[str]:
    counts = segmentation.voxel_counts()
    place = "this image" if box is None else "the region of interest"
    if not any(counts.values()):
        remedy = "" if box is None else ", and that the region is the right one"
        return [
            "Nothing was found: the segmentation is empty. Check that image and checkpoint belong together"
            f"{remedy}."
        ]
    # No tumor is a normal answer; a missing organ is not.
    missing = [
        s.name for label, s in segmentation.structures.items() if not counts[label] and s.key != "tumors"
    ]
    return [f"Not found in {place}: {', '.join(missing)}."] if missing else []


def _output_names(case: str) -> dict[str, str]:
    """Return the names of all files that a case can have, by what they hold."""
    endings = {"segmentation": ".seg.nrrd", "image": "_image.nrrd", "uncertainty": "_uncertainty.nrrd"}
    return {what: case + ending for what, ending in {**endings, "page": ".html", "record": ".json"}.items()}


def _refuse_the_input(path: Path, folder: Path, case: str) -> None:
    """Keep a case from overwriting the very image it is made from."""
    for goal in (folder / name for name in _output_names(case).values()):
        if goal.exists() and goal.samefile(path):
            raise OutputError(
                f"{goal} is the input, and a result of case {case} would take its place. Choose another "
                "--output or --name."
            )


def _earlier_outputs(folder: Path, case: str, input_sha256: str) -> dict[str, str]:
    """Return name -> SHA-256 of the files that an earlier run on the same input wrote for this case.

    Raises OutputError when the case is the result of another input, so that one animal does not
    overwrite another, or when its segmentation was changed since, so that no correction by hand is lost.
    """
    names = _output_names(case)
    path = folder / names["record"]
    try:
        earlier = json.loads(path.read_text("utf-8"))
        digest, outputs = earlier["input"]["sha256"], dict(earlier["outputs_sha256"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path} exists and is not a record of ThoraxSeg ({type(error).__name__}). Choose another "
            "--output or --name."
        ) from error
    if digest != input_sha256:
        raise OutputError(
            f"{path} is the result of another input (SHA-256 {str(digest)[:12]}..., now "
            f"{input_sha256[:12]}...). Choose another --output or --name, or remove the old result."
        )
    contours = folder / names["segmentation"]
    if contours.is_file() and sha256_file(contours) != outputs.get(contours.name):
        raise OutputError(
            f"{contours} was changed after it was written, perhaps by hand, and would be overwritten. Choose "
            "another --output or --name, or move it away."
        )
    return {name: outputs[name] for name in names.values() if name in outputs}


def _remove_stale(folder: Path, earlier: dict[str, str], written: dict[str, str]) -> None:
    """Remove files of an earlier run that the new one does not have: they belong to other options."""
    for name, digest in earlier.items():
        path = folder / name
        if name not in written and path.is_file() and sha256_file(path) == digest:
            path.unlink()
