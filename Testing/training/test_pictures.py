"""Pictures of a run: which slice, what is in them, logs that are none."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError, OutputError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.pictures import (
    MAX_LOGIT,
    draw_curves,
    draw_validation,
    largest_slice,
    log_odds,
    read_log,
)

LOG = "epoch,lr,train_loss,val_dice,val_loss,val_dice_lungs\n0,0.1,2,,,\n1,0.05,1,0.5,1.5,0.5\n"


def test_the_slice_with_the_largest_tumor_is_found():
    labels = np.zeros((5, 8, 8), dtype=np.uint8)
    labels[1, :4] = 1
    labels[2, :2, :3] = 2
    labels[3, 0, :3] = 2
    labels[4] = IGNORE
    assert largest_slice(labels, 2) == (2, 6)
    assert largest_slice(labels, None) == (1, 32)
    assert largest_slice(labels, 3) == (2, 0)


def test_log_odds_are_the_logits_of_a_sigmoid():
    logits = np.array([-4.0, 0.0, 2.5])
    assert log_odds(1 / (1 + np.exp(-logits))) == pytest.approx(logits)
    assert log_odds(np.array([0.0, 1.0])) == pytest.approx([-MAX_LOGIT, MAX_LOGIT])


def test_the_picture_has_image_truth_logits_and_prediction(tmp_path):
    from PIL import Image

    truth = np.zeros((20, 30), dtype=np.uint8)
    truth[5:15, 5:15] = 1
    probabilities = np.stack([0.8 - 0.6 * truth, 0.2 + 0.6 * truth]).astype(np.float32)
    path = draw_validation(
        tmp_path / "p" / "e.png", truth * 50.0, truth, probabilities, ["Lungs"], 1, (1.0, 1.0), "t"
    )
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    orange = (drawn[..., 0] > drawn[..., 2] + 60).any(axis=0)  # truth and prediction, not the image
    blocks = np.flatnonzero(np.diff(orange.astype(int)) == 1)
    assert drawn.shape[1] > 3 * drawn.shape[0] and len(blocks) >= 2


def test_learning_curves_are_drawn_from_a_log_with_epochs_that_were_not_validated(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    assert [row["val_dice"] for row in read_log(tmp_path / "log.csv")] == [None, 0.5]
    assert draw_curves(tmp_path / "log.csv", tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "epoch\n", "epoch,lr\n0,fast\n"])
def test_a_log_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match="log of a training run"):
        read_log(tmp_path / "log.csv")


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        draw_curves(tmp_path / "log.csv", tmp_path / "file" / "c.png")
