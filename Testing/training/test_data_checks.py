"""A data set is looked through before anything is trained: broken cases are named, skipped on request, counted."""

import pytest

from Testing.training import tiny_data as tiny
from thoraxseg.errors import InputError
from thoraxseg.progress import Cancelled
from thoraxseg.training.data import check_data_set, read_data_set


def a_set(root, **changes):
    return tiny.nnunet(root, ("a", "b", "c"), **changes)


def corrupt(root):
    path = root / "imagesTr" / "b_0000.nrrd"
    path.write_bytes(path.read_bytes()[:-20])


def remove_label(root):
    (root / "labelsTr" / "b.nrrd").unlink()


def remove_image(root):
    (root / "imagesTr" / "b_0000.nrrd").unlink()


def other_shape(root):
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.labels(1, 2, shape=(5, 6, 8)))


def other_place(root):
    moved = tiny.GRID.copy()
    moved[0, 3] += 0.2
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.labels(1, 2), moved)


def other_value(root):
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.labels(1, 2, 3))


def an_image(root):
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.image(5) - 5000)


def no_contrast(root):
    tiny.write(root / "imagesTr" / "b_0000.nrrd", tiny.image() * 0)


BROKEN = {
    "corrupt image": (corrupt, "b_0000.nrrd"),
    "no label": (remove_label, "there is none of this name"),
    "no image": (remove_image, "there is none of this name"),
    "labels of another shape": (other_shape, r"expected labels on the grid of b_0000.nrrd, \(5, 6, 7\)"),
    "labels elsewhere": (other_place, "0.5 voxels beside them"),
    "value that is in no table": (other_value, r"\(1, 2\), got also 3"),
    "image for labels": (an_image, "expected labels from 0"),
    "constant image": (no_contrast, "all 210 voxels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_case_among_many_is_named_skipped_on_request_and_counted(tmp_path, kind):
    spoil, sentence = BROKEN[kind]
    root = a_set(tmp_path)
    spoil(root)
    data = read_data_set(root, animals="case")
    with pytest.raises(InputError, match=f"1 of 3 cases cannot be used: b.*--skip-broken.*{sentence}"):
        check_data_set(data)
    checked = check_data_set(data, skip_broken=True)
    assert [case.id for case in checked.data.cases] == ["a", "c"] and [*checked.broken] == ["b"]
    assert "1 of 3 cases are broken and were left out: b." in checked.data.notes
    assert [bool(row["problem"]) for row in checked.rows] == [False, True, False]


def test_channels_on_different_grids_are_a_broken_case(tmp_path):
    root = a_set(tmp_path, channels=2)
    tiny.write(root / "imagesTr" / "a_0001.nrrd", tiny.image(1, (5, 6, 8)))
    with pytest.raises(InputError, match=r"a: a_0001\.nrrd: expected the grid of a_0000\.nrrd"):
        check_data_set(read_data_set(root, animals="case"))


def test_a_case_without_contours_is_broken(tmp_path):
    for case in "ab":
        tiny.write(tmp_path / f"{case}.nrrd", tiny.image(ord(case)))
    tiny.write(tmp_path / "mask.nrrd", tiny.labels(1))
    (tmp_path / "labels.json").write_text('{"1": "heart"}')
    rows = [{"case": case, "image": f"{case}.nrrd", "label": "mask.nrrd" * (case == "a")} for case in "ab"]
    data = read_data_set(tiny.table(tmp_path / "t.csv", rows), animals="case")
    assert "expected contours" in check_data_set(data, skip_broken=True).broken["b"]


def test_a_structure_that_no_case_has_is_an_error(tmp_path):
    data = read_data_set(a_set(tmp_path, values=(1,)), animals="case")
    with pytest.raises(InputError, match="Spinal cord has none in all 3 usable cases"):
        check_data_set(data)


def test_a_structure_that_only_broken_cases_have_is_an_error_too(tmp_path):
    root = a_set(tmp_path, values=(1,))
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.labels(2, 9))
    with pytest.raises(InputError, match="Spinal cord has none in all 2 usable cases"):
        check_data_set(read_data_set(root, animals="case"), skip_broken=True)


def test_cases_without_a_structure_are_counted(tmp_path):
    root = a_set(tmp_path)
    tiny.write(root / "labelsTr" / "b.nrrd", tiny.labels(1))
    checked = check_data_set(read_data_set(root, animals="case"))
    assert checked.without == {"heart": 0, "spinal_cord": 1}
    assert "Spinal cord: in 2 of 3 cases." in checked.data.notes
    assert [row["voxels_spinal_cord"] for row in checked.rows] == [7, 0, 7]
    assert checked.rows[0]["spacing_mm_kji"] == pytest.approx([0.2, 0.3, 0.4])


def test_a_data_set_of_broken_cases_only_is_an_error_even_if_they_may_be_skipped(tmp_path):
    root = a_set(tmp_path)
    for path in (root / "imagesTr").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="all are broken"):
        check_data_set(read_data_set(root, animals="case"), skip_broken=True)


def test_one_image_under_two_animals_is_a_leak(tmp_path):
    root = a_set(tmp_path)
    tiny.write(root / "imagesTr" / "c_0000.nrrd", tiny.image(0))
    with pytest.raises(InputError, match="a and c have the same image"):
        check_data_set(read_data_set(root, animals="case"))
    rows = [{"case": case, "animal": "M1" if case in "ac" else "M2"} for case in "abc"]
    checked = check_data_set(read_data_set(root, animals=tiny.table(tmp_path / "t.csv", rows)))
    assert any("same image is there twice" in note for note in checked.data.notes)


def test_the_check_can_be_cancelled_and_reports(tmp_path):
    data = read_data_set(a_set(tmp_path), animals="case")
    seen = []
    check_data_set(data, progress=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1

    def stop(fraction, message):
        raise Cancelled

    with pytest.raises(Cancelled):
        check_data_set(data, progress=stop)
