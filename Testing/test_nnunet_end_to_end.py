"""Models that nnU-Net v2 itself trained, and the zips it exports, run by `thoraxseg segment` as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nnunetv2", reason="nnU-Net, which trains the models of these tests, is not installed")

import nibabel

from thoraxseg.cli import main
from thoraxseg.io import read_segmentation, read_volume

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.usefixtures("one_thread")]

SCRIPT = Path(__file__).with_name("nnunet_training.py")
CT, MR = "Dataset701_MouseCT", "Dataset702_MouseMR"
FULL, LOW, CASCADE, FLAT = (
    f"{CT}/nnUNetTrainer__nnUNetPlans__{name}"
    for name in ("3d_fullres", "3d_lowres", "3d_cascade_fullres", "2d")
)
REGIONS = f"{MR}/nnUNetTrainer__nnUNetResEncUNetLPlans_torchres__3d_fullres"
CT_IMAGE = f"images/{CT}/new_0000.nii.gz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that `nnunet_training.py` makes: models, zips, held-out images and nnU-Net's own answers."""
    folder = tmp_path_factory.mktemp("nnunet") / "trained"
    with (folder.parent / "log.txt").open("w+", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, SCRIPT, folder], stdout=log, stderr=subprocess.STDOUT, check=False, timeout=1400
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-5000:]
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def segment(trained, tmp_path, no_pictures, capsys):
    """Run `thoraxseg segment` on an image and a model, both named from the trained folder; return the status."""

    def run(image: str, model: Path | str, *words: str) -> int:
        # The clean-up that nnU-Net found is applied by `nnUNetv2_apply_postprocessing`, not by its predictor.
        words = words if "--postprocess" in words else (*words, "--postprocess", "none")
        command = [
            "segment",
            trained / image,
            "-c",
            trained / model,
            "-o",
            tmp_path / "out",
            "--device",
            "cpu",
        ]
        return main([str(word) for word in (*command, *words)])

    return run


@pytest.fixture
def contours(segment, tmp_path):
    """Run `thoraxseg segment` and return the segmentation and the record, after checking that they agree."""

    def run(image: str, model: Path | str, *words: str):
        assert segment(image, model, *words) == 0
        case = Path(image).name.removesuffix(".nii.gz")
        found = read_segmentation(tmp_path / "out" / f"{case}.seg.nrrd")
        record = json.loads((tmp_path / "out" / f"{case}.json").read_text("utf-8"))
        told = {entry["key"]: entry["voxels"] for entry in record["measurements"]["structures"]}
        counted = found.voxel_counts()
        assert told == {one.key: counted[label] for label, one in found.structures.items()}
        return found, record

    return run


def answer_of(trained: Path, name: str, case: str = "new") -> tuple[np.ndarray, np.ndarray]:
    """Return nnU-Net's labels `(k, j, i)` and probabilities `(L, k, j, i)`, both on the axes of the image."""
    path = trained / "answers" / name / f"{case}.nii.gz"
    stored = nibabel.load(path)
    labels = np.asarray(stored.dataobj)
    probabilities = np.load(path.with_name(f"{case}.npz"))["probabilities"].transpose(0, 3, 2, 1)
    if json.loads((path.parent / "plans.json").read_text("utf-8"))["image_reader_writer"].endswith(
        "Reorient"
    ):
        # Labels are written back onto the image's axes, probabilities stay on those of the reader: RAS.
        from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

        turn = ornt_transform(axcodes2ornt("RAS"), io_orientation(stored.affine))
        probabilities = np.stack([apply_orientation(one, turn) for one in probabilities])
    return labels.T, probabilities.transpose(0, 3, 2, 1)


