"""Each paper's protocol from the command line on its phantom cohort, held against sums done here by hand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.cli import app
from thoraxseg.cli.stops import ended_by_signals
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.io import read_volume
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.reproduce import PAPERS, Request, harness, phantom_data, reproduce
from thoraxseg.reproduce.deepmeta_layout import GEOMETRY, TEST_MICE

RAW = {"device": "cpu", "uncertainty": "none", "postprocess": "none"}


def run(*words):
    """Run the command below its parent, as a user does, and let errors through."""
    with ended_by_signals(), app.make_context("thoraxseg", ["reproduce", *map(str, words)]) as context:
        app.invoke(context)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Phantoms, stand-ins and the record of one run of each paper, made when first asked for."""
    made = {}

    def of(paper, rows, *words):
        if paper not in made:
            folder = tmp_path_factory.mktemp(paper)
            data = phantom_data.write_cohort(paper, folder / "data")
            models = [pair for pair in phantom_data.stand_ins(paper, folder / "models") if pair[0] in rows]
            checkpoints = [word for row, path in models for word in ("-c", f"{row}={path}")]
            run(paper, "--data", data, *checkpoints, "--device", "cpu", "-o", folder / "out", *words)
            record = json.loads((folder / "out" / "reproduce.json").read_text("utf-8"))
            made[paper] = (data, models, record, folder)
        return made[paper]

    return of


def one(record, table, row, column):
    (cell,) = [
        cell
        for cell in record["cells"]
        if (cell["table"], cell["row"], cell["column"]) == (table, row, column)
    ]
    return cell


def labels_of(path, model, options=RAW, geometry=None):
    result = segment(read_volume(path, geometry), open_checkpoint(model), SegmentOptions(**options))
    return result.segmentation.labels


def mean_sd(values):
    return np.mean(values), np.std(values, ddof=1)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


# --- mouse MRI


@pytest.fixture(scope="module")
def mice(world):
    return world("kaniewski", ("U-Net", "nnU-Net 3D model"))


def test_raw_iou_and_f1_of_the_mri_mice_are_means_over_slices_then_scans(mice):
    data, models, record, _ = mice
    f1, iou, empty = [], [], []
    for name in TEST_MICE:
        found = labels_of(data / "Test" / f"{name}.tif", models[0][1], RAW, GEOMETRY) == 2
        truth = read_volume(data / "Test" / name / "3classes", GEOMETRY, allow_constant=True).array == 2
        both, either = (found & truth).sum(axis=(1, 2)), (found | truth).sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            per_slice = np.where(either == 0, 1, both / either)
        iou.append(per_slice.mean())
        f1.append(np.mean(2 * per_slice / (1 + per_slice)))
        empty.append(np.mean(~truth.any(axis=(1, 2))))
    for column, values in (("IoU raw", iou), ("F1 raw", f1)):
        cell = one(record, "Table 1", "U-Net / Tumors", column)
        assert (cell["ours"], cell["ours_sd"]) == pytest.approx(mean_sd(values), abs=1e-12)
        assert cell["n"] == 4
        assert cell["difference"] == pytest.approx(np.mean(values) - cell["published"], abs=1e-12)
        assert cell["details"]["share_of_slices_without_reference"] == pytest.approx(np.mean(empty))


def test_the_other_readings_of_the_sd_are_kept(mice):
    record = mice[2]
    cell = one(record, "Table 2", "U-Net / Tumors", "F1")
    rows = [row for row in record["rows"] if row["table"] == "Table 2" and row["model"] == "U-Net"]
    assert cell["details"]["sd_of_scan_sds_ddof0"] == pytest.approx(
        np.std([row["f1_slice_sd"] for row in rows])
    )
    assert cell["details"]["sd_over_all_slices_ddof0"] > cell["ours_sd"]


def test_a_checkpoint_goes_to_the_table_of_what_it_finds(mice):
    record = mice[2]
    assert one(record, "Table 1", "U-Net / Lungs", "F1 post-processed")["ours"] is not None
    assert one(record, "Table 2", "U-Net / Tumors", "IoU")["ours"] is not None
    assert one(record, "Table 3", "nnU-Net 3D model", "IoU")["ours"] is not None
    empty = one(record, "Table 1", "DeepMeta / Lungs", "IoU raw")
    assert (empty["ours"], empty["ours_text"], empty["comparable"]) == (None, "–", "no")
    assert "no checkpoint" in empty["why"]


