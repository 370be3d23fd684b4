"""Accepted contours as a data set: nnU-Net's layout and ours, one numbering, and nothing undrawn as background."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from thoraxseg import export
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.export import ExportOptions, export_dataset, reviewed_structures
from thoraxseg.io import hash_input, read_volume, write_scalar_nrrd, write_segmentation
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure
from thoraxseg.study import Who, acceptance, create_study, log_event, name_contours
from thoraxseg.volume import Volume, geometry_from_spacing

SHAPE = (8, 9, 10)
GRID = geometry_from_spacing((0.4, 0.3, 0.2), "LPS")
OPTIONS = ExportOptions(101, "Mice", "CT", species="mouse", modality="micro-CT")


class Cohort:
    """A study whose scans are accepted, with small images and masks beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.study = create_study(folder / "mice.sqlite")
        self.truth: dict[str, np.ndarray] = {}

    def add(self, animal, keys, scan="d0", empty=(), grid=GRID, mask_grid=None, part=None, edited=True):
        """Accept a scan; `keys` are its structures by the label values that this one mask has."""
        rng = np.random.default_rng(len(self.truth))
        image = rng.normal(-400, 100, SHAPE).astype(np.int16)
        labels = np.zeros(SHAPE, np.uint8)
        self.truth[animal] = np.full(SHAPE, "", dtype=object)
        for n, (value, key) in enumerate(keys.items()):
            if key not in empty:
                labels[2 + n] = value
                self.truth[animal][2 + n] = key
        image_file, mask = self.folder / f"{animal}.nrrd", self.folder / f"{animal}.seg.nrrd"
        write_scalar_nrrd(image_file, image, grid, {})
        structures = {
            value: STRUCTURES.get(key)
            or Structure(f"Segment_{value}", key, (1, 0, 0), STRUCTURES["heart"].terminology)
            for value, key in keys.items()
        }
        where = grid if mask_grid is None else mask_grid
        if part is not None:
            labels = labels[part]
        write_segmentation(mask, Segmentation(labels, where, structures))
        self.accept(animal, scan, image_file, mask, edited)
        return image_file, mask

    def accept(self, animal, scan, image, mask, edited=True):
        who = Who(animal, scan, "Ann")
        if edited:
            log_event(self.study, who, "edit", "heart", 9)
        log_event(self.study, who, "accept")
        name_contours(self.study, who, image, mask, reviewed_structures(mask), hash_input(image))

    def export(self, options=OPTIONS, **changes):
        options = ExportOptions(**{**vars(options), **changes})
        return export_dataset(acceptance(self.study), self.folder / "out", options)


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


@pytest.fixture
def a_cohort(cohort):
    """Two animals, one with labels that Slicer renumbered."""
    cohort.add("M1", {1: "heart", 2: "left_lung"})
    cohort.add("M2", {5: "left_lung", 7: "heart"}, edited=False)
    return cohort


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def nothing_left(folder):
    return not (folder / "out").exists() or not any((folder / "out").iterdir())


def test_a_data_set_is_nnunets_and_ours_at_once(a_cohort):
    done = a_cohort.export()
    folder = done.folder
    assert folder == a_cohort.folder / "out" / "Dataset101_Mice"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "animals.csv",
        "dataset.json",
        "export.json",
        "imagesTr/M1_d0_0000.nii.gz",
        "imagesTr/M2_d0_0000.nii.gz",
        "labels.json",
        "labelsTr/M1_d0.nii.gz",
        "labelsTr/M2_d0.nii.gz",
        "manifest.csv",
    ]
    told = json.loads((folder / "dataset.json").read_text())
    assert told["labels"] == {"background": 0, "heart": 1, "left_lung": 2}
    assert (told["channel_names"], told["numTraining"], told["file_ending"]) == ({"0": "CT"}, 2, ".nii.gz")
    animals = [{"case": "M1_d0", "animal": "M1"}, {"case": "M2_d0", "animal": "M2"}]
    assert rows_of(folder / "animals.csv") == animals
    assert rows_of(folder / "manifest.csv")[1] == {
        **animals[1],
        "image": "imagesTr/M2_d0_0000.nii.gz",
        "label": "labelsTr/M2_d0.nii.gz",
    }


