"""The road of checkpoints that a card describes step by step: prepare, look, clean up, bring back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from thoraxseg import inference, postprocess, precheck, preprocess
from thoraxseg.checkpoints import structures
from thoraxseg.inference import Predictor
from thoraxseg.options import Postprocess, SegmentOptions
from thoraxseg.progress import Progress, part
from thoraxseg.roads.answer import Answer, Clock
from thoraxseg.roads.looking import Eye, look, sampled_warning
from thoraxseg.volume import Volume


def contour_by_card(
    channels: Sequence[Volume],
    predictor: Predictor,
    options: SegmentOptions,
    clock: Clock,
    progress: Progress,
) -> Answer:
    """Return the answer of one checkpoint to one volume for each channel of its card."""
    card = predictor.checkpoint.card
    plan = card.postprocess if options.postprocess is Postprocess.CHECKPOINT else None
    if plan is not None:
        postprocess.check_plan(plan)  # a wrong rule is said now, not after minutes of inference
    with clock("preprocess"):
        prepared = preprocess.prepare(channels, card, options.contrast, part(progress, 0.0, 0.12))
        warnings = precheck.check_prepared(prepared.image, card)
    with clock("inference"):
        eye = Eye(
            predictor,
            lambda image, folds, mirror, span: predictor.scores(image, span, folds),
            predictor.as_probabilities,
            prepared.spacing_mm,
            _flip_axes(predictor, prepared.orientation),
            [channel.source == "image" for channel in card.channels],
            regions=False,
        )
        seen = look(eye, prepared.channels, options, part(progress, 0.12, 0.85))
        probabilities = seen.scores if seen.are_probabilities else predictor.as_probabilities(seen.scores)
        labels = probabilities.argmax(axis=0).astype(np.uint8)
    with clock("postprocess"):
        if plan is not None:
            span = part(progress, 0.85, 0.95)
            labels, said = postprocess.clean_up(labels, prepared.image, prepared.ijk_to_ras, plan, span)
            warnings += said
        labels = prepared.answer_on_source(labels, probabilities)
    doubt = None
    if seen.quantity is not None:
        with clock("uncertainty"):
            progress(0.95, "Mapping doubt")
            doubt = inference.predictive_entropy(probabilities) if seen.spread is None else seen.spread
            doubt = prepared.map_on_source(doubt)
    return Answer(
        labels,
        doubt,
        seen.quantity,
        partial(prepared.probabilities_on_source, probabilities),
        predictor,
        [*warnings, *sampled_warning(seen, options)],
        list(prepared.notes),
        seen.sampling,
    )


def _flip_axes(predictor: Predictor, orientation: str) -> list[int]:
    """Return the array axes along which a flipped image may be shown: not left-right where sides have names."""
    card = predictor.checkpoint.card
    sided = any(structures.has_side(structure) for structure in card.labels.values())
    axes = range(1, 3) if card.inference.mode == "slices" else range(3)
    return [axis for axis in axes if not (sided and orientation[2 - axis] in "LR")]
