"""The published model on the published mouse gives the published numbers (definitions, section 2.4)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thoraxseg.checkpoints import list_cards, open_checkpoint, sample_path
from thoraxseg.inference import load_predictor
from thoraxseg.io import StackGeometry, read_volume
from thoraxseg.options import Contrast, Device
from thoraxseg.postprocess import clean_up
from thoraxseg.postprocess.slice_filter import keep_between_flat_ends
from thoraxseg.precheck import check_prepared
from thoraxseg.preprocess import prepare

pytestmark = [pytest.mark.network, pytest.mark.slow]
SLICE_LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mouse-mri-slice-labels.json"


@pytest.fixture(scope="module")
def mouse(deepmeta_home):
    """The real mouse through the published model, with and without contrast enhancement, stage by stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THORAXSEG_HOME", str(deepmeta_home))
        checkpoint = open_checkpoint("deepmeta-mouse-mri")
        card = checkpoint.card
        path = sample_path(list_cards()[card.name], "souris_8.tif")
    volume = read_volume(path, StackGeometry(card.input.stack_spacing_mm, card.input.orientation, "the card"))
    predictor = load_predictor(checkpoint, Device.CPU)

    def run(contrast):
        prepared = prepare([volume], card, contrast)
        raw = predictor.probabilities(prepared.channels).argmax(axis=0).astype(np.uint8)
        labels, warnings = clean_up(raw, prepared.image, prepared.ijk_to_ras, card.postprocess)
        warnings = check_prepared(prepared.image, card) + warnings
        return SimpleNamespace(prepared=prepared, raw=raw, labels=labels, warnings=warnings)

    return SimpleNamespace(auto=run(Contrast.AUTO), off=run(Contrast.OFF))


def counts(labels):
    return np.bincount(labels.ravel(), minlength=3)[1:].tolist()


def test_the_dark_stack_is_enhanced_by_itself_and_nothing_is_warned(mouse):
    assert "because the stack is dark" in mouse.auto.prepared.notes[0]
    assert mouse.auto.warnings == []


def test_the_network_marks_the_published_number_of_voxels(mouse):
    assert counts(mouse.auto.raw) == [102_674, 2_658]


def test_clean_up_leaves_the_published_number_of_voxels(mouse):
    assert counts(mouse.auto.labels) == [102_974, 2_643]


def test_the_slice_filter_trims_7_leading_and_21_trailing_slices(mouse):
    kept = np.flatnonzero(keep_between_flat_ends(mouse.auto.prepared.image, 7, 1))
    assert (kept[0], 127 - kept[-1]) == (7, 21)


def test_at_least_126_of_128_slices_agree_with_the_published_labels(mouse):
    if not SLICE_LABELS.exists():
        pytest.skip(f"the published slice labels are not here: {SLICE_LABELS}")
    published = np.array(json.loads(SLICE_LABELS.read_text("utf-8"))["souris_8"], bool)
    assert (mouse.auto.labels.any(axis=(1, 2)) == published).sum() >= 126


def test_without_enhancement_almost_nothing_is_found_and_that_is_warned_of(mouse):
    assert counts(mouse.off.raw)[0] == 118
    assert not mouse.off.labels.any()
    text = " ".join(mouse.off.warnings)
    assert (
        "does not look like the training images: mean 0.0698, expected 0.15" in text
        and "--contrast on" in text
    )
    assert "trimmed the whole stack" in text