@pytest.mark.slow
def test_nnunet_itself_finds_the_data_set_in_order(a_cohort):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    for animal in ("M3", "M4"):
        a_cohort.add(animal, {1: "heart", 3: "left_lung"})
    integrity.verify_dataset_integrity(str(a_cohort.export().folder), num_processes=1)


def test_labels_mean_the_same_in_all_cases_and_images_keep_every_voxel(a_cohort):
    done = a_cohort.export()
    for animal in ("M1", "M2"):
        image = read_volume(done.folder / f"imagesTr/{animal}_d0_0000.nii.gz")
        label = read_volume(done.folder / f"labelsTr/{animal}_d0.nii.gz")
        before = read_volume(a_cohort.folder / f"{animal}.nrrd")
        assert np.array_equal(image.array, before.array)
        assert image.array.dtype == np.int16
        assert np.array_equal(image.ijk_to_ras, label.ijk_to_ras)
        assert np.allclose(image.ijk_to_ras, GRID, atol=1e-6)
        truth = a_cohort.truth[animal]
        assert np.array_equal(label.array == 1, truth == "heart")
        assert np.array_equal(label.array == 2, truth == "left_lung")


def test_our_own_reader_of_data_sets_reads_all_three_ways_to_it_alike(a_cohort):
    training = pytest.importorskip("thoraxseg.training.data")
    done = a_cohort.export()
    for place in (done.folder, done.folder / "manifest.csv"):
        data = training.read_data_set(place)
        assert {one.key: label for label, one in data.labels.items()} == {"heart": 1, "left_lung": 2}
        assert data.animals == {"M1_d0": "M1", "M2_d0": "M2"}
        assert (data.species, data.modality, data.channels) == ("mouse", "micro-CT", ("CT",))
        assert all(case.label.exists() and case.images[0].exists() for case in data.cases)
    study = training.read_data_set(a_cohort.study.path)
    assert {one.key for one in study.labels.values()} == {"heart", "left_lung"}
    assert sorted(study.animals.values()) == ["M1", "M2"]


def test_the_record_says_what_was_reviewed_by_whom_and_what_no_one_touched(a_cohort):
    done = a_cohort.export()
    told = json.loads((done.folder / "export.json").read_text())
    assert told["reviewed"] == ["heart", "left_lung"]
    first, second = told["cases"]
    assert (first["corrected"], second["corrected"]) == (True, False)
    assert first["operator"] == "Ann"
    assert first["image_sha256"] == hash_input(a_cohort.folder / "M1.nrrd")
    assert first["voxels"] == {"heart": 90, "left_lung": 90}
    assert any("1 of 2 case(s) were accepted without an edit" in note for note in done.notes)


def test_a_structure_that_one_case_lacks_is_never_learned_as_background(a_cohort):
    a_cohort.add("M3", {1: "heart"})
    with pytest.raises(InputError, match=r"1 of 3 .*M3_d0: left_lung was not reviewed.*background"):
        a_cohort.export()
    assert nothing_left(a_cohort.folder)
    done = a_cohort.export(skip_incomplete=True)
    assert done.cases == ("M1_d0", "M2_d0")
    assert [one.case for one in done.left_out] == ["M3_d0"]
    done = a_cohort.export(number=102, structures=("Heart",))
    assert done.cases == ("M1_d0", "M2_d0", "M3_d0")
    assert any("left_lung became background (180 voxels)" in note for note in done.notes)


def test_a_structure_that_was_looked_for_and_is_not_there_is_learned_so_and_said(a_cohort):
    a_cohort.add("M3", {1: "heart", 2: "left_lung"}, empty=("left_lung",))
    done = a_cohort.export()
    assert len(done.cases) == 3
    assert "left_lung was reviewed and is not there in 1 case(s): M3_d0." in done.notes
    labels = read_volume(done.folder / "labelsTr/M3_d0.nii.gz", allow_constant=True).array
    assert set(np.unique(labels)) == {0, 1}


def test_segments_that_people_named_themselves_are_one_structure_by_name(cohort):
    cohort.add("M1", {1: "heart", 2: "Thymus gland"})
    cohort.add("M2", {1: "Thymus gland", 2: "heart"})
    done = cohort.export()
    assert {label: one.key for label, one in done.labels.items()} == {1: "heart", 2: "thymus_gland"}
    for animal in ("M1", "M2"):
        labels = read_volume(done.folder / f"labelsTr/{animal}_d0.nii.gz").array
        assert np.array_equal(labels == 2, cohort.truth[animal] == "Thymus gland")


