"""nnU-Net really trained, for two epochs of six batches: what comes out, and what a kill does to it."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK

pytest.importorskip("nnunetv2", reason="nnU-Net, which is trained here, is not installed")

from Testing.training.nnunet_mice import FAST, fast, mice
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import OptionError
from thoraxseg.io import read_volume
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.progress import Cancelled
from thoraxseg.training.nnunet import train_nnunet
from thoraxseg.volume import reorient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread")]

CASCADE = "3d_cascade_fullres"
CONFIGURATIONS = ("2d", "3d_fullres", CASCADE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Data set, output and what was trained there: fold 0 of three configurations, both folds of the first stage."""
    folder = tmp_path_factory.mktemp("nnunet")
    data, told = mice(folder / "mice"), []
    trained = train_nnunet(
        data,
        folder / "out",
        CONFIGURATIONS,
        folds=[0],
        epochs=2,
        device="cpu",
        options=fast(mirror_sides=False),
        progress=lambda fraction, message: told.append((fraction, message)),
    )
    return data, folder / "out", {one.configuration: one for one in trained}, told


def again(data, output, *configurations, **words):
    """Train as in `run`."""
    usual = {"folds": [0], "epochs": 2, "device": "cpu", "options": fast(mirror_sides=False)}
    return train_nnunet(data, output, configurations, **usual | words)


def weights_of(model):
    """Return the weights of nnU-Net's own checkpoint of fold 0."""
    return read_weights(model / "fold_0" / "checkpoint_final.pth")


@pytest.mark.parametrize(
    "name", ["2d", "3d_fullres"]
)  # a cascade's folds saw one fold of the first stage each
def test_the_native_checkpoint_contours_a_left_out_case_as_nnunet_did(name, run):
    from thoraxseg.pipeline import segment

    data, _, trained, _ = run
    one = trained[name]
    held_out = sorted(path.name for path in (one.model / "fold_0" / "validation").glob("*.nii.gz"))
    case = data.case(held_out[1].removesuffix(".nii.gz"))  # stored along RAS; training went along LPS
    volume = read_volume(case.images[0])
    assert volume.axis_codes == "RAS"
    checkpoint = open_checkpoint(one.checkpoint)
    options = SegmentOptions(device=Device.CPU, postprocess="none")
    found = segment(volume, checkpoint, options).segmentation
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage(str(one.model / "fold_0" / "validation" / held_out[1]))
    )
    mine, _ = reorient(found.labels, found.ijk_to_ras, "LPS")
    assert len(np.unique(theirs)) > 1
    assert (mine == theirs).mean() > 0.995  # nnU-Net sums in half precision


def test_the_card_says_what_it_learned_from_and_was_measured_on(run):
    data, _, trained, _ = run
    for name, one in trained.items():
        card = open_checkpoint(one.checkpoint).card
        assert card.labels == data.labels and card.input.orientation == "LPS"
        assert (card.species, card.modality) == ("mouse", "micro-CT")
        assert "4 cases of 2 animals" in card.description and "2 epochs of 6 batches" in card.description
        assert f"right lung {one.validation.dice['right_lung']:.3f}" in card.validation
        assert "of 2 cases" in card.validation and card.nnunet.configuration == name
        assert 0 <= one.validation.mean <= 1


def test_no_image_was_mirrored_from_side_to_side_where_that_was_asked_for(run):
    _, _, trained, _ = run
    card = open_checkpoint(trained["3d_fullres"].checkpoint).card
    assert card.nnunet.transpose_forward == (0, 1, 2)
    assert card.nnunet.mirror_axes == (0, 1)
    assert open_checkpoint(trained["2d"].checkpoint).card.nnunet.mirror_axes == (0,)


def test_a_cascade_learned_from_contours_of_every_case_by_the_fold_that_left_it_out(run):
    data, _, trained, _ = run
    first = trained[CASCADE].model.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    made = {path.name.split(".")[0] for path in (first / "predicted_next_stage" / CASCADE).iterdir()}
    assert made == {case.id for case in data.cases}
    assert open_checkpoint(trained[CASCADE].checkpoint).previous is not None


def test_every_epoch_is_in_the_log_and_in_the_progress(run):
    _, out, _, told = run
    with (out / "logs" / "2d_fold_0.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["train_loss"]) < 10 and float(row["seconds"]) > 0 for row in rows)
    assert [*rows[0]][4:6] == ["val_dice_right_lung", "val_dice_left_lung"]
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert any(message.startswith("3d_fullres, fold 0: epoch 1 of 2, step 1 of 7") for _, message in told)
    assert any(path.name.startswith("events") for path in (out / "tensorboard" / "2d_fold_0").iterdir())


def test_a_run_that_was_cancelled_goes_on_and_ends_like_one_that_was_not(run, tmp_path):
    data, out, trained, _ = run
    other = tmp_path / "out"  # prepared as the first one, so that only the training is done
    shutil.copytree(out, other)
    model = other / trained["2d"].model.relative_to(out)
    shutil.rmtree(model)
    (other / "nnunet" / "steps" / "train_2d_0").unlink()
    prepared = {path: path.stat().st_mtime_ns for path in (other / "nnunet" / "preprocessed").rglob("*.b2nd")}
    latest = model / "fold_0" / "checkpoint_latest.pth"

    def cancel(fraction, message):
        if latest.exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        again(data, other, "2d", progress=cancel)
    assert latest.exists() and not (model / "fold_0" / "checkpoint_final.pth").exists()
    told = []
    again(data, other, "2d", progress=lambda fraction, message: told.append(message))
    assert not any("epoch 1 of 2" in message for message in told)
    assert prepared == {path: path.stat().st_mtime_ns for path in prepared}
    mine, whole = weights_of(model), weights_of(trained["2d"].model)
    assert all(np.array_equal(mine[key], whole[key]) for key in whole)


def test_what_is_trained_is_not_trained_again_but_validated_and_a_new_fold_joins_it(run):
    data, out, trained, _ = run
    fold = trained["3d_fullres"].model / "fold_0"
    before = (fold / "checkpoint_final.pth").stat().st_mtime_ns
    # As after a kill while nnU-Net contoured the validation cases.
    (out / "nnunet" / "steps" / "train_3d_fullres_0").unlink()
    (fold / "validation" / "summary.json").unlink()
    (one,) = again(data, out, "3d_fullres", folds=[0, 1])
    assert (fold / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert (fold / "validation" / "summary.json").exists()
    assert one.folds == ("0", "1") and one.validation.cases == 4
    assert len(open_checkpoint(one.checkpoint).weights) == 2


def test_learning_that_diverges_stops_and_says_what_to_change(run, tmp_path):
    data, out, _, _ = run
    other = tmp_path / "out"
    shutil.copytree(out, other)
    path = other / "nnunet" / "run.json"
    known = json.loads(path.read_text("utf-8"))
    del known["recipes"]["2d"]
    path.write_text(json.dumps(known), encoding="utf-8")
    wild = fast(mirror_sides=False, changes={**FAST, "initial_lr": 1e25})
    with pytest.raises(
        OptionError, match=r"diverged in epoch 1 of 2d_fold_1.*smaller initial_lr than 1e\+25"
    ):
        again(data, other, "2d", folds=[1], options=wild)
    assert not list(other.rglob("*__2d/fold_1/checkpoint_final.pth"))
