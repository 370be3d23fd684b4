"""The three layouts are read as they are, and what does not fit is refused by name."""

import json

import numpy as np
import pytest

from Testing.training import tiny_data as tiny
from thoraxseg.errors import InputError, OptionError
from thoraxseg.export import ExportOptions, export_dataset
from thoraxseg.io import hash_input
from thoraxseg.study import Who, acceptance, create_study, log_event, name_contours, open_study
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data import (
    Fold,
    check_data_set,
    given_folds,
    parse_label_map,
    read_case,
    read_data_set,
    write_folds,
)


def keys(data):
    return {label: structure.key for label, structure in data.labels.items()}


def test_a_raw_folder_of_nnunet_2_has_its_cases_channels_and_labels(tmp_path):
    data = read_data_set(tiny.nnunet(tmp_path / "Dataset001_Mice", ("m1", "m2"), channels=2), animals="case")
    assert (data.name, [case.id for case in data.cases], data.channels) == (
        "Dataset001_Mice",
        ["m1", "m2"],
        ("CT", "CT"),
    )
    assert keys(data) == {1: "heart", 2: "spinal_cord"}
    content = read_case(data.cases[1], data)
    assert [np.array_equal(v.array, tiny.image(10 + n)) for n, v in enumerate(content.volumes)] == [
        True,
        True,
    ]
    assert np.array_equal(content.labels, tiny.labels(1, 2)) and content.counts == {1: 7, 2: 7}


@pytest.mark.parametrize("numbered", [True, False], ids=["case_0000", "case"])
def test_version_1_and_the_decathlon_list_pairs(tmp_path, numbered):
    for seed, case in enumerate("ab"):
        name = f"{case}_0000.nrrd" if numbered else f"{case}.nrrd"
        tiny.write(tmp_path / "imagesTr" / name, tiny.image(seed))
        tiny.write(tmp_path / "labelsTr" / f"{case}.nrrd", tiny.labels(1))
    tiny.write(tmp_path / "labelsTr" / "unlisted.nrrd", tiny.labels(1))
    pairs = [{"image": f"./imagesTr/{case}.nrrd", "label": f"./labelsTr/{case}.nrrd"} for case in "ab"]
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "cancer"}, "training": pairs}
    data = read_data_set(tiny.described(tmp_path, about), animals="case")
    assert (keys(data), data.modality) == ({1: "tumors"}, "MRI")
    assert [
        np.array_equal(read_case(c, data).volumes[0].array, tiny.image(n)) for n, c in enumerate(data.cases)
    ]
    assert any("unlisted.nrrd" in note for note in data.notes)
    assert set(check_data_set(data).broken) == set()


def test_files_may_be_listed_by_case_as_nnunet_2_allows(tmp_path):
    tiny.write(tmp_path / "elsewhere" / "x.nrrd", tiny.image())
    tiny.write(tmp_path / "elsewhere" / "y.nrrd", tiny.labels(1, 2))
    listed = {"m1": {"images": ["../elsewhere/x.nrrd"], "label": "../elsewhere/y.nrrd"}}
    data = read_data_set(tiny.nnunet(tmp_path / "set", (), dataset=listed), animals="case")
    assert list(check_data_set(data).data.animals) == ["m1"]