def test_a_segment_that_was_made_as_one_organ_and_renamed_to_another_is_refused(tmp_path):
    grid, labels = GRID, np.ones(SHAPE, np.uint8)
    for key, name, fits in (
        ("left_lung", "Right lung", False),
        ("tumors", "Vessel", False),
        ("lungs", "Right lung", True),
        ("Segment_1", "Right lung", True),
    ):
        path = tmp_path / f"{key}.seg.nrrd"
        structure = Structure(key, name, (1, 0, 0), STRUCTURES["heart"].terminology)
        write_segmentation(path, Segmentation(labels, grid, {1: structure}))
        if fits:
            assert reviewed_structures(path) == {1: "right_lung"}
        else:
            with pytest.raises(InputError, match="Which of the two is it"):
                reviewed_structures(path)


def test_a_plain_label_map_needs_names_for_all_its_labels(tmp_path):
    path = tmp_path / "labels.nrrd"
    labels = np.zeros(SHAPE, np.uint8)
    labels[2], labels[3] = 1, 4
    write_scalar_nrrd(path, labels, GRID, {})
    with pytest.raises(InputError, match="does not say what its labels are"):
        reviewed_structures(path)
    with pytest.raises(InputError, match="4 has none"):
        reviewed_structures(path, {1: "heart"})
    with pytest.raises(InputError, match="heart is in it more than once"):
        reviewed_structures(path, {1: "heart", 4: "Heart"})
    assert reviewed_structures(path, {1: "heart", 4: "lung L", 6: "Лёгкое"}) == {
        1: "heart",
        4: "left_lung",
        6: export.reading.key_of_name("Лёгкое"),
    }


def test_names_dates_people_and_paths_stay_out_on_request(a_cohort):
    done = a_cohort.export(anonymous=True)
    assert done.cases == ("S001", "S002")
    for path in done.folder.rglob("*"):
        assert "M1" not in path.name
        if path.suffix in (".json", ".csv"):
            text = path.read_text()
            assert not any(word in text for word in ("M1", "M2", "Ann", "20", str(a_cohort.folder))), (
                path.name
            )
    raw = b"".join(path.read_bytes() for path in done.folder.rglob("*.nii.gz"))
    assert b"M1" not in raw


def test_a_cropped_mask_is_put_where_it_belongs(cohort):
    part = (slice(1, 6), slice(0, 9), slice(2, 10))
    moved = Volume(np.zeros(SHAPE, np.uint8), GRID).cropped(((1, 6), (0, 9), (2, 10))).ijk_to_ras
    cohort.add("M1", {1: "heart"}, mask_grid=moved, part=part)
    labels = read_volume(cohort.export().folder / "labelsTr/M1_d0.nii.gz").array
    assert labels.shape == SHAPE
    assert np.count_nonzero(labels) == 9 * 8
    assert labels[2, :, 2:].all()


def test_a_mask_in_another_order_of_axes_is_the_same_mask(cohort):
    image, mask = cohort.add("M1", {1: "heart"})
    turned = read_volume(image).reoriented("ASL")
    write_scalar_nrrd(cohort.folder / "turned.nrrd", turned.array, turned.ijk_to_ras, {})
    cohort.accept("M9", "d0", cohort.folder / "turned.nrrd", mask)
    mine = acceptance(cohort.study).cases
    one, other = (export.read_accepted(case, {1: "heart"}) for case in mine)
    back = Volume(other[1], other[0].ijk_to_ras).reoriented("LPS")
    assert np.array_equal(back.array, one[1])
    assert other[1].shape != one[1].shape


@pytest.mark.parametrize(
    ("shift", "said"),
    [((0, 0, 0.1), "beside them"), ((0, 0, 4), "lie outside of")],
    ids=["half a voxel", "far"],
)
def test_a_mask_that_lies_elsewhere_is_refused_or_left_out_on_request(a_cohort, shift, said):
    elsewhere = GRID.copy()
    elsewhere[:3, 3] += shift
    a_cohort.add("M3", {1: "heart", 2: "left_lung"}, mask_grid=elsewhere)
    with pytest.raises(InputError, match=f"M3_d0.*{said}.*Nothing was written"):
        a_cohort.export()
    assert nothing_left(a_cohort.folder)
    done = a_cohort.export(skip_broken=True)
    assert done.cases == ("M1_d0", "M2_d0")
    assert said in done.left_out[0].reason


