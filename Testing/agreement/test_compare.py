"""`compare` on pairs with answers known on paper: the numbers, their names, and what is said of missing ones."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from Testing.agreement.making import (
    SHAPE,
    box,
    points,
    read_csv,
    record_of,
    refused,
    write_map,
    write_segments,
)
from thoraxseg.cli import main
from thoraxseg.volume import reorient

NAMES = {
    *("name", "label", "dsc", "iou", "precision", "recall", "msd_mm", "hd95_mm", "hd_mm", "assd_pooled_mm"),
    *("hd95_pooled_mm", "volume_reference_mm3", "volume_prediction_mm3", "f1_slice_mean", "iou_slice_mean"),
    *("f1_slice_positive_mean", "iou_slice_positive_mean", "undefined"),
}
"""Names that other programs read."""
DISTANCES = ("msd_mm", "hd95_mm", "hd_mm", "assd_pooled_mm", "hd95_pooled_mm")


@pytest.fixture
def compared(tmp_path, capsys):
    """Compare two label maps, or two files, and return the record."""

    def run(reference, prediction, *words, spacing=(1.0, 1.0, 1.0), status=0):
        paths = []
        for name, one in (("reference", reference), ("prediction", prediction)):
            if isinstance(one, np.ndarray):
                one = write_map(tmp_path / f"{name}.nrrd", one, spacing)
            paths.append(one)
        return record_of(capsys, "compare", "-r", paths[0], "-p", paths[1], *words, status=status)

    return run


def test_the_record_has_the_names_that_other_programs_read(compared):
    record = compared(box((2, 4, 4), (8, 10, 10)), box((2, 4, 6), (8, 10, 10)))
    assert {"definitions", "structures", "inputs", "options", "notes", "warnings", "versions"} <= set(record)
    (row,) = record["structures"]
    assert set(row) >= NAMES
    assert set(row) <= set(record["definitions"])
    assert (row["name"], row["label"], row["undefined"]) == ("label 1", 1, {})
    assert [one["role"] for one in record["inputs"]] == ["reference", "prediction"]


def test_a_cube_shifted_by_two_of_its_ten_voxels(compared):
    (row,) = compared(box((2, 4, 4), (8, 10, 10)), box((2, 4, 6), (8, 10, 10)))["structures"]
    assert (row["dsc"], row["iou"], row["precision"], row["recall"]) == (0.8, 2 / 3, 0.8, 0.8)
    assert row["hd_mm"] == 2
    assert row["f1_slice_positive_mean"] == pytest.approx(0.8)
    assert row["f1_slice_mean"] == pytest.approx((8 * 0.8 + 6) / 14)


def test_a_cube_within_a_cube_is_one_voxel_away_on_all_sides(compared):
    (row,) = compared(box((2, 2, 2), (10, 10, 10)), box((3, 3, 3), (8, 8, 8)))["structures"]
    outward = (384 + 96 * sqrt(2) + 8 * sqrt(3)) / 488
    assert row["dsc"] == pytest.approx(2 * 512 / 1512)
    assert row["msd_mm"] == pytest.approx((1 + outward) / 2)
    assert row["hd95_mm"] == pytest.approx(sqrt(2))
    assert row["hd_mm"] == pytest.approx(sqrt(3))
    assert row["assd_pooled_mm"] == pytest.approx((488 * outward + 296) / (488 + 296))


def test_two_voxels_three_and_four_apart_are_five_apart(compared):
    (row,) = compared(points((1, 2, 2)), points((4, 6, 2)))["structures"]
    assert row["dsc"] == 0
    assert [row[key] for key in DISTANCES] == [5] * 5


def test_spacing_counts_on_every_axis_and_in_volumes(compared):
    spacing = (1.0, 0.5, 0.25)
    record = compared(points((1, 2, 2)), points((4, 10, 2)), spacing=spacing)
    assert [record["structures"][0][key] for key in DISTANCES] == [5] * 5
    record = compared(points((1, 2, 2)), points((1, 2, 14)), spacing=spacing)
    assert record["structures"][0]["hd_mm"] == 3
    assert record["structures"][0]["volume_reference_mm3"] == pytest.approx(0.125)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -10, 15)], ids=["straight", "oblique"])
def test_order_and_direction_of_axes_change_no_answer_and_are_noted(
    codes, degrees, compared, a_geometry, tmp_path
):
    grid = a_geometry("LPS", (2.0, 1.0, 0.5), degrees, (3.0, -2.0, 7.0))
    reference = box((2, 4, 4), (8, 10, 10)) + box((1, 1, 1), (2, 2, 2), label=2)
    prediction = box((2, 4, 6), (8, 10, 10)) + box((1, 1, 2), (2, 2, 2), label=2)
    want = compared(
        write_map(tmp_path / "r.nrrd", reference, matrix=grid),
        write_map(tmp_path / "p.nrrd", prediction, matrix=grid),
    )
    turned, matrix = reorient(prediction, grid, codes)
    other = write_map(tmp_path / "turned.nrrd", np.ascontiguousarray(turned), matrix=matrix)
    record = compared(tmp_path / "r.nrrd", other)
    assert record["structures"] == want["structures"]
    said = "turned.nrrd: its axes were put in the order of r.nrrd; no voxel changed."
    assert record["notes"] == ([] if codes == "LPS" else [said])


def test_a_map_that_was_mirrored_without_saying_so_is_not_mirrored_back(compared, tmp_path):
    lungs = box((2, 2, 2), (4, 4, 4), 1) + box((2, 2, 12), (4, 4, 4), 2)
    names = {1: "right lung", 2: "left lung"}
    reference = write_segments(tmp_path / "r.seg.nrrd", lungs, names)
    mirrored = write_segments(tmp_path / "p.seg.nrrd", np.ascontiguousarray(lungs[..., ::-1]), names)
    assert [row["dsc"] for row in compared(reference, mirrored)["structures"]] == [0, 0]


# Empty masks


def test_two_empty_maps_agree_and_distances_have_a_reason(compared):
    empty = np.zeros(SHAPE, np.uint8)
    record = compared(empty, empty)
    (row,) = record["structures"]
    assert (row["dsc"], row["iou"], row["f1_slice_mean"]) == (1, 1, 1)
    for key in (*DISTANCES, "precision", "recall", "f1_slice_positive_mean"):
        assert row[key] is None
        assert "empty" in row["undefined"][key] or "no slice" in row["undefined"][key]
    assert row["flags"]


def test_two_empty_maps_are_undefined_where_that_is_asked_for(compared):
    empty = np.zeros(SHAPE, np.uint8)
    (row,) = compared(empty, empty, "--empty-both", "undefined")["structures"]
    assert row["dsc"] is None
    assert row["undefined"]["dsc"] == "both masks are empty"


@pytest.mark.parametrize("side", ["reference", "prediction"])
def test_one_empty_map_scores_0_without_distances_and_is_warned_of(side, compared):
    full, empty = box((2, 4, 4), (8, 10, 10)), np.zeros(SHAPE, np.uint8)
    record = compared(*((empty, full) if side == "reference" else (full, empty)))
    (row,) = record["structures"]
    assert (row["dsc"], row["iou"]) == (0, 0)
    assert all(row[key] is None and row["undefined"][key] == f"the {side} is empty" for key in DISTANCES)
    assert record["warnings"] == [f"label 1: the {side} has no voxel of it; it counts as an empty mask."]


def test_a_structure_that_one_side_lacks_is_measured_and_warned_of(compared):
    record = compared(box((2, 4, 4), (8, 4, 4)) + box((2, 12, 12), (4, 4, 4), 2), box((2, 4, 4), (8, 4, 4)))
    assert [row["dsc"] for row in record["structures"]] == [1, 0]
    assert "label 2: the prediction has no voxel of it" in record["warnings"][0]


# Options


def test_the_tolerance_of_the_surface_dice_is_the_one_asked_for(compared):
    pair = points((1, 2, 2)), points((4, 6, 2))
    assert compared(*pair)["structures"][0]["nsd"] == 0
    assert compared(*pair, "--tolerance", "5")["structures"][0]["nsd"] == 1


def test_slices_are_those_of_the_axis_asked_for(compared):
    pair = box((2, 4, 4), (8, 10, 5)), box((2, 4, 4), (8, 10, 5))
    assert [
        compared(*pair, "--slice-axis", axis)["structures"][0]["slices_with_reference"] for axis in "kji"
    ] == [8, 10, 5]


def test_lesions_of_tumors_are_matched_and_those_of_other_structures_on_request(compared):
    reference = box((1, 1, 1), (3, 3, 3)) + box((8, 10, 10), (2, 2, 2))
    prediction = box((1, 1, 1), (3, 3, 3))
    assert compared(reference, prediction)["structures"][0]["lesions"] is None
    by_name = compared(reference, prediction, "--labels", "1=tumors")["structures"][0]["lesions"]
    by_value = compared(reference, prediction, "--lesions", "1")["structures"][0]["lesions"]
    assert by_name == by_value
    assert (by_name["reference_lesions"], by_name["matched"], by_name["missed"]) == (2, 1, 1)


def test_the_same_file_twice_is_said(compared, tmp_path):
    path = write_map(tmp_path / "a.nrrd", box((2, 4, 4), (8, 10, 10)))
    assert "have the same content" in compared(path, path)["warnings"][0]


# Bad input


def bad(kind, folder):
    """Return a file that is no label map of the shape of the others."""
    if kind == "probabilities":
        return write_map(folder / "bad.nrrd", np.full(SHAPE, 0.5, np.float32))
    if kind == "negative labels":
        return write_map(folder / "bad.nrrd", np.full(SHAPE, -1, np.int16))
    if kind == "an image":
        values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        return write_map(folder / "bad.nrrd", values)
    if kind == "four dimensions":
        import SimpleITK

        image = SimpleITK.GetImageFromArray(np.zeros((2, *SHAPE), np.uint8), isVector=False)
        SimpleITK.WriteImage(image, str(folder / "bad.nii.gz"))
        return folder / "bad.nii.gz"
    if kind == "no file":
        return folder / "bad.nrrd"
    (folder / "bad.nrrd").write_text("case,animal\n")
    return folder / "bad.nrrd"


@pytest.mark.parametrize(
    "kind", ["probabilities", "negative labels", "an image", "four dimensions", "no file", "text"]
)
def test_what_is_no_label_map_is_refused_by_name(kind, tmp_path, capsys):
    good = write_map(tmp_path / "good.nrrd", box((2, 4, 4), (8, 10, 10)))
    path = bad(kind, tmp_path)
    for pair in ((good, path), (path, good)):
        assert path.name in refused(capsys, "compare", "-r", pair[0], "-p", pair[1])


def test_stacks_without_spacing_need_one_and_get_it(tmp_path, capsys):
    import tifffile

    for name, at in (("r", (1, 2, 2)), ("p", (4, 10, 2))):
        tifffile.imwrite(tmp_path / f"{name}.tif", points(at))
    words = ("compare", "-r", tmp_path / "r.tif", "-p", tmp_path / "p.tif")
    assert "--spacing" in refused(capsys, *words)
    record = record_of(capsys, *words, "--spacing", "1,0.5,0.25")
    assert record["structures"][0]["hd_mm"] == 5
    assert any("were assumed (from --spacing)" in note for note in record["notes"])


def test_a_spacing_for_files_that_state_theirs_is_refused(tmp_path, capsys):
    path = write_map(tmp_path / "r.nrrd", points((1, 2, 2)))
    assert "--spacing is for stacks" in refused(capsys, "compare", "-r", path, "-p", path, "--spacing", "2")


# Files


def test_the_table_holds_every_number_of_the_record(tmp_path, capsys):
    reference = write_map(tmp_path / "r.nrrd", box((2, 4, 4), (8, 10, 10)) + points((0, 0, 0), label=2))
    prediction = write_map(tmp_path / "p.nrrd", box((2, 4, 6), (8, 10, 10)))
    assert main(["compare", "-r", str(reference), "-p", str(prediction), "-o", str(tmp_path / "out")]) == 0
    one, two = read_csv(tmp_path / "out" / "compare.csv")
    assert float(one["dsc"]) == 0.8
    assert (two["name"], two["msd_mm"]) == ("label 2", "")
    assert "undefined: the prediction is empty" in two["remarks"]