def test_a_list_that_leaves_its_folder_is_refused(tmp_path):
    pairs = [{"image": "../../etc/a.nrrd", "label": "labelsTr/a.nrrd"}]
    about = {"modality": {"0": "CT"}, "labels": {"1": "heart"}, "training": pairs}
    with pytest.raises(InputError, match="outside of its folder"):
        read_data_set(tiny.described(tmp_path, about))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region"),
        ({"labels": {"heart": 0}}, "expected label 0 to be background"),
        ({"labels": {}}, "expected labels such as"),
        ({"labels": {"background": 0}}, "one label or more beside background"),
        ({"channel_names": {"1": "CT"}}, "expected channels such as"),
        ({"file_ending": None}, 'expected "file_ending"'),
    ],
    ids=["regions", "heart is 0", "no labels", "background only", "channels", "no ending"],
)
def test_a_dataset_json_that_cannot_be_understood_is_refused(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_data_set(tiny.nnunet(tmp_path, **changes))


def test_what_is_no_data_set_is_refused_with_the_layouts_that_are(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "missing", "\0"):
        with pytest.raises(InputError, match=r"expected a data set|cannot be read"):
            read_data_set(path)


def test_the_ignore_label_of_nnunet_counts_nowhere(tmp_path):
    names = {"background": 0, "heart": 1, "ignore": 2}
    data = read_data_set(tiny.nnunet(tmp_path, names=names), animals="case")
    assert keys(data) == {1: "heart"}
    assert set(np.unique(read_case(data.cases[0], data).labels)) == {0, 1, IGNORE}


def test_labels_with_gaps_are_learned_without(tmp_path):
    data = read_data_set(tiny.nnunet(tmp_path, names={"heart": 7, "cord": 300}, values=(7,)), animals="case")
    assert keys(data) == {1: "heart", 2: "spinal_cord"}
    assert read_case(data.cases[0], data).counts == {1: 7, 2: 0}


def test_folds_that_a_raw_folder_brings_along_are_taken_if_they_do_not_leak(tmp_path):
    root = tiny.nnunet(tmp_path, ("a", "b", "c"))
    write_folds(root / "splits_final.json", [Fold(("a", "c"), ("b",)), Fold(("b",), ("a", "c"))])
    assert [fold.validation for fold in given_folds(read_data_set(root, animals="case"))] == [
        ("b",),
        ("a", "c"),
    ]
    rows = [{"case": case, "animal": "M1" if case in "ab" else "M2"} for case in "abc"]
    with pytest.raises(InputError, match="'M1' is in two folds"):
        read_data_set(root, animals=tiny.table(tmp_path / "t.csv", rows))


@pytest.mark.parametrize(
    "fold", [Fold(("a",), ("b",)), Fold(("a", "b", "c"), ("b",)), Fold(("a", "b", "c"), ("d",))], ids=str
)
def test_folds_of_another_kind_are_refused(tmp_path, fold):
    root = tiny.nnunet(tmp_path, ("a", "b", "c"))
    write_folds(root / "splits_final.json", [fold])
    with pytest.raises(InputError, match="fold 0 does not"):
        read_data_set(root, animals="case")


def test_a_label_map_merges_drops_and_ignores(tmp_path):
    names = {"1": "left lung", "2": "Lung_R", "3": "heart", "4": "spleen", "5": "unsure"}
    root = tiny.nnunet(tmp_path, names=names, values=(1, 2, 3, 4, 5))
    told = parse_label_map(["lungs = right_lung + Left Lung", "background=spleen", "ignore = 5"])
    data = read_data_set(root, animals="case", label_map=told)
    assert keys(data) == {1: "lungs", 2: "heart"}
    found = read_case(data.cases[0], data)
    assert found.labels[1, :5, 0].tolist() == [1, 1, 2, 0, IGNORE]
    assert found.lungs[1, :5, 0].tolist() == [True, True, False, False, False]
    assert any("Counts as background" in note and "Spleen" in note for note in data.notes)


@pytest.mark.parametrize(
    "text", ["lungs = liver", "heart = cord", "a = 1, 2", "lungs", "x = 1 + ", "background = 1 + 2"]
)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path, text):
    with pytest.raises(OptionError, match="--label-map"):
        read_data_set(tiny.nnunet(tmp_path), animals="case", label_map=parse_label_map([text]))


def test_one_label_cannot_become_two_things(tmp_path):
    told = parse_label_map(["lungs = 1", "tumors = heart"])
    with pytest.raises(OptionError, match="two things"):
        read_data_set(tiny.nnunet(tmp_path), animals="case", label_map=told)


def manifest(folder, **changes):
    rows = []
    for seed, (case, animal, fold) in enumerate((("a", "M1", "0"), ("b", "M1", "0"), ("c", "M2", "1"))):
        tiny.write(folder / "scans" / f"{case}.nrrd", tiny.image(seed))
        tiny.write(folder / "masks" / f"{case}.nrrd", tiny.labels(1, 2))
        row = {"case": case, "animal": animal, "image": f"scans/{case}.nrrd", "label": f"masks/{case}.nrrd"}
        rows.append({**row, "fold": fold, **{key: value(case) for key, value in changes.items()}})
    return tiny.table(folder / "mice.csv", rows)


@pytest.mark.parametrize(
    "text",
    [
        '{"1": "heart", "2": "spinal_cord"}',
        '{"heart": 1, "spinal cord": 2}',
        '{"labels": {"1": "heart", "2": "cord"}, "channels": ["CT"], "species": "mouse", "modality": "micro-CT"}',
    ],
    ids=["by value", "by name", "long"],
)
def test_a_manifest_names_files_animals_and_folds(tmp_path, text):
    path = manifest(tmp_path)
    (tmp_path / "labels.json").write_text(text)
    data = check_data_set(read_data_set(path)).data
    assert data.animals == {"a": "M1", "b": "M1", "c": "M2"} and keys(data) == {1: "heart", 2: "spinal_cord"}
    assert [fold.validation for fold in given_folds(data)] == [("a", "b"), ("c",)]
    if "species" in text:
        assert (data.species, data.modality, data.channels) == ("mouse", "micro-CT", ("CT",))


