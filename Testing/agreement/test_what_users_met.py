"""What people met in their own data: noise of a file format, halves of an organ, swapped sides, names beyond ASCII."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from Testing.agreement.making import (
    box,
    points,
    read_csv,
    record_of,
    refused,
    write_map,
    write_segments,
    write_table,
)
from thoraxseg.cli import main
from thoraxseg.io import read_segmentation
from thoraxseg.volume import geometry_from_spacing

HEART = box((2, 5, 2), (4, 4, 4))
RIGHT, LEFT = box((2, 5, 8), (4, 4, 4), label=2), box((2, 5, 14), (4, 4, 4), label=3)
ORGANS = {1: "Heart", 2: "Right lung", 3: "Left lung"}
TURN = np.array([[0.6, -0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def write_nifti(path, labels, matrix):
    image = nibabel.Nifti1Image(np.ascontiguousarray(labels.T), matrix)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def test_the_32_bits_of_a_nifti_header_do_not_decide_what_lies_within_a_tolerance(tmp_path, capsys):
    spacing = (0.28, 0.14, 0.14)
    shifted = box((2, 6, 2), (4, 4, 4))
    scores = []
    for name, turn in (("plain", np.eye(4)), ("turned", TURN)):
        matrix = turn @ geometry_from_spacing(spacing, "LPS")
        one = write_nifti(tmp_path / f"{name}_r.nii.gz", HEART, matrix)
        other = write_nifti(tmp_path / f"{name}_p.nii.gz", shifted, matrix)
        record = record_of(capsys, "compare", "-r", one, "-p", other, "--tolerance", "0.14")
        scores.append(record["structures"][0])
    one = write_map(tmp_path / "r.nrrd", HEART, spacing)
    other = write_map(tmp_path / "p.nrrd", shifted, spacing)
    scores.append(
        record_of(capsys, "compare", "-r", one, "-p", other, "--tolerance", "0.14")["structures"][0]
    )
    assert [row["nsd"] for row in scores] == [1, 1, 1]  # a shift by one voxel of 0.14 mm: all within
    assert {row["hd95_mm"] for row in scores} == {0.14}
    volume = pytest.approx(64 * 0.28 * 0.14 * 0.14, rel=1e-12)
    assert all(row["volume_reference_mm3"] == volume for row in scores)


def test_ties_between_scans_do_not_depend_on_the_format_of_their_files(tmp_path, capsys):
    """Nine differences of 0.14 mm in HD95, seven for and two against: p = 0.1797, whatever the files."""
    rows = []
    for n in range(9):
        spacing, folder = (0.14, 0.14, 0.14), tmp_path / f"s{n}"
        folder.mkdir()
        worse, better = (box((2, 5, 2 + shift), (4, 4, 4)) for shift in ((2, 1) if n < 7 else (1, 2)))
        for name, labels in (("r", HEART), ("base", better), ("net", worse)):
            if n % 3:
                write_map(folder / f"{name}.nrrd", labels, spacing)
            else:
                angle = 0.3 * n
                turn = np.eye(4)
                turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
                write_nifti(folder / f"{name}.nii", labels, turn @ geometry_from_spacing(spacing, "LPS"))
        end = "nrrd" if n % 3 else "nii"
        rows.append(f"s{n},m{n},s{n}/r.{end},s{n}/base.{end},s{n}/net.{end}")
    table = write_table(tmp_path / "cohort.csv", "\n".join(["case,animal,reference,base,net", *rows]))
    record = record_of(capsys, "evaluate", table, "--base", "base", "--measure", "hd95_mm")
    (cell,) = (one for one in record["summary"] if one["model"] == "net")
    assert cell["p"] == pytest.approx(0.1796875, abs=1e-12)
    assert not cell["significant"]


def test_swapped_lungs_are_warned_of(tmp_path, capsys):
    one = write_segments(tmp_path / "r.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    other = write_segments(
        tmp_path / "p.seg.nrrd", HEART + RIGHT + LEFT, {1: "Heart", 2: "Left lung", 3: "Right lung"}
    )
    warnings = record_of(capsys, "compare", "-r", one, "-p", other)["warnings"]
    assert any("look swapped in one of the two. 128 voxels" in text for text in warnings)
    assert any("look swapped" in text for text in record_of(capsys, "observers", one, other)["warnings"])
    table = write_table(tmp_path / "c.csv", "case,reference,net\ns1,r.seg.nrrd,p.seg.nrrd")
    assert any("look swapped" in text for text in record_of(capsys, "evaluate", table)["warnings"])


def test_lungs_on_their_own_sides_are_not_warned_of(tmp_path, capsys):
    one = write_segments(tmp_path / "r.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    other = write_segments(tmp_path / "p.seg.nrrd", HEART + RIGHT, ORGANS)
    warnings = record_of(capsys, "compare", "-r", one, "-p", other)["warnings"]
    assert not any("swapped" in text for text in warnings)


def test_half_of_a_merged_organ_is_warned_of(tmp_path, capsys):
    one = write_segments(tmp_path / "r.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    other = write_segments(tmp_path / "p.seg.nrrd", HEART + RIGHT, {1: "Heart", 2: "Right lung"})
    merge = ("--merge", "lungs=right lung+left lung")
    warnings = record_of(capsys, "compare", "-r", one, "-p", other, *merge)["warnings"]
    assert "lungs: prediction has no left lung, so it is only a part of it there." in warnings


def test_lungs_as_one_here_and_two_there_get_a_hint_and_keep_their_voxels_apart(tmp_path):
    write_segments(tmp_path / "anna.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    write_segments(tmp_path / "chris.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    both = HEART + np.where(RIGHT + LEFT > 0, 2, 0).astype(np.uint8)
    write_segments(tmp_path / "ben.seg.nrrd", both, {1: "Heart", 2: "Lungs"})
    files = [str(tmp_path / f"{name}.seg.nrrd") for name in ("anna", "ben", "chris")]
    assert main(["observers", *files, "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "observers.json").read_text("utf-8")
    assert "--merge 'lungs=right lung+left lung' takes them together" in text
    found = read_segmentation(tmp_path / "out" / "consensus_majority.seg.nrrd")
    counts = {found.structures[value].name: count for value, count in found.voxel_counts().items()}
    # One observer's lungs are no consensus: they take no voxel from what two agree on.
    assert (counts["Right lung"], counts["Left lung"], counts["Lungs"]) == (64, 64, 0)


def test_labels_that_name_nothing_in_the_files_are_refused_instead_of_agreeing_perfectly(tmp_path, capsys):
    one, other = (write_map(tmp_path / name, HEART) for name in ("r.nrrd", "p.nrrd"))
    text = refused(capsys, "compare", "-r", one, "-p", other, "--labels", "5=heart")
    assert "names none of the labels that the files have (1)" in text
    record = record_of(capsys, "compare", "-r", one, "-p", other, "--labels", "1=heart,5=cord")
    assert "Spinal cord: --labels names it, but no file has a voxel of it." in record["warnings"]


def test_lesions_of_a_structure_that_is_not_there_are_said(tmp_path, capsys):
    one, other = (write_map(tmp_path / name, HEART) for name in ("r.nrrd", "p.nrrd"))
    words = ("compare", "-r", one, "-p", other, "--lesions")
    assert (
        "--lesions kidney: no structure of this name was compared."
        in record_of(capsys, *words, "kidney")["warnings"]
    )
    assert record_of(capsys, *words, "1")["structures"][0]["lesions"]["matched"] == 1


def test_an_organ_that_the_reference_lacks_is_no_error_of_a_model(tmp_path, capsys):
    """Two scans of two have a heart, one has lungs: the model is judged where the reference has them."""
    write_segments(tmp_path / "full.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    write_segments(tmp_path / "heart.seg.nrrd", HEART, {1: "Heart"})
    table = write_table(
        tmp_path / "c.csv",
        """case,animal,reference,net
        s1,m1,full.seg.nrrd,full.seg.nrrd
        s2,m2,heart.seg.nrrd,full.seg.nrrd""",
    )
    record = record_of(capsys, "evaluate", table)
    lungs = {cell["measure"]: cell for cell in record["summary"] if cell["structure"] == "right_lung"}
    assert (lungs["dsc"]["mean"], lungs["dsc"]["n"], lungs["dsc"]["n_missing"]) == (1, 1, 1)
    assert any(
        "Right lung: the reference has none, taken as not contoured" in text for text in record["warnings"]
    )
    as_empty = record_of(capsys, "evaluate", table, "--absent", "empty")
    (cell,) = (c for c in as_empty["summary"] if (c["structure"], c["measure"]) == ("right_lung", "dsc"))
    assert (cell["mean"], cell["n"]) == (0.5, 2)


def test_a_healthy_reference_counts_against_a_model_that_finds_a_tumor(tmp_path, capsys):
    write_map(tmp_path / "r.nrrd", HEART)
    write_map(tmp_path / "p.nrrd", HEART + points((10, 10, 10), label=2))
    table = write_table(tmp_path / "c.csv", "case,reference,net\ns1,r.nrrd,p.nrrd")
    record = record_of(capsys, "evaluate", table, "--labels", "1=heart,2=tumors")
    (cell,) = (c for c in record["summary"] if (c["structure"], c["measure"]) == ("tumors", "dsc"))
    assert (cell["mean"], cell["n"]) == (0, 1)


def test_a_bad_file_of_a_model_keeps_the_observers_of_the_scan(tmp_path, capsys):
    for name, shift in (("a", 0), ("b", 2), ("c", 4)):
        write_map(tmp_path / f"{name}.nrrd", box((2, 5, 4 + shift), (10, 10, 10)))
    write_map(tmp_path / "coarse.nrrd", HEART, (2.0, 2.0, 2.0))
    table = write_table(
        tmp_path / "study.csv",
        """case,anna,ben,chris,net,aimos
        s1,a.nrrd,b.nrrd,c.nrrd,b.nrrd,b.nrrd
        s2,a.nrrd,b.nrrd,c.nrrd,coarse.nrrd,a.nrrd""",
    )
    words = ("observers", table, "--model", "net", "--model", "aimos")
    record = record_of(capsys, *words, status=3)
    (row,) = record["structures"]
    assert (row["cigen_n"], row["models"]["net"]["cigen_n"], row["models"]["aimos"]["cigen_n"]) == (2, 1, 2)
    (failure,) = record["failures"]
    assert (failure["case"], failure["model"]) == ("s2", "net") and "coarse.nrrd" in failure["reason"]
    assert main([*map(str, words), "-o", str(tmp_path / "out")]) == 3
    scores = read_csv(tmp_path / "out" / "observers_models.csv")
    assert [(one["case"], one["model"]) for one in scores] == [
        ("s1", "net"),
        ("s1", "aimos"),
        ("s2", "aimos"),
    ]
    assert float(scores[0]["cigen"]) == 1  # b is the majority of the three
    alone = read_csv(tmp_path / "out" / "observers_without_each.csv")
    assert len(alone) == 6 and float(alone[1]["cigen"]) == pytest.approx(11 / 19)


def test_models_whose_names_differ_in_letters_beyond_ascii_keep_their_own_figures(tmp_path):
    for name, shift in (("r", 0), ("p", 1), ("q", 2)):
        write_map(tmp_path / f"{name}.nrrd", box((2, 5, 4 + shift), (10, 10, 10)))
    head = "case,reference,Größe,Grüße"
    table = write_table(tmp_path / "c.csv", f"{head}\ns1,r.nrrd,p.nrrd,q.nrrd\ns2,r.nrrd,q.nrrd,p.nrrd")
    assert main(["evaluate", str(table), "-o", str(tmp_path / "out")]) == 0
    figures = sorted(path.name for path in (tmp_path / "out").glob("*bland_altman*.svg"))
    assert len(figures) == 2
    texts = [(tmp_path / "out" / name).read_text("utf-8") for name in figures]
    assert ["Größe" in texts[0], "Grüße" in texts[0], "Größe" in texts[1], "Grüße" in texts[1]] in (
        [True, False, False, True],
        [False, True, True, False],
    )


def test_a_table_of_a_german_spreadsheet_is_read_with_its_decimal_commas(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("Scan;Animal;a;b\ns1;m1;0,91;0,90\ns2;m2;0,80;0,85\n", encoding="utf-8-sig")
    record = record_of(capsys, "stats", table)
    assert (record["mean_a"], record["mean_b"]) == (pytest.approx(0.855), pytest.approx(0.875))
    table.write_text("scan,a,b\ns1,1,2\n".replace("1,2", '"0,91",2'), encoding="utf-8")
    assert "0.95 (with a point)" in refused(capsys, "stats", table)
    table.write_bytes("scan;a;b\nMäuse;1;2\n".encode("cp1252"))
    assert "save it as 'CSV UTF-8'" in refused(capsys, "stats", table)


def test_one_remark_on_many_files_is_said_once(tmp_path, capsys):
    rows = []
    for n in range(4):
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(HEART.T), np.eye(4)), tmp_path / f"r{n}.nii")
        rows.append(f"s{n},r{n}.nii,r{n}.nii")
    table = write_table(tmp_path / "c.csv", "\n".join(["case,reference,net", *rows]))
    notes = [note for note in record_of(capsys, "evaluate", table)["notes"] if "no unit of length" in note]
    assert len(notes) == 1 and "(4 times: s0, net, s1, net, s2, net, s3, net)" in notes[0]


def test_segments_that_overlap_are_refused_in_the_words_of_slicer(tmp_path, capsys):
    import nrrd

    layers = np.stack([HEART, (RIGHT > 0).astype(np.uint8)])
    header = {
        "space": "left-posterior-superior",
        "space directions": [[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "space origin": [0, 0, 0],
        "kinds": ["list", "domain", "domain", "domain"],
        **{f"Segment{n}_{key}": value for n in (0, 1) for key, value in (("ID", f"s{n}"), ("Name", f"n{n}"))},
        **{
            f"Segment{n}_{key}": value
            for n in (0, 1)
            for key, value in (("LabelValue", "1"), ("Layer", str(n)))
        },
    }
    nrrd.write(str(tmp_path / "two.seg.nrrd"), layers.transpose(0, 3, 2, 1), header)
    one = write_map(tmp_path / "r.nrrd", HEART)
    text = refused(capsys, "compare", "-r", one, "-p", tmp_path / "two.seg.nrrd")
    assert "segments that do not overlap" in text and "2 layers" in text and "Segment Editor" in text


def test_a_cropped_segmentation_is_put_in_its_place_voxel_for_voxel(tmp_path, capsys):
    one = write_map(tmp_path / "full.nrrd", HEART)
    matrix = geometry_from_spacing((1.0, 1.0, 1.0), "LPS")
    matrix[:3, 3] += matrix[:3, :3] @ [1, 4, 1]
    other = write_map(tmp_path / "crop.nrrd", HEART[1:8, 4:12, 1:9], matrix=matrix)
    assert "--resample puts it in its place" in refused(capsys, "compare", "-r", one, "-p", other)
    assert record_of(capsys, "compare", "-r", one, "-p", other, "--resample")["structures"][0]["dsc"] == 1


def test_labels_beyond_32_bits_are_refused_instead_of_agreeing_perfectly(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", HEART.astype(np.uint32) * 3_000_000_000)
    other = write_map(tmp_path / "p.nrrd", RIGHT.astype(np.uint32) // 2 * 3_000_000_000)
    assert "expected labels from 0 to 2,147,483,647" in refused(capsys, "compare", "-r", one, "-p", other)
    as_float = write_map(tmp_path / "f.nrrd", HEART.astype(np.float64) * 3e9)
    assert "expected labels from 0 to 2,147,483,647" in refused(
        capsys, "compare", "-r", as_float, "-p", other
    )
    words = ("compare", "-r", one, "-p", other, "--labels", "99999999999999999999=x")
    assert "expected whole numbers from 1 up" in refused(capsys, *words, status=2)


def test_large_labels_that_fit_keep_their_number_and_their_voxels(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", HEART.astype(np.int32) * 2_000_000_000)
    record = record_of(capsys, "compare", "-r", one, "-p", one)
    assert [(row["label"], row["dsc"], row["voxels_both"]) for row in record["structures"]] == [
        (2_000_000_000, 1, 64)
    ]


def test_two_values_of_one_name_are_one_structure_also_against_a_file_that_names_nothing(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", RIGHT // 2 + (LEFT // 3) * 2)
    other = write_map(tmp_path / "p.nrrd", RIGHT // 2 + (LEFT // 3) * 2)
    record = record_of(capsys, "compare", "-r", one, "-p", other, "--labels", "reference:1=lungs,2=lungs")
    assert [(row["name"], row["dsc"], row["voxels_both"]) for row in record["structures"]] == [
        ("Lungs", 1, 128)
    ]


def test_a_structure_cannot_become_part_of_two(tmp_path, capsys):
    one = write_segments(tmp_path / "r.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    for merges in (
        ("a=heart+right lung", "b=right lung+left lung"),
        ("lungs=right lung+left lung", "t=lungs+heart"),
    ):
        words = [word for text in merges for word in ("--merge", text)]
        assert "stands in more than one" in refused(capsys, "compare", "-r", one, "-p", one, *words, status=2)


def test_a_number_in_merge_means_no_segment_that_has_a_name(tmp_path, capsys):
    one = write_segments(
        tmp_path / "r.seg.nrrd", RIGHT // 2 + (LEFT // 3) * 2, {1: "Right lung", 2: "Left lung"}
    )
    other = write_segments(tmp_path / "p.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    text = refused(capsys, "compare", "-r", one, "-p", other, "--merge", "lungs=1+2")
    assert "none of 1, 2 is in the masks" in text


def test_a_failed_answer_is_no_zero_for_an_organ_that_the_reference_lacks(tmp_path, capsys):
    write_segments(tmp_path / "full.seg.nrrd", HEART + RIGHT + LEFT, ORGANS)
    write_segments(tmp_path / "heart.seg.nrrd", HEART, {1: "Heart"})
    table = write_table(
        tmp_path / "c.csv",
        """case,animal,reference,net,aimos
        s1,m1,full.seg.nrrd,full.seg.nrrd,full.seg.nrrd
        s2,m2,heart.seg.nrrd,failed,full.seg.nrrd""",
    )
    record = record_of(capsys, "evaluate", table)
    cells = {(c["structure"], c["model"]): c for c in record["summary"] if c["measure"] == "dsc"}
    assert (cells["right_lung", "net"]["n_failed"], cells["right_lung", "net"]["n_missing"]) == (0, 1)
    assert cells["right_lung", "net"]["mean_with_failed"] == 1
    assert (cells["heart", "net"]["n_failed"], cells["heart", "net"]["mean_with_failed"]) == (1, 0.5)
    assert not any("no file has it" in note for note in record["notes"])


def test_a_measure_or_a_model_asked_for_twice_counts_once(tmp_path, capsys):
    for name, shift in (("r", 0), ("p", 1), ("q", 2)):
        write_map(tmp_path / f"{name}.nrrd", box((2, 5, 4 + shift), (10, 10, 10)))
    rows = "\n".join(f"s{n},r.nrrd,p.nrrd,q.nrrd" for n in range(6))
    table = write_table(tmp_path / "c.csv", f"case,reference,a,b\n{rows}")
    record = record_of(capsys, "evaluate", table, "--base", "a", "--measure", "dsc", "--measure", "dsc")
    (cell,) = (c for c in record["summary"] if c["model"] == "b")
    assert cell["p"] == cell["p_holm"] == cell["p_with_failed"] == 2 / 2**6
    study = write_table(tmp_path / "s.csv", "case,anna,ben,net\ns1,r.nrrd,p.nrrd,q.nrrd")
    words = ["observers", str(study), "--model", "net", "--model", "net", "-o", str(tmp_path / "out")]
    assert main(words) == 0


def test_means_over_slices_bring_what_must_be_read_beside_them(tmp_path, capsys):
    write_map(tmp_path / "r.nrrd", HEART)
    table = write_table(tmp_path / "c.csv", "case,reference,net\ns1,r.nrrd,r.nrrd")
    record = record_of(capsys, "evaluate", table, "--measure", "f1_slice_mean")
    found = {cell["measure"]: cell["mean"] for cell in record["summary"]}
    assert found == {
        "f1_slice_mean": 1,
        "f1_slice_positive_mean": 1,
        "slice_share_without_reference": 10 / 14,
    }


def test_every_dash_of_a_table_has_its_reason_beside_it(tmp_path):
    write_map(tmp_path / "r.nrrd", 0 * HEART)
    write_map(tmp_path / "p.nrrd", HEART)
    words = ["compare", "-r", str(tmp_path / "r.nrrd"), "-p", str(tmp_path / "p.nrrd"), "--lesions", "1"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    for keys in (
        "volume_difference_percent",
        "f1_slice_positive_mean, iou_slice_positive_mean",
        "mean_dice_matched",
        "recall, mean_dice_reference",
    ):
        assert f"{keys} undefined: " in page, keys


def test_staple_of_a_table_is_not_dropped_without_a_word(tmp_path, capsys):
    write_map(tmp_path / "r.nrrd", HEART)
    study = write_table(tmp_path / "s.csv", "case,anna,ben\ns1,r.nrrd,r.nrrd")
    assert "give --write-masks, too" in refused(capsys, "observers", study, "--staple", status=2)
