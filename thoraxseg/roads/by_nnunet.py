"""The road of nnU-Net models: their reader's axes, their own steps and clean-up, a cascade's first stage first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.errors import CheckpointError, DeviceMemoryError, InputError, OptionError
from thoraxseg.inference import Predictor, nnunet
from thoraxseg.inference.predictor import is_out_of_memory
from thoraxseg.inference.sparing import NO_ROOM
from thoraxseg.options import Contrast, Mirroring, Postprocess, SegmentOptions, Uncertainty
from thoraxseg.progress import Progress, part
from thoraxseg.roads.answer import Answer, Clock
from thoraxseg.roads.looking import Eye, Looked, look, sampled_warning
from thoraxseg.volume import Volume, reorient

NO_SLICE_SPACING_MM = 999.0
"""What nnU-Net takes for the distance of slices where a picture has none."""


@dataclass(frozen=True, eq=False)
class _Grid:
    """The image in the axis order of the model's reader."""

    channels: np.ndarray
    """`(C, z, y, x)` float32."""
    spacing_mm: tuple[float, float, float]
    source: Volume
    codes: str
    ijk_to_ras: np.ndarray

    def back(self, array: np.ndarray) -> np.ndarray:
        """Return `(..., z, y, x)` on the axes of the source."""
        turned, _ = reorient(array, self.ijk_to_ras, self.source.axis_codes, self.codes)
        return np.ascontiguousarray(turned)


def contour_by_nnunet(
    channels: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> Answer:
    """Return the answer of an nnU-Net model to one volume a channel.

    Raises OptionError where contrast enhancement is asked for, InputError for labels beyond 255.
    """
    plan = predictor.checkpoint.card.nnunet
    if options.contrast is Contrast.ON:
        raise OptionError("--contrast on: nnU-Net models prepare images their own way; use auto or off.")
    grid, notes = _read_as(plan, channels, predictor)
    labels = None
    if predictor.previous is not None:
        with clock("first_stage"):
            labels = _first_stage(grid, predictor.previous, options, part(progress, 0.0, 0.4))
    span = part(progress, 0.4 if labels is not None else 0.0, 0.9)
    with clock("preprocess"):
        prepared, place = nnunet.preprocess(
            grid.channels, grid.spacing_mm, plan, labels, part(span, 0.0, 0.1)
        )
    with clock("inference"):
        seen = look(
            _eye(predictor, plan, place.target_spacing_mm, options), prepared, options, part(span, 0.1, 1.0)
        )
    answer = nnunet.Answer(seen.scores, place, plan, seen.are_probabilities)
    with clock("postprocess"):
        labels, doubt = _labels_and_doubt(answer, seen, part(progress, 0.9, 0.97))
        if options.postprocess is Postprocess.CHECKPOINT:
            labels = nnunet.clean_up(labels, grid.spacing_mm, plan)
    if labels.max(initial=0) > 255:
        raise InputError(f"{plan.name}: has labels above 255, which a segmentation here cannot hold.")
    return Answer(
        grid.back(labels.astype(np.uint8)),
        None if doubt is None else grid.back(doubt),
        seen.quantity,
        lambda: grid.back(answer.probabilities()),
        predictor,
        sampled_warning(seen, options),
        [*notes, *plan.notes],
        seen.sampling,
    )


def _labels_and_doubt(
    answer: nnunet.Answer, seen: Looked, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return labels and doubt in the reader's axis order, on the grid of the image."""
    if seen.quantity is None:
        return answer.labels(progress), None
    if seen.spread is None:
        return answer.labels_and_entropy(progress)
    # The spread goes back the way a probability does.
    maps = np.stack([1 - seen.spread, seen.spread])
    spread = nnunet.Answer(maps, answer.grid, answer.plan, are_probabilities=True).probabilities()[1]
    return answer.labels(progress), np.clip(spread, 0, seen.quantity.maximum)  # cubic splines overshoot


def _read_as(plan: NnunetPlan, channels: Sequence[Volume], predictor: Predictor) -> tuple[_Grid, list[str]]:
    """Return the image as the plan's reader gives it to nnU-Net, and what to tell the user."""
    notes = []
    card = predictor.checkpoint.card
    # RAS for the readers that reorient; a card may state the orientation that the files do not.
    codes = card.input.codes_for(channels[0].axis_codes)
    volumes = [volume.reoriented(codes) for volume in channels]
    if card.input.orientation.islower():
        notes.append(
            f"{card.name} sees the file's own axes ({codes}): nnU-Net models do not state how their training images "
            "lay."
        )
    spacing = volumes[0].spacing_mm
    if plan.reader == "NaturalImage2DIO":
        spacing = (NO_SLICE_SPACING_MM, 1.0, 1.0)
        notes.append("The model was trained on pictures without a scale; pixels were taken as they are.")
    stacked = np.stack([volume.array.astype(np.float32) for volume in volumes])
    return _Grid(stacked, spacing, channels[0], codes, volumes[0].ijk_to_ras), notes


def _first_stage(
    grid: _Grid, predictor: Predictor, options: SegmentOptions, progress: Progress
) -> np.ndarray:
    """Return the labels `(z, y, x)` of a cascade's first stage, on the grid of the image.

    Version 1 cleans them up as that model's own clean-up says; version 2 does not.
    """
    plan = predictor.checkpoint.card.nnunet
    prepared, place = nnunet.preprocess(grid.channels, grid.spacing_mm, plan, None, part(progress, 0.0, 0.1))
    eye = _eye(predictor, plan, place.target_spacing_mm, options)
    scores = eye.scores(prepared, range(len(predictor.networks)), True, part(progress, 0.1, 0.95))
    labels = nnunet.Answer(scores, place, plan).labels()
    return nnunet.clean_up(labels, grid.spacing_mm, plan) if plan.origin is Origin.V1 else labels


def _eye(predictor: Predictor, plan: NnunetPlan, spacing_mm: Sequence[float], options: SegmentOptions) -> Eye:
    mirror_axes = plan.mirror_axes if options.mirroring is Mirroring.CHECKPOINT else ()
    sample = options.uncertainty in (Uncertainty.WANG, Uncertainty.MEAN_PROB)
    flips = [axis + 3 - len(plan.patch_size) for axis in plan.mirror_axes] if sample else []

    def scores(image: np.ndarray, folds: Sequence[int], mirror: bool, progress: Progress) -> np.ndarray:
        networks = [predictor.networks[fold] for fold in folds]
        axes, sparing = mirror_axes if mirror else (), predictor.sparing
        span = sparing.telling(progress)
        return _explained(
            lambda sums_on: nnunet.predict_scores(
                image, plan, networks, predictor.device, sums_on, axes, progress=span, sparing=sparing
            ),
            predictor.checkpoint.card.name,
        )

    inputs = len(plan.channels)
    extra = plan.architecture_arguments["in_channels"] - inputs
    return Eye(
        predictor,
        scores,
        lambda values: nnunet.as_probabilities(values, plan),
        spacing_mm,
        flips,
        [True] * inputs + [False] * extra,
        regions=plan.regions_class_order is not None,
    )


def _explained(work: Callable[[str | None], np.ndarray], name: str) -> np.ndarray:
    """Run `work`; where the GPU's memory does not hold the sums too, with the sums on the host."""
    import torch

    try:
        try:
            return work(None)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        return work("cpu")
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(NO_ROOM) from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise CheckpointError(f"checkpoint {name}: its network failed: {str(error)[:300]}") from error