def test_a_manifest_may_say_its_labels_case_by_case(tmp_path):
    other = {"a": "1=heart;2=cord", "b": "1=heart;2=cord", "c": "2=heart;1=cord"}
    data = read_data_set(manifest(tmp_path, labels=other.get))
    assert [read_case(case, data).labels[1, :2, 0].tolist() for case in data.cases] == [
        [1, 2],
        [1, 2],
        [2, 1],
    ]


def test_a_manifest_of_segmentations_needs_no_table_of_labels(tmp_path):
    path = manifest(tmp_path, label=lambda case: f"{case}.seg.nrrd")
    order = {"a": ("heart", "spinal_cord"), "b": ("spinal_cord", "heart"), "c": ("heart", "spinal_cord")}
    for case, structures in order.items():
        tiny.write_contours(tmp_path / f"{case}.seg.nrrd", tiny.labels(1, 2), structures)
    data = read_data_set(path)
    assert [read_case(case, data).labels[1, :2, 0].tolist() for case in data.cases] == [
        [1, 2],
        [2, 1],
        [1, 2],
    ]


def test_a_segmentation_that_says_nothing_of_a_structure_is_no_case_without_it(tmp_path):
    path = manifest(tmp_path, label=lambda case: f"{case}.seg.nrrd")
    for case in "abc":
        structures = ("lungs", "tumors")[: 1 if case == "b" else 2]
        tiny.write_contours(tmp_path / f"{case}.seg.nrrd", tiny.labels(1), structures)
    checked = check_data_set(read_data_set(path, label_map={"tumors": ["tumors", "lungs"]}))
    assert not checked.broken  # what is learned, lungs or tumors together, is in all of them
    with pytest.raises(InputError, match="it names lungs and not Tumors"):
        check_data_set(read_data_set(path))


def test_the_lungs_of_a_segmentation_are_known_by_its_own_names(tmp_path):
    path = manifest(tmp_path, label=lambda case: f"{case}.seg.nrrd")
    for case in "abc":
        tiny.write_contours(
            tmp_path / f"{case}.seg.nrrd", tiny.labels(1, 2, 3), ("tumors", "heart", "right_lung")
        )
    data = read_data_set(path, label_map={"background": ["heart", "right_lung"]})
    assert read_case(data.cases[0], data).lungs[1, :4, 0].tolist() == [True, False, True, False]