def test_post_processed_columns_are_those_of_the_checkpoints_own_rules(mice):
    data, models, record, _ = mice
    scores = []
    for name in TEST_MICE:
        options = {**RAW, "postprocess": "checkpoint"}
        found = labels_of(data / "Test" / f"{name}.tif", models[0][1], options, GEOMETRY) == 1
        truth = read_volume(data / "Test" / name / "3classes", GEOMETRY, allow_constant=True).array == 1
        pairs = [(a, b) for a, b in zip(found, truth, strict=True)]
        scores.append(np.mean([1 if not (a.any() or b.any()) else dice(a, b) for a, b in pairs]))
    cell = one(record, "Table 1", "U-Net / Lungs", "F1 post-processed")
    assert cell["ours"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert cell["comparable"] == "no" and "--replicate" in cell["why"]


def test_replicating_cleans_the_reference_too(mice):
    data, models, record, _ = mice
    request = Request("kaniewski", data, checkpoints=models[:1], replicate=True)
    other = reproduce(request).record
    cell = ("Table 1", "U-Net / Tumors", "F1 post-processed")
    assert one(other, *cell)["ours"] != one(record, *cell)["ours"]
    assert one(other, *cell)["comparable"] == "yes"
    raw = ("Table 1", "U-Net / Tumors", "F1 raw")
    assert one(other, *raw)["ours"] == one(record, *raw)["ours"]


def test_only_mice_of_the_dark_batch_are_enhanced(tmp_path, monkeypatch):
    from thoraxseg import preprocess

    data = phantom_data.write_cohort("kaniewski", tmp_path / "data")
    models = dict(phantom_data.stand_ins("kaniewski", tmp_path / "models"))
    seen = []
    enhance = preprocess.clahe_slices
    monkeypatch.setattr(preprocess, "clahe_slices", lambda *a: seen.append(1) or enhance(*a))
    for name, times in ((TEST_MICE[0], 2), (TEST_MICE[3], 0)):
        seen.clear()
        reproduce(Request("kaniewski", data, checkpoints=[("DeepMeta", models["DeepMeta"])], cases=[name]))
        assert len(seen) == times  # raw and post-processed


def test_a_mouse_with_a_missing_slice_is_counted_and_the_others_are_scored(mice, tmp_path, capsys):
    import shutil

    data, models, record, _ = mice
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "Test" / TEST_MICE[0] / "3classes" / "7.tif").unlink()
    with pytest.raises(InputError, match=rf"1 of 4 scan\(s\) could not be scored: {TEST_MICE[0]}"):
        run("kaniewski", "--data", tmp_path / "data", "-c", f"u-net={models[0][1]}", "--json")
    found = json.loads(capsys.readouterr().out)
    cell = one(found, "Table 1", "U-Net / Tumors", "IoU raw")
    assert cell["n"] == 3
    assert "1 of 4 scans failed" in cell["why"]
    rows = [row["iou_slice_mean"] for row in record["rows"]
            if (row["model"], row["table"], row["variant"], row["structure"]) == ("U-Net", "Table 1", "raw", "Tumors")
            and row["case"] != TEST_MICE[0]]  # fmt: skip
    assert cell["ours"] == pytest.approx(np.mean(rows), abs=1e-12)
    assert [one["case"] for one in found["failures"]] == [TEST_MICE[0]]
    assert [row["status"] for row in found["rows"]].count("failed") == 4


# --- mouse micro-CT


@pytest.fixture(scope="module")
def scans(world):
    return world("malimban", ("3d_fullres", "2d"))


def truth_of(home, observer=1):
    return read_volume(home / f"observer{observer}" / "contours.nii.gz").array


def surface(mask):
    return np.argwhere(mask & ~binary_erosion(mask)) * 0.56


def test_dice_and_surface_distance_of_the_micro_ct_are_mean_sd_and_median_over_scans(scans):
    data, models, record, _ = scans
    scores, distances = [], []
    for home in sorted((data / "test" / "native").iterdir()):
        found, truth = labels_of(home / "ct.nii.gz", models[0][1]) == 1, truth_of(home) == 1
        scores.append(dice(found, truth))
        a, b = surface(found), surface(truth)
        to, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
        distances.append((to.mean() + back.mean()) / 2)
    for title, values in (("DSC", scores), ("MSD (mm)", distances)):
        cell = one(record, "Table 1", "Heart / 3d_fullres", f"{title} mean ± SD")
        assert (cell["ours"], cell["ours_sd"]) == pytest.approx(mean_sd(values), rel=1e-6)
        median = one(record, "Table 1", "Heart / 3d_fullres", f"{title} median")
        assert median["ours"] == pytest.approx(np.median(values), rel=1e-6)
        assert median["n"] == 4