def test_an_image_that_was_changed_or_cut_short_is_named(a_cohort):
    path = a_cohort.folder / "M2.nrrd"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"M2_d0: .*M2.nrrd: the image was changed"):
        a_cohort.export()
    done = a_cohort.export(skip_broken=True)
    assert done.cases == ("M1_d0",)
    assert rows_of(done.folder / "animals.csv") == [{"case": "M1_d0", "animal": "M1"}]


def test_one_image_under_two_names_is_refused(a_cohort):
    a_cohort.accept("M1 again", "d0", a_cohort.folder / "M1.nrrd", a_cohort.folder / "M1.seg.nrrd")
    with pytest.raises(InputError, match=r"M1_d0 and M1_again_d0-\w+ are one image"):
        a_cohort.export()


def test_a_mask_that_changed_after_the_verdict_is_never_exported(a_cohort):
    path = a_cohort.folder / "M2.seg.nrrd"
    path.write_bytes((a_cohort.folder / "M1.seg.nrrd").read_bytes())
    done = a_cohort.export()
    assert done.cases == ("M1_d0",)
    assert "was changed after it was accepted" in done.left_out[0].reason
    assert json.loads((done.folder / "export.json").read_text())["left_out"][0]["case"] == "M2_d0"


def test_nothing_is_written_over(a_cohort):
    a_cohort.export()
    before = {path: path.read_bytes() for path in (a_cohort.folder / "out").rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="new or empty folder"):
        a_cohort.export()
    assert before == {
        path: path.read_bytes() for path in (a_cohort.folder / "out").rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("how", ["error", "short"])
def test_a_full_disk_is_said_and_leaves_nothing(a_cohort, monkeypatch, how):
    import SimpleITK

    write = SimpleITK.WriteImage

    def full(image, path, **options):
        if how == "error":
            raise RuntimeError("ITK ERROR: error writing file")
        write(image, path, **options)
        Path(path).write_bytes(Path(path).read_bytes()[:200])

    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    with pytest.raises(OutputError, match=r"could not be written whole. Is there space on the disk"):
        a_cohort.export()
    assert nothing_left(a_cohort.folder)


def test_a_study_without_accepted_cases_says_so(cohort):
    with pytest.raises(InputError, match="Nobody has accepted a scan"):
        cohort.export()
    cohort.add("M1", {1: "heart"})
    (cohort.folder / "M1.seg.nrrd").unlink()
    with pytest.raises(InputError, match=r"M1_d0: the mask .* is not there any more"):
        cohort.export()


def test_a_structure_that_no_case_has_is_refused(a_cohort):
    with pytest.raises(OptionError, match=r"heart, left_lung, got spinal_cord"):
        a_cohort.export(structures=("heart", "spinal cord"))


@pytest.mark.parametrize(
    "wrong", [{"number": 0}, {"number": 1000}, {"name": "a/b"}, {"name": ""}, {"channel": " "}], ids=str
)
def test_names_that_nnunet_cannot_use_are_refused(wrong):
    with pytest.raises(OptionError):
        ExportOptions(**{**vars(OPTIONS), **wrong})


def test_the_same_export_gives_the_same_files(a_cohort):
    one = a_cohort.export().folder
    other = a_cohort.export(number=102).folder
    for path in one.rglob("*.nii.gz"):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


def test_a_manifest_with_several_channels_numbers_them(tmp_path):
    lines = [export.Line("M1", "M1", ["a.nii", "b.nii"], "l.nii", fold="0")]
    about = export.About("mice", {1: STRUCTURES["heart"]}, ["CT", "lungs"])
    export.write_manifest(tmp_path / "manifest.csv", lines, about)
    assert rows_of(tmp_path / "manifest.csv") == [
        {"case": "M1", "animal": "M1", "image_1": "a.nii", "image_2": "b.nii", "label": "l.nii", "fold": "0"}
    ]
    assert json.loads((tmp_path / "labels.json").read_text())["labels"] == {"1": "heart"}
    with pytest.raises(OptionError, match="expected 1 image"):
        export.write_manifest(tmp_path / "m.csv", lines, export.About("mice", about.labels, ["CT"]))