def test_what_3d_slicer_saves_around_contours_only_lies_where_it_belongs(tmp_path):
    path = manifest(tmp_path, label=lambda case: f"{case}.seg.nrrd")
    part = tiny.GRID.copy()
    part[:3, 3] = (tiny.GRID @ [2, 1, 3, 1])[:3]  # i, j, k
    for case in "abc":
        tiny.write_contours(tmp_path / f"{case}.seg.nrrd", np.full((2, 3, 4), 1), ("heart",), part)
    data = read_data_set(path)
    found = read_case(data.cases[0], data).labels
    assert found.sum() == 24 and (found[3:5, 1:4, 2:6] == 1).all()
    part[:3, 3] += part[:3, 0] * 0.4
    tiny.write_contours(tmp_path / "a.seg.nrrd", np.full((2, 3, 4), 1), ("heart",), part)
    with pytest.raises(InputError, match=r"0\.4 voxels beside them"):
        read_case(data.cases[0], data)
    part[:3, 3] += part[:3, 0] * 2.6
    tiny.write_contours(tmp_path / "a.seg.nrrd", np.full((2, 3, 4), 1), ("heart",), part)
    with pytest.raises(InputError, match="12 voxels of its contours lie outside"):
        read_case(data.cases[0], data)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": lambda c: "https://example.org/a.nrrd"}, "got an address"),
        ({"animal": lambda c: ""}, "one is empty"),
        ({"case": lambda c: "same", "labels": lambda c: "1=heart;2=cord"}, "there twice"),
        ({"extra": lambda c: "1"}, "expected the columns"),
        ({"image_1": lambda c: f"scans/{c}.nrrd"}, "expected the columns"),
        ({"image_2": lambda c: f"scans/{c}.nrrd"}, "expected the columns"),
        ({"labels": lambda c: "heart"}, "expected labels such as"),
        ({}, "what its values stand for is not written"),
        ({"fold": str, "labels": lambda c: "1=heart;2=cord"}, "'M1' is in two folds"),
        (
            {"animal": {"a": "M1", "b": "m01", "c": "M2"}.get, "labels": lambda c: "1=heart;2=cord"},
            "may be one",
        ),
    ],
    ids=[
        "address",
        "no animal",
        "twice",
        "column",
        "both",
        "gap",
        "labels",
        "no labels",
        "two folds",
        "spelling",
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_data_set(manifest(tmp_path, **changes))


def test_several_channels_stand_in_columns_or_in_one_cell(tmp_path):
    for seed in range(2):
        tiny.write(tmp_path / f"{seed}.nrrd", tiny.image(seed))
    tiny.write(tmp_path / "label.nrrd", tiny.labels(1))
    (tmp_path / "labels.json").write_text('{"1": "heart"}')
    row = {"case": "a", "label": "label.nrrd"}
    tables = (row | {"image": "0.nrrd; 1.nrrd"}, row | {"image_1": "0.nrrd", "image_2": "1.nrrd"})
    for number, columns in enumerate(tables):
        data = read_data_set(tiny.table(tmp_path / f"{number}.csv", [columns]), animals="case")
        assert [v.name for v in read_case(data.cases[0], data).volumes] == ["0.nrrd", "1.nrrd"]


def study_of(folder):
    folder.mkdir(exist_ok=True)
    store = create_study(folder / "mice.sqlite")
    for seed, animal in enumerate(("M1", "M2", "M3", "M4")):
        who = Who(animal, "day 3", "Ann")
        log_event(store, who, "reject" if animal == "M4" else "accept", None, None, {})
        if animal == "M4":
            continue
        scan = tiny.write(folder / f"{animal}.nrrd", tiny.image(seed))
        order = ("tumors", "lungs") if animal == "M2" else ("lungs", "tumors")
        mask = tiny.write_contours(folder / f"{animal}.seg.nrrd", tiny.labels(1, 2), order)
        name_contours(store, who, scan, mask, dict(enumerate(order, start=1)), hash_input(scan))
    return folder / "mice.sqlite"


def test_the_accepted_cases_of_a_study_are_a_data_set(tmp_path):
    path = study_of(tmp_path)
    tiny.write_contours(
        tmp_path / "M3.seg.nrrd", tiny.labels(2, 1), ("lungs", "tumors")
    )  # not what was accepted
    data = check_data_set(read_data_set(path)).data
    assert sorted(case.animal for case in data.cases) == ["M1", "M2"] and keys(data) == {
        1: "lungs",
        2: "tumors",
    }
    by_animal = {case.animal: read_case(case, data).labels[1, :2, 0].tolist() for case in data.cases}
    assert by_animal == {"M1": [1, 2], "M2": [2, 1]}
    told = " ".join(data.notes)
    assert (
        "M3" in told
        and "was changed after it was accepted" in told
        and "1 scan(s) of the study are not accepted" in told
    )


@pytest.mark.parametrize("name", ["", "manifest.csv"], ids=["nnU-Net", "manifest"])
def test_what_a_study_exports_is_read_as_the_study_itself_is(tmp_path, name):
    path = study_of(tmp_path)
    options = ExportOptions(101, "Mice", "CT", species="mouse", modality="micro-CT")
    exported = export_dataset(acceptance(open_study(path)), tmp_path / "raw", options)
    data, itself = read_data_set(exported.folder / name), read_data_set(path)
    assert keys(data) == keys(itself) and data.animals == itself.animals
    for one, other in zip(data.cases, itself.cases, strict=True):
        assert np.array_equal(read_case(one, data).labels, read_case(other, itself).labels)


def test_an_image_that_changed_after_its_contours_were_accepted_is_left_out(tmp_path):
    path = study_of(tmp_path)
    tiny.write(tmp_path / "M1.nrrd", tiny.image(99))
    data = read_data_set(path)
    assert sorted(case.animal for case in data.cases) == ["M2", "M3"]
    assert any("M1.nrrd was changed after that" in note for note in data.notes)


def test_a_study_without_accepted_cases_says_why(tmp_path):
    path = study_of(tmp_path)
    for mask in tmp_path.glob("*.seg.nrrd"):
        mask.unlink()
    with pytest.raises(InputError, match=r"one accepted scan or more.*not there any more"):
        read_data_set(path)
    with pytest.raises(OptionError, match="Bob"):
        read_data_set(path, operator="Bob")


def test_options_for_another_layout_are_refused(tmp_path):
    with pytest.raises(OptionError, match="--operator"):
        read_data_set(tiny.nnunet(tmp_path / "raw"), operator="Ann")
    with pytest.raises(OptionError, match="--labels"):
        read_data_set(study_of(tmp_path / "study"), labels={1: "heart"})
    with pytest.raises(OptionError, match="--species"):
        read_data_set(tmp_path / "raw", species="rat")


def test_json_with_a_key_twice_is_refused(tmp_path):
    path = manifest(tmp_path)
    (tmp_path / "labels.json").write_text('{"1": "heart", "1": "cord"}')
    with pytest.raises(InputError, match="given twice"):
        read_data_set(path)
    (tmp_path / "labels.json").write_text(json.dumps(["heart"]))
    with pytest.raises(InputError, match="expected labels"):
        read_data_set(path)