def test_four_scans_cannot_be_significant_and_two_animals_neither(scans):
    cell = one(scans[2], "Table 1", "Heart / 2d", "DSC median")
    assert cell["details"]["p"] == 0.125  # all four differ in one direction: 2 / 2^4
    assert cell["ours_asterisk"] is False
    assert cell["details"]["animals_n"] == 2
    assert cell["details"]["animals_can_be_significant"] is False
    assert one(scans[2], "Table 1", "Heart / 3d_fullres", "DSC median")["ours_asterisk"] is None


def test_conformity_is_that_of_pairs_with_both_lungs_as_one(scans):
    data, models, record, _ = scans
    observed, modeled = [], []
    for home in sorted((data / "test" / "native").iterdir()):
        masks = [truth_of(home, n) >= 3 for n in (1, 2, 3)]
        pairs = [(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        observed.append(sum((a & b).sum() for a, b in pairs) / sum((a | b).sum() for a, b in pairs))
        consensus = sum(mask.astype(int) for mask in masks) >= 2
        found = labels_of(home / "ct.nii.gz", models[0][1]) >= 3
        modeled.append((found & consensus).sum() / (found | consensus).sum())
    for row, values in (("Interobserver variability", observed), ("3d_fullres", modeled)):
        cell = one(record, "Table 3", row, "Total lungs, test set 1")
        assert (cell["ours"], cell["ours_sd"]) == pytest.approx(mean_sd(values), abs=1e-12)


def test_the_cord_has_two_observers_and_their_consensus_is_the_overlap(scans):
    data, _, record, _ = scans
    jaccard = []
    for home in sorted((data / "test" / "contrast").iterdir()):
        one_, two = (truth_of(home, n) == 2 for n in (1, 2))
        jaccard.append((one_ & two).sum() / (one_ | two).sum())
    cell = one(record, "Table 3", "Interobserver variability", "Spinal cord, test set 2")
    assert cell["ours"] == pytest.approx(np.mean(jaccard), abs=1e-12)


def test_the_largest_component_stands_in_parentheses(scans):
    record = scans[2]
    cell = one(record, "Table 1", "Right lung / 2d", "DSC mean ± SD, largest component")
    assert cell["published"] == 0.97
    assert cell["ours"] is not None
    assert cell["ours"] != one(record, "Table 1", "Right lung / 2d", "DSC mean ± SD")["ours"]


def test_seconds_are_never_compared(scans):
    cells = [cell for cell in scans[2]["cells"] if cell["table"] == "Table 4" and cell["ours"] is not None]
    assert len(cells) == 6
    assert all(cell["comparable"] == "no" and "cpu" in cell["why"] for cell in cells)


def test_a_scan_in_which_a_model_finds_nothing_leaves_table_2_for_all(scans, monkeypatch):
    from thoraxseg.reproduce import malimban

    data, models, record, _ = scans
    look_at = malimban.look_at

    def blind(volume, model, *rest):
        look = look_at(volume, model, *rest)
        if model.name == "2d" and volume.name == "ct.nii.gz" and not blind.done:
            look.labels[look.labels == 1] = 0
            blind.done = True
        return look

    blind.done = False
    monkeypatch.setattr(malimban, "look_at", blind)
    cases = [scan["case"] for scan in record["scans"] if scan["set"] == "test set 2"]
    found = reproduce(Request("malimban", data, checkpoints=models, cases=cases)).record
    (note,) = [note for note in found["notes"] if note.startswith("Table 2")]
    assert "1 of 2 scans are left out for all models" in note
    cell = one(found, "Table 2", "Heart / 3d_fullres", "DSC mean ± SD")
    assert cell["n"] == 1
    left = one(found, "Table 2", "Heart / 2d", "DSC mean ± SD")
    assert left["details"]["mean_of_all_scans"] == pytest.approx(left["ours"] / 2)  # the other one counts 0


# --- human CT


@pytest.fixture(scope="module")
def people(world):
    return world("rrc-unet", ("RRc-UNet 3D", "CGPD block"))


def test_tumor_and_three_label_scores_are_those_of_the_voxels(people):
    data, models, record, _ = people
    tumor, three, together = [], [], []
    for path in sorted((data / "imagesTr").iterdir()):
        found = labels_of(path, models[0][1])
        truth = np.choose(read_volume(data / "labelsTr" / path.name).array, [0, 2, 1])
        tumor.append(dice(found == 2, truth == 2))
        three.append(np.mean([dice(found == n, truth == n) for n in (0, 1, 2)]))
        right = np.mean(found == truth)
        together.append(right / (2 - right))
    rrc = "RRc-UNet 3D"
    assert one(record, "Table 4", rrc, "Dice")["ours"] == pytest.approx(np.mean(tumor), abs=1e-12)
    assert one(record, "Table 3", rrc, "Dice")["ours"] == pytest.approx(np.mean(three), abs=1e-12)
    assert one(record, "Table 3", rrc, "IoU")["ours"] == pytest.approx(np.mean(together), abs=1e-12)
    same = ("Dice, tumor", "IoU, 3 labels")
    assert [one(record, "Table 5", "RRc block", column)["ours"] for column in same] == pytest.approx(
        [np.mean(tumor), np.mean(together)], abs=1e-12
    )
    ranges = [cell["ours"] for cell in record["cells"] if cell["column"].startswith("Scans ")]
    assert sum(ranges) == 3


def test_a_block_is_a_row_of_table_5_alone(people):
    rows = {cell["table"] for cell in people[2]["cells"] if cell["row"] == "CGPD block" and cell["ours"]}
    assert rows == {"Table 5"}
    assert all(cell["comparable"] == "no" for cell in people[2]["cells"])


@pytest.fixture(scope="module")
def averaged(world):
    return world("ensemble", ("U-Net with isample", "DeepMedic"))


def test_the_average_of_two_checkpoints_is_that_of_their_probabilities(averaged):
    data, models, record, _ = averaged
    scores = []
    for path in sorted((data / "imagesTr").iterdir()):
        volume = read_volume(path)
        parts = [
            segment(volume, open_checkpoint(model), SegmentOptions(**RAW)).probabilities()
            for _, model in models
        ]
        truth = read_volume(data / "labelsTr" / path.name).array == 1
        scores.append(dice((parts[0] + parts[1]).argmax(axis=0) == 1, truth))
    cell = one(record, "Text", "Average of U-Net with isample and DeepMedic", "Dice")
    assert (cell["ours"], cell["ours_sd"]) == pytest.approx(mean_sd(scores), abs=1e-9)
    sweep = {row["w"]: row["mean_dice"] for row in record["sweep"]["table"]}
    assert len(sweep) == 11
    assert sweep[1.0] == one(record, "Text", "U-Net with isample", "Dice")["ours"]
    assert sweep[0.0] == one(record, "Text", "DeepMedic", "Dice")["ours"]
    assert record["sweep"]["best_w"] == max(sweep, key=sweep.get)


# --- every paper


@pytest.mark.parametrize("paper", PAPERS)
def test_the_phantom_says_loudly_what_it_is_and_needs_no_data(paper, tmp_path, capsys):
    run(paper, "--phantom", "-o", tmp_path / "out")
    screen = capsys.readouterr().out
    assert screen.startswith("PHANTOM")
    assert "  paper  " in screen and "  ours   " in screen
    record = json.loads((tmp_path / "out" / "reproduce.json").read_text("utf-8"))
    assert record["phantom"] and record["failures"] == []
    filled = [cell for cell in record["cells"] if cell["ours"] is not None]
    assert filled and not [cell for cell in filled if cell["comparable"] == "yes"]
    with (tmp_path / "out" / "reproduce.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(record["cells"])
    for row, cell in zip(rows, record["cells"], strict=True):
        assert row["published_text"].lstrip("'") == cell["published_text"]
        assert row["ours"] == ("" if cell["ours"] is None else repr(cell["ours"]))
        assert all(math.isfinite(float(row[key])) for key in ("ours", "difference") if row[key])
    page = (tmp_path / "out" / "reproduce.html").read_text("utf-8")
    assert "PHANTOM" in page and "What differs from the paper" in page
    with pytest.raises(OutputError, match="nothing is overwritten"):
        run(paper, "--phantom", "-o", tmp_path / "out")


def test_nothing_that_is_wrong_with_the_request_costs_a_scan(tmp_path):
    with pytest.raises(OptionError, match=r"--data DIR.*got 0 of them.*zenodo\.7014776"):
        Request("kaniewski")
    with pytest.raises(OptionError, match="got 2 of them"):
        Request("kaniewski", tmp_path, phantom=True)
    with pytest.raises(
        OptionError, match="rows of the paper are 3d_fullres, 3d_lowres, 3d_cascade, 2d, AIMOS"
    ):
        Request("malimban", tmp_path)
    with pytest.raises(OptionError, match="--replicate"):
        Request("malimban", tmp_path, checkpoints=[("2d", "x")], replicate=True)
    with pytest.raises(OptionError, match="ROW=CHECKPOINT"):
        run("malimban", "--data", tmp_path, "-c", "model.pth")
    with pytest.raises(InputError, match="observer1"):
        reproduce(Request("malimban", tmp_path, checkpoints=[("2d", "x")]))


def test_a_checkpoint_that_finds_nothing_of_the_paper_is_refused(averaged, people):
    tumors = averaged[1][0][1]
    with pytest.raises(OptionError, match="heart, spinal cord"):
        reproduce(Request("malimban", phantom=True, checkpoints=[("2d", tumors)]))
    pairs = [("U-Net", tumors), ("u-net", tumors)]
    with pytest.raises(OptionError, match="given twice"):
        reproduce(Request("ensemble", averaged[0], checkpoints=pairs))
    both = [(row, people[1][0][1]) for row in ("RRc block", "RRc-UNet 3D")]
    with pytest.raises(OptionError, match="one network"):
        reproduce(Request("rrc-unet", people[0], checkpoints=both))


def test_a_lung_map_that_no_checkpoint_takes_is_refused(averaged):
    data, models, _, _ = averaged
    with pytest.raises(OptionError, match="takes a lung map"):
        reproduce(Request("ensemble", data, checkpoints=models, lungs=models[0][1]))


def test_a_row_that_the_paper_does_not_have_stands_below(averaged):
    data, models, record, _ = averaged
    done = reproduce(Request("ensemble", data, checkpoints=[("Ours", models[0][1])], cases=["lung_002"]))
    assert done.tables[0]["rows"][-1][:2] == ["Ours", "ours"]
    assert any("Ours is no row of the paper" in note for note in done.record["notes"])
    cell = one(done.record, "Text", "Ours", "Dice")
    assert cell["n"] == 1
    # Alone it is what the sweep gives it at w = 1.
    swept = {row["case"]: row["dsc"] for row in record["rows"] if row["model"] == models[0][0]}
    assert cell["ours"] == swept["lung_002"]


def test_a_defect_in_one_scan_does_not_cost_the_others(averaged, monkeypatch):
    data, models, _, _ = averaged
    from thoraxseg.reproduce import ensemble

    look_at = ensemble.look_at

    def sometimes(volume, *rest):
        if volume.name == "lung_002.nii.gz":
            raise RuntimeError("boom")
        return look_at(volume, *rest)

    monkeypatch.setattr(ensemble, "look_at", sometimes)
    done = reproduce(Request("ensemble", data, checkpoints=models[:1]))
    assert [(one["case"], one["reason"]) for one in done.failures] == [
        ("lung_002", "unexpected RuntimeError: boom")
    ]
    assert one(done.record, "Text", models[0][0], "Dice")["n"] == 2


def test_every_row_that_can_have_a_checkpoint_is_listed():
    assert harness.rows_of("kaniewski")[:4] == ["U-Net", "U-Net3+", "DeepMeta", "2D nnU-Net"]
    assert "Interobserver variability" not in harness.rows_of("malimban")


def test_nnunet_sees_enhanced_slices_of_dark_mice_and_gets_the_papers_clean_up(mice, tmp_path, monkeypatch):
    from Testing import tiny_models as tiny
    from thoraxseg.preprocess import clahe_slices
    from thoraxseg.reproduce import kaniewski
    from thoraxseg.reproduce.running import Look

    data = mice[0]
    model = tiny.v2_model(tmp_path, labels={"background": 0, "lung": 1, "tumor": 2})
    seen, cleaned = [], []
    clean = kaniewski.cleaned

    def look_at(volume, *rest):
        seen.append(volume.array)
        return Look(np.zeros(volume.shape, np.uint8), {}, "cpu", ())

    monkeypatch.setattr(kaniewski, "look_at", look_at)
    monkeypatch.setattr(kaniewski, "cleaned", lambda *a: cleaned.append(1) or clean(*a))
    for name, replicate, enhanced in (
        (TEST_MICE[0], False, True), (TEST_MICE[0], True, False), (TEST_MICE[3], False, False),
    ):  # fmt: skip
        seen.clear()
        cleaned.clear()
        pairs = [("2D nnU-Net", str(model))]
        reproduce(Request("kaniewski", data, checkpoints=pairs, cases=[name], replicate=replicate))
        raw = read_volume(data / "Test" / f"{name}.tif", GEOMETRY).array
        wanted = np.rint(255 * clahe_slices(raw / raw.max(), 0.03)) if enhanced else raw
        (shown,) = seen  # one look for both columns
        assert np.abs(shown - wanted).max() <= enhanced  # rounding
        assert len(cleaned) == (2 if replicate else 1)