def check_equal(labels: np.ndarray, answer: tuple[np.ndarray, np.ndarray], regions: bool = False) -> None:
    """Check labels against nnU-Net's: different only where nnU-Net, which sums in half precision, hardly decided."""
    theirs, probabilities = answer
    assert labels.shape == theirs.shape == probabilities.shape[1:]
    different = labels != theirs
    assert np.count_nonzero(theirs) > 500, "nnU-Net found next to nothing, so there is nothing to compare"
    assert different.mean() <= 0.001
    doubtful = probabilities[:, different]
    if regions:
        margins = np.abs(doubtful - 0.5).min(axis=0)
    else:
        margins = np.diff(np.sort(doubtful, axis=0)[-2:], axis=0)
    assert margins.max(initial=0) < 0.01


def one_sentence(capsys) -> str:
    """Return the only line that was said, an error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ") and err.count("\n") == 1
    return err


# Answers


def test_two_folds_of_a_3d_model_give_nnunets_labels(trained, contours):
    found, record = contours(CT_IMAGE, f"results/{FULL}", "--folds", "0,1")
    check_equal(found.labels, answer_of(trained, "full"))
    assert [one.key for one in found.structures.values()] == [
        "heart",
        "spinal_cord",
        "right_lung",
        "left_lung",
    ]
    checkpoint = record["provenance"]["checkpoint"]
    assert checkpoint["nnunet"] == {
        "version": "v2",
        "configuration": "3d_fullres",
        "trainer": "nnUNetTrainer",
    }
    assert len(checkpoint["weights_sha256"]) == 2
    stored = nibabel.load(trained / CT_IMAGE)
    assert np.allclose(found.ijk_to_ras, stored.affine, atol=1e-4)


def test_all_folds_are_taken_when_none_is_named(contours):
    found, record = contours(CT_IMAGE, f"results/{FULL}")
    same, _ = contours(CT_IMAGE, f"results/{FULL}", "--folds", "0,1")
    assert np.array_equal(found.labels, same.labels)
    assert len(record["provenance"]["checkpoint"]["weights_sha256"]) == 2


def test_one_fold_gives_nnunets_labels_of_that_fold(trained, contours):
    found, record = contours(CT_IMAGE, f"results/{FULL}", "--folds", "1")
    check_equal(found.labels, answer_of(trained, "full_fold_1"))
    assert len(record["provenance"]["checkpoint"]["weights_sha256"]) == 1


def test_the_best_checkpoint_gives_nnunets_labels_of_that_checkpoint(trained, contours):
    best, _ = contours(CT_IMAGE, f"results/{FULL}", "--folds", "0", "--best")
    check_equal(best.labels, answer_of(trained, "full_best"))
    final, _ = contours(CT_IMAGE, f"results/{FULL}", "--folds", "0")
    assert not np.array_equal(best.labels, final.labels)


@pytest.mark.parametrize("where", [FLAT, CT], ids=["its folder", "the folder of all results"])
def test_a_2d_model_gives_nnunets_labels(where, trained, contours):
    found, record = contours(CT_IMAGE, f"results/{where}", "--configuration", "2d")
    check_equal(found.labels, answer_of(trained, "2d"))
    assert record["provenance"]["checkpoint"]["nnunet"]["configuration"] == "2d"


@pytest.mark.parametrize(
    "where",
    [f"results/{CASCADE}", f"results/{CT}", "exports/cascade.zip"],
    ids=["its second stage", "the folder of all results", "its export"],
)
def test_a_cascade_runs_both_stages_and_gives_nnunets_labels(where, trained, contours):
    found, record = contours(CT_IMAGE, where, "--configuration", "3d_cascade_fullres")
    check_equal(found.labels, answer_of(trained, "cascade"))
    second = record["provenance"]["checkpoint"]
    stages = [one["nnunet"]["configuration"] for one in (second["first_stage"], second)]
    assert stages == ["3d_lowres", "3d_cascade_fullres"]
    assert not np.array_equal(found.labels, answer_of(trained, "low")[0])


def test_an_export_runs_like_the_folder_it_was_made_of(trained, contours):
    zipped, told = contours(CT_IMAGE, "exports/full.zip")
    check_equal(zipped.labels, answer_of(trained, "full"))
    folder, record = contours(CT_IMAGE, f"results/{FULL}")
    assert np.array_equal(zipped.labels, folder.labels)
    one, other = (each["provenance"]["checkpoint"]["weights_sha256"] for each in (told, record))
    assert one == other


def test_one_fold_of_an_export_is_chosen_as_in_a_folder(trained, contours):
    found, _ = contours(CT_IMAGE, "exports/full.zip", "--folds", "1")
    check_equal(found.labels, answer_of(trained, "full_fold_1"))


@pytest.mark.parametrize("model", [f"results/{FULL}", "exports/full.zip"], ids=["folder", "export"])
def test_the_clean_up_that_nnunet_found_is_applied_as_nnunet_does(model, trained, contours):
    from nnunetv2.postprocessing import remove_connected_components as theirs

    path = trained / "results" / FULL / "crossval_results_folds_0_1" / "postprocessing.json"
    found = json.loads(path.read_text("utf-8"))
    raw, _ = contours(CT_IMAGE, model)
    clean, _ = contours(CT_IMAGE, model, "--postprocess", "checkpoint")
    expected = raw.labels
    for name, words in zip(found["postprocessing_fns"], found["postprocessing_kwargs"], strict=True):
        expected = getattr(theirs, name)(expected, **words)
    assert found["postprocessing_fns"] and not np.array_equal(expected, raw.labels)
    assert np.array_equal(clean.labels, expected)


@pytest.mark.parametrize("model", [f"results/{REGIONS}", "exports/regions.zip"], ids=["folder", "export"])
@pytest.mark.parametrize("case", ["new", "turned"])
def test_regions_from_two_channels_are_nnunets_however_the_image_is_stored(case, model, trained, contours):
    image, second = (f"images/{MR}/{case}_{channel}.nii.gz" for channel in ("0000", "0001"))
    found, record = contours(image, model, "--channel", str(trained / second))
    check_equal(found.labels, answer_of(trained, "regions", case), regions=True)
    assert set(np.unique(found.labels)) == {0, 1, 2}
    told = [one["file"] for one in record["provenance"]["channels"]]
    assert told == [Path(image).name, Path(second).name]


def test_an_image_stored_along_other_axes_has_its_contours_at_the_same_places(trained, contours):
    def points(case: str) -> dict[int, np.ndarray]:
        image, second = (f"images/{MR}/{case}_{channel}.nii.gz" for channel in ("0000", "0001"))
        found, _ = contours(image, f"results/{REGIONS}", "--channel", str(trained / second))
        places = {}
        for label in found.structures:
            kji = np.argwhere(found.labels == label)
            ras = np.c_[kji[:, ::-1], np.ones(len(kji))] @ found.ijk_to_ras[:3].T
            places[label] = ras[np.lexsort(np.round(ras, 2).T)]
        return places

    straight, turned = points("new"), points("turned")
    assert straight.keys() == turned.keys()
    for label, places in straight.items():
        assert places.shape == turned[label].shape
        assert np.allclose(places, turned[label], atol=1e-3)


def test_channels_in_the_wrong_order_are_seen_as_other_channels(trained, contours):
    first, second = (f"images/{MR}/new_{channel}.nii.gz" for channel in ("0000", "0001"))
    right, _ = contours(first, f"results/{REGIONS}", "--channel", str(trained / second))
    wrong, _ = contours(second, f"results/{REGIONS}", "--channel", str(trained / first))
    assert not np.array_equal(right.labels, wrong.labels)


@pytest.mark.parametrize("name", ["full", "regions"])
def test_the_map_of_doubt_is_the_entropy_of_nnunets_probabilities(name, trained, contours, tmp_path):
    if name == "full":
        contours(CT_IMAGE, f"results/{FULL}")
    else:
        image, second = (f"images/{MR}/new_{channel}.nii.gz" for channel in ("0000", "0001"))
        contours(image, f"results/{REGIONS}", "--channel", str(trained / second))
    _, p = answer_of(trained, name)
    if name == "regions":  # each is inside or outside by itself; the larger doubt counts
        p = np.stack([p, 1 - p])
    expected = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=0)
    expected = expected.max(axis=0) if name == "regions" else expected
    doubt = read_volume(tmp_path / "out" / "new_0000_uncertainty.nrrd").array
    apart = np.abs(doubt - expected)
    # In the corners of an image, windows weigh so little that half precision keeps only a few of their bits.
    assert np.quantile(apart, 0.99) < 0.005
    assert apart.max() < 0.15
    assert expected.max() > 0.3


# What cannot be run


@pytest.mark.parametrize("model", [f"results/{FULL}", "exports/full.zip"], ids=["folder", "export"])
def test_a_fold_that_is_missing_ends_with_4_and_the_folds_that_are_there(model, segment, tmp_path, capsys):
    assert segment(CT_IMAGE, model, "--folds", "0,3") == 4
    said = one_sentence(capsys)
    assert "fold '3' is missing" in said and "0, 1" in said
    assert not (tmp_path / "out").exists()


def test_the_best_checkpoint_is_not_in_an_export_and_the_answer_says_so(segment, capsys):
    assert segment(CT_IMAGE, "exports/full.zip", "--best") == 4
    said = one_sentence(capsys)
    assert "checkpoint_best.pth" in said and "checkpoint_final.pth" in said


def test_one_channel_where_two_are_needed_ends_with_3_and_the_flag(segment, tmp_path, capsys):
    assert segment(f"images/{MR}/new_0000.nii.gz", f"results/{REGIONS}") == 3
    said = one_sentence(capsys)
    assert "bSSFP, T2" in said and "--channel" in said
    assert not (tmp_path / "out").exists()


def test_two_channels_where_one_is_needed_end_with_3(segment, trained, capsys):
    assert segment(CT_IMAGE, f"results/{FULL}", "--channel", str(trained / CT_IMAGE)) == 3
    assert "takes 1 channel" in one_sentence(capsys)


def test_channels_on_different_grids_end_with_3(segment, trained, capsys):
    other = trained / f"images/{MR}/turned_0001.nii.gz"
    assert segment(f"images/{MR}/new_0000.nii.gz", f"results/{REGIONS}", "--channel", str(other)) == 3
    assert "grid" in one_sentence(capsys)


@pytest.mark.parametrize("where", [f"results/{CT}", "exports/cascade.zip"], ids=["results", "export"])
def test_several_configurations_end_with_4_and_their_names_until_one_is_chosen(where, segment, capsys):
    assert segment(CT_IMAGE, where) == 4
    said = one_sentence(capsys)
    assert "3d_lowres" in said and "3d_cascade_fullres" in said and "configuration" in said


def test_a_configuration_that_is_not_there_ends_with_4_and_its_name(segment, capsys):
    assert segment(CT_IMAGE, f"results/{FULL}", "--configuration", "2d") == 4
    said = one_sentence(capsys)
    assert "2d" in said and "3d_fullres" in said


def test_a_second_stage_without_its_first_ends_with_4_and_where_to_put_it(segment, trained, tmp_path, capsys):
    alone = tmp_path / "alone" / Path(CASCADE).name
    shutil.copytree(trained / "results" / CASCADE, alone)
    assert segment(CT_IMAGE, alone, "--configuration", "3d_cascade_fullres") == 4
    assert Path(LOW).name in one_sentence(capsys)


@pytest.mark.parametrize("kind", ["another dataset", "another configuration", "another spacing"])
def test_plans_that_are_not_those_of_the_training_end_with_4(kind, segment, trained, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(trained / "results" / FULL, model)
    plans = json.loads((model / "plans.json").read_text("utf-8"))
    if kind == "another dataset":
        plans = json.loads((trained / "results" / REGIONS / "plans.json").read_text("utf-8"))
    elif kind == "another configuration":
        plans["configurations"] = {"2d": plans["configurations"]["2d"]}
    else:
        plans["configurations"]["3d_fullres"]["spacing"] = [0.5, 0.5, 0.5]
    (model / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    assert segment(CT_IMAGE, model) == 4
    assert "plans" in one_sentence(capsys)
    assert not (tmp_path / "out").exists()
