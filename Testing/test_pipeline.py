"""The road from image to files: the same answer from every format, whole records, nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from thoraxseg import inference, pipeline, preprocess
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.cli import main
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.files import sha256_file
from thoraxseg.io import read_segmentation, read_volume, write_scalar_nrrd, write_segmentation
from thoraxseg.options import SegmentOptions
from thoraxseg.phantoms import mouse_mri
from thoraxseg.pipeline import case_name, segment, segment_file, write_case
from thoraxseg.progress import Cancelled
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import RAS_FROM_LPS, Volume, geometry_from_spacing

BARE = SegmentOptions(postprocess="none")


def strict_json(text: str):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def record_of(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    return strict_json(path.read_text("utf-8"))


def check_whole(folder: Path) -> None:
    """Fail unless every record in the folder has all its files, bit for bit, and nothing is half made."""
    for path in folder.glob("*.json"):
        for name, digest in strict_json(path.read_text("utf-8"))["outputs_sha256"].items():
            assert sha256_file(folder / name) == digest, name
    assert not list(folder.glob(".thoraxseg-partial-*"))


@pytest.fixture(scope="module")
def checkpoint(quick_checkpoint):
    return open_checkpoint(quick_checkpoint)


@pytest.fixture(scope="module")
def one_sided() -> Volume:
    """A mouse without its right lung: a mirrored image cannot pass for it."""
    phantom = mouse_mri(seed=3, spacing_mm=0.5, tumors=(5.0, 4.0, 3.0))
    i = np.arange(phantom.volume.shape[2])
    right = (phantom.volume.ijk_to_ras[0, 0] * i + phantom.volume.ijk_to_ras[0, 3]) > 0
    array = phantom.volume.array.copy()
    array[(phantom.truth.labels > 0) & right] = 60
    return Volume(array, phantom.volume.ijk_to_ras, "one-sided")


@pytest.fixture(scope="module")
def result(one_sided, checkpoint):
    return segment(one_sided, checkpoint)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    """The folder of a case written with all its pictures."""
    folder = tmp_path_factory.mktemp("case")
    write_case(result, folder, "mouse", "ab" * 32)
    return folder


# What comes out


def test_a_case_is_four_whole_files_and_nothing_else(written):
    assert names(written) == {"mouse.seg.nrrd", "mouse_uncertainty.nrrd", "mouse.html", "mouse.json"}
    assert set(record_of(written)["outputs_sha256"]) == names(written) - {"mouse.json"}
    check_whole(written)


def test_the_numbers_are_those_of_the_written_segmentation(written):
    import nrrd  # pynrrd, which shares no code with our reader
    from scipy.ndimage import label

    labels, header = nrrd.read(str(written / "mouse.seg.nrrd"))
    voxel_mm3 = abs(np.linalg.det(header["space directions"]))
    measured = record_of(written)["measurements"]
    for row in measured["structures"]:
        n = next(n for n in range(9) if header.get(f"Segment{n}_ID") == row["key"])
        voxels = int((labels == int(header[f"Segment{n}_LabelValue"])).sum())
        assert row["voxels"] == voxels > 0
        assert row["volume_mm3"] == pytest.approx(voxels * voxel_mm3, rel=1e-12)
    edges = np.array(
        [[[abs(x) + abs(y) + abs(z) <= 2 for x in (-1, 0, 1)] for y in (-1, 0, 1)] for z in (-1, 0, 1)]
    )
    components, count = label(labels == 2, edges)
    sizes = sorted((np.bincount(components.ravel())[1:] * voxel_mm3).tolist(), reverse=True)
    tumors = measured["tumors"]
    assert tumors["count"] == count == len(tumors["nodules"]) > 0
    assert [nodule["volume_mm3"] for nodule in tumors["nodules"]] == pytest.approx(sizes)
    assert tumors["small_count"] == sum(size < 0.4 for size in sizes)
    assert tumors["large_count"] == count - tumors["small_count"]
    assert tumors["total_volume_mm3"] == pytest.approx(sum(sizes))
    both = sum(row["volume_mm3"] for row in measured["structures"])
    assert measured["lungs_with_tumors_volume_mm3"] == pytest.approx(both)
    for nodule in tumors["nodules"]:
        same = [n + 1 for n, c in enumerate(np.bincount(components.ravel())[1:]) if c == nodule["voxels"]]
        centers = [np.argwhere(components == n).mean(0) for n in same]
        lps = [header["space directions"].T @ c + header["space origin"] for c in centers]
        assert min(np.abs(nodule["centroid_ras_mm"] - p * (-1, -1, 1)).max() for p in lps) < 1e-6


def test_every_number_of_the_record_says_its_unit(written):
    units = ("_mm3", "_mm", "_mm_kji", "_ras_mm", "_nat", "_k", "_kji")
    without = {"schema", "label", "voxels", "number", "count", "small_count", "large_count", "connectivity"}
    without |= {"cpu_count", "softmax_temperature", "samples", "seed"}

    def look(value, key):
        if isinstance(value, dict):
            for name, inside in value.items():
                beside = key == "uncertainty" and value.get("unit") == "nat"
                look(inside, "all_s" if key in {"timings_s", "all_s"} else "all_nat" if beside else name)
        elif isinstance(value, list):
            for inside in value:
                look(inside, key)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            assert key in without or key.endswith((*units, "_s")), key

    look(record_of(written), "")


def test_the_record_says_what_is_needed_to_repeat_the_run(written, checkpoint):
    import torch

    record = record_of(written)
    made = record["provenance"]
    assert record["input"]["sha256"] == "ab" * 32
    assert made["checkpoint"]["weights_sha256"] == [sha256_file(checkpoint.weights[0])]
    assert made["checkpoint"]["card_sha256"] == checkpoint.card.sha256
    assert made["options"] == SegmentOptions().to_record()
    assert made["versions"]["torch"] == torch.__version__
    stages = {
        "preprocess",
        "load_checkpoint",
        "inference",
        "postprocess",
        "uncertainty",
        "measure",
        "figures",
    }
    assert stages <= set(record["timings_s"])
    parts = [seconds for stage, seconds in record["timings_s"].items() if stage != "total"]
    assert min(parts) >= 0
    assert record["timings_s"]["total"] == pytest.approx(sum(parts), abs=0.002)


def test_the_map_of_doubt_states_quantity_unit_and_range_and_keeps_to_it(written, result):
    import nrrd

    entropy, header = nrrd.read(str(written / "mouse_uncertainty.nrrd"))
    assert "entropy" in header["thoraxseg_quantity"]
    assert header["thoraxseg_unit"] == "nat"
    low, high = re.fullmatch(r"(\d+) to ([\d.]+)", header["thoraxseg_range"]).groups()
    assert float(high) == pytest.approx(np.log(3), abs=1e-6)
    assert float(low) <= entropy.min() <= entropy.max() <= np.log(3) + 1e-6
    assert np.array_equal(entropy.transpose(2, 1, 0), result.uncertainty)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -7, 25)], ids=["straight", "oblique"])
def test_the_files_lie_where_the_input_lies(
    one_sided, checkpoint, a_geometry, tmp_path, no_pictures, degrees
):
    import SimpleITK as sitk

    matrix = a_geometry("RIA", (0.5, 0.5, 0.5), degrees, (3.25, -14.5, 101.125))
    write_case(
        segment(Volume(one_sided.array, matrix, "m"), checkpoint), tmp_path, "m", "0" * 64, with_image=True
    )
    for path in tmp_path.glob("*.nrrd"):
        image = sitk.ReadImage(str(path))
        lps = np.eye(4)
        lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        lps[:3, 3] = image.GetOrigin()
        assert np.abs(RAS_FROM_LPS @ lps - matrix).max() < 1e-6, path.name
        assert image.GetSize() == one_sided.shape[::-1]


# The same anatomy in other files


def sitk_image(volume: Volume):
    import SimpleITK as sitk

    lps = RAS_FROM_LPS @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def save_with_itk(volume: Volume, path: Path) -> Path:
    import SimpleITK as sitk

    sitk.WriteImage(sitk_image(volume), str(path), useCompression=True)
    return path


def save_with_nibabel(volume: Volume, path: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.array.transpose(2, 1, 0), volume.ijk_to_ras), path)
    return path


def save_as_dicom(volume: Volume, folder: Path) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    lps = RAS_FROM_LPS @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = (lps[:3, :2] / spacing[:2]).T.ravel()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k, page in enumerate(volume.array):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.PatientID, ds.InstanceNumber = "MR", "phantom", k + 1
        ds.ImagePositionPatient = [f"{p:.12f}"[:16] for p in lps[:3, 3] + k * lps[:3, 2]]
        ds.ImageOrientationPatient = [f"{c:.13f}"[:16] for c in cosines]
        ds.PixelSpacing = [f"{s:.10f}"[:16] for s in spacing[1::-1]]
        ds.Rows, ds.Columns = page.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.PixelData = np.ascontiguousarray(page, dtype="<u2").tobytes()
        ds.save_as(folder / f"{(k * 37) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def turned(volume: Volume) -> Volume:
    """Return the volume on oblique axes: turned by 20 degrees about the head-tail axis, and shifted."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn = np.array([[c, -s, 0, 5.5], [s, c, 0, -2.25], [0, 0, 1, 40.125], [0, 0, 0, 1]])
    return Volume(volume.array, turn @ volume.ijk_to_ras, volume.name)


STORED = {
    "NRRD of ITK": lambda v, d: save_with_itk(v, d / "m.nrrd"),
    "MetaImage": lambda v, d: save_with_itk(v, d / "m.mha"),
    "NIfTI of ITK": lambda v, d: save_with_itk(v, d / "m.nii.gz"),
    "NIfTI of nibabel": lambda v, d: save_with_nibabel(v, d / "m.nii"),
    "DICOM": lambda v, d: save_as_dicom(v, d / "m"),
    "NRRD, axes LPS": lambda v, d: save_with_itk(v.reoriented("LPS"), d / "m.nrrd"),
    "NRRD, axes SAL": lambda v, d: save_with_itk(v.reoriented("SAL"), d / "m.nrrd"),
    "NIfTI, axes PSR": lambda v, d: save_with_nibabel(v.reoriented("PSR"), d / "m.nii.gz"),
    "NIfTI, axes LAS": lambda v, d: save_with_itk(v.reoriented("LAS"), d / "m.nii"),
    "MetaImage, axes IRP": lambda v, d: save_with_itk(v.reoriented("IRP"), d / "m.mha"),
    "DICOM, axes LPS": lambda v, d: save_as_dicom(v.reoriented("LPS"), d / "m"),
    "NRRD, oblique": lambda v, d: save_with_itk(turned(v), d / "m.nrrd"),
    "NIfTI, oblique, axes LPI": lambda v, d: save_with_nibabel(turned(v).reoriented("LPI"), d / "m.nii.gz"),
    "DICOM, oblique": lambda v, d: save_as_dicom(turned(v).reoriented("LPS"), d / "m"),
}


@pytest.mark.parametrize("kind", STORED)
def test_the_same_anatomy_gives_the_same_volumes_and_sides_from_every_file(
    kind, one_sided, result, quick_checkpoint, tmp_path, no_pictures, capsys
):
    path = STORED[kind](one_sided, tmp_path)
    assert (
        main(["segment", str(path), "-c", str(quick_checkpoint), "-o", str(tmp_path / "out"), "--json"]) == 0
    )
    found, expected = strict_json(capsys.readouterr().out)["measurements"], result.measurements
    for row, known in zip(found["structures"], expected["structures"], strict=True):
        assert row["voxels"] == known["voxels"] > 0
        assert row["volume_mm3"] == pytest.approx(known["volume_mm3"], rel=1e-5)
    sizes = [nodule["voxels"] for nodule in expected["tumors"]["nodules"]]
    assert [nodule["voxels"] for nodule in found["tumors"]["nodules"]] == sizes
    written = read_segmentation(tmp_path / "out" / "m.seg.nrrd")
    place = turned(one_sided).ijk_to_ras if "oblique" in kind else one_sided.ijk_to_ras
    center = centroid_ras(written.mask("lungs"), written.ijk_to_ras)
    assert center == pytest.approx(centroid_ras(result.segmentation.mask("lungs"), place), abs=1e-4)
    assert center[0] < (3 if "oblique" in kind else -1.5)  # the only lung is the left one
    assert np.abs(written.ijk_to_ras - read_volume(path).ijk_to_ras).max() < 1e-6


def centroid_ras(mask: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    return ijk_to_ras[:3, :3] @ np.argwhere(mask).mean(0)[::-1] + ijk_to_ras[:3, 3]


# The library


def test_a_result_has_what_the_shells_are_promised(result, one_sided):
    assert result.segmentation.labels.shape == one_sided.shape
    assert np.array_equal(result.segmentation.ijk_to_ras, one_sided.ijk_to_ras)
    assert result.uncertainty.shape == one_sided.shape
    assert result.provenance["device"] in {"cpu", "cuda"}


def test_probabilities_are_on_the_input_grid_and_made_only_when_asked_for(monkeypatch):
    phantom = mouse_mri(seed=1, spacing_mm=(0.5, 0.6, 0.4), axis_codes="LPS", tumors=(5.0,))
    asked = []
    original = preprocess.Prepared.map_on_source
    monkeypatch.setattr(
        preprocess.Prepared,
        "map_on_source",
        lambda self, m, *outside: asked.append(m.shape) or original(self, m, *outside),
    )
    found = segment(phantom.volume, open_checkpoint("phantom-threshold"), BARE)
    assert len(asked) == 1  # the map of doubt
    probabilities = found.probabilities()
    assert probabilities.shape == (3, *phantom.volume.shape)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(0) == pytest.approx(1, abs=1e-4)
    assert (probabilities.argmax(0) == found.segmentation.labels).mean() > 0.9


def test_probabilities_agree_with_labels_and_entropy_in_every_voxel(one_sided, checkpoint):
    found = segment(one_sided.reoriented("SPL"), checkpoint, BARE)
    probabilities = found.probabilities()
    assert np.array_equal(probabilities.argmax(0), found.segmentation.labels)
    p = probabilities.astype(np.float64)
    assert found.uncertainty == pytest.approx(-(p * np.log(np.maximum(p, 1e-300))).sum(0), abs=1e-5)


def test_without_doubt_asked_for_there_is_none(one_sided, checkpoint, tmp_path, no_pictures):
    found = segment(one_sided, checkpoint, SegmentOptions(uncertainty="none"))
    assert found.uncertainty is None
    record = write_case(found, tmp_path, "m", "0" * 64)
    assert record["uncertainty"] is None
    assert names(tmp_path) == {"m.seg.nrrd", "m.html", "m.json"}


def test_two_runs_give_the_same_bits(one_sided, checkpoint, result):
    again = segment(one_sided, checkpoint)
    assert np.array_equal(again.segmentation.labels, result.segmentation.labels)
    assert np.array_equal(again.uncertainty, result.uncertainty)
    assert again.measurements == result.measurements


def test_the_input_is_not_altered(one_sided, checkpoint):
    before = one_sided.array.copy()
    segment(one_sided, checkpoint)
    assert np.array_equal(before, one_sided.array)


def test_a_loaded_predictor_gives_the_same_answer_and_no_other_one_is_taken(one_sided, checkpoint, result):
    loaded = inference.load_predictor(checkpoint, SegmentOptions().device)
    again = segment(one_sided, checkpoint, predictor=loaded)
    assert np.array_equal(again.segmentation.labels, result.segmentation.labels)
    with pytest.raises(OptionError, match="the loaded predictor is of quick, not of phantom-threshold"):
        segment(one_sided, open_checkpoint("phantom-threshold"), predictor=loaded)


def test_progress_never_falls_and_ends_at_1(mouse_file, checkpoint, tmp_path):
    told = []
    segment_file(mouse_file, checkpoint, tmp_path, progress=lambda f, m: told.append((f, m)))
    fractions = [fraction for fraction, _ in told]
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(1)
    assert all(a <= b + 1e-9 for a, b in pairwise(fractions))
    assert len({message for _, message in told}) >= 8
    assert not [m for _, m in told if str(tmp_path) in m or not m.isprintable()]


STAGES = (
    *("Reading the image", "Loading the checkpoint", "Looking at windows", "Cleaning up", "Mapping doubt"),
    *("Measuring", "Contours are ready", "Writing the segmentation", "Writing the map of doubt"),
    *("Drawing slices", "Drawing doubt", "Drawing surfaces", "Figures are ready", "Writing the report"),
)


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_at_every_stage_leaves_nothing(stage, mouse_file, checkpoint, tmp_path):
    def cancel(fraction, message):
        if message == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment_file(mouse_file, checkpoint, tmp_path, progress=cancel)
    assert names(tmp_path) == set()


def test_cancel_keeps_an_earlier_result_whole(mouse_file, checkpoint, tmp_path, no_pictures):
    def cancel(fraction, message):
        if message == "Writing the report":
            raise Cancelled

    segment_file(mouse_file, checkpoint, tmp_path)
    before = {path.name: sha256_file(path) for path in tmp_path.iterdir()}
    with pytest.raises(Cancelled):
        segment_file(mouse_file, checkpoint, tmp_path, options=BARE, progress=cancel)
    assert {path.name: sha256_file(path) for path in tmp_path.iterdir()} == before


# Nothing found


def test_an_empty_result_is_said_and_still_a_whole_case(checkpoint, tmp_path):
    noise = np.random.default_rng(0).integers(40, 80, (20, 20, 20)).astype(np.uint8)
    volume = Volume(noise, geometry_from_spacing((0.5, 0.5, 0.5), "RIA"), "water")
    record = write_case(segment(volume, checkpoint), tmp_path, "water", "0" * 64)
    assert [row["voxels"] for row in record["measurements"]["structures"]] == [0, 0]
    assert any("Nothing was found" in warning for warning in record["warnings"])
    assert record["measurements"]["tumors"]["count"] == 0
    assert {row["mean_entropy_nat"] for row in record["measurements"]["structures"]} == {None}
    check_whole(tmp_path)
    assert "Nothing was found" in (tmp_path / "water.html").read_text("utf-8")
    assert [s.key for s in read_segmentation(tmp_path / "water.seg.nrrd").structures.values()] == [
        "lungs",
        "tumors",
    ]


def test_a_missing_organ_is_said_but_no_tumor_is_not(checkpoint, one_sided):
    def block(value, around):
        array = np.full(one_sided.shape, around, np.uint16)
        array[10:30, 12:32, 10:30] = value
        return segment(Volume(array, one_sided.ijk_to_ras, "block"), checkpoint, BARE)

    only_tumors, only_lungs = block(20, around=60), block(8, around=500)
    assert only_tumors.measurements["tumors"]["count"] == 1
    assert "Not found in this image: Lungs." in only_tumors.warnings
    assert only_lungs.measurements["tumors"]["count"] == 0
    assert only_lungs.segmentation.mask("lungs").any()
    assert not [warning for warning in only_lungs.warnings if "found" in warning]


def test_an_absent_structure_shifts_no_other_in_slicer(one_sided, checkpoint, tmp_path, no_pictures):
    pytest.importorskip("slicer", reason="needs slicer-core")
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    only_tumors = np.full(one_sided.shape, 60, np.uint8)
    only_tumors[10:16, 12:16, 10:13] = 20
    found = segment(turned(Volume(only_tumors, one_sided.ijk_to_ras, "odd")), checkpoint, BARE)
    write_case(found, tmp_path, "odd", "0" * 64)
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "odd.seg.nrrd"))
    assert storage.ReadData(node) == 1
    segments = node.GetSegmentation()
    assert [segments.GetNthSegmentID(n) for n in range(2)] == ["lungs", "tumors"]
    for structure in found.segmentation.structures.values():
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(structure.key, image)
        scalars = image.GetPointData().GetScalars()
        count = int((vtk_to_numpy(scalars) > 0).sum()) if scalars else 0
        assert count == int(found.segmentation.mask(structure.key).sum()), structure.key
        assert segments.GetSegment(structure.key).GetName() == structure.name
        assert segments.GetSegment(structure.key).GetColor() == pytest.approx(structure.color, abs=1e-5)


# Names, other results, stale results


@pytest.fixture
def folder(tmp_path, no_pictures):
    return tmp_path / "out"


@pytest.mark.parametrize(
    "name",
    [
        *("../../escape", "/etc/passwd", "a b", "mäuse ☃", ".hidden", "CON", "nul.txt", "x" * 500, "-rf"),
        *("..", "a\\b", "\n", "a:b", "\udcff"),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_hostile_name_stays_a_plain_file_inside_the_folder(name, result, folder):
    record = write_case(result, folder, name, "0" * 64)
    assert len(names(folder)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,130}", n) for n in names(folder))
    assert not [n for n in names(folder) if n.split(".")[0].lower() in {"con", "nul"}]
    assert names(folder.parent) == {"out"}
    assert record["case"] + ".json" in names(folder)
    check_whole(folder)


def test_names_that_differ_only_in_marks_are_different_cases(result, folder):
    for name in ("mouse", "mouse 2", "mouse ", "mouse_", "möuse"):
        write_case(result, folder, name, hashlib.sha256(name.encode()).hexdigest())
    assert len(names(folder)) == 5 * 4
    check_whole(folder)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/mouse.nrrd", "mouse"),
        ("a/mouse.nii.gz", "mouse"),
        ("a/MOUSE.NII.GZ", "MOUSE"),
        ("mouse.ome.tif", "mouse"),
        ("mouse.v2.nrrd", "mouse.v2"),
        ("a/../b/m.mha", "m"),
    ],
)
def test_a_case_is_named_after_its_file(path, name):
    assert case_name(Path(path)) == name


def test_a_folder_keeps_its_whole_name_and_a_link_its_own(tmp_path, monkeypatch):
    (tmp_path / "series.v2").mkdir()
    (tmp_path / "mouse7.nrrd").symlink_to(tmp_path / "SHA256E-s9--abc")
    assert case_name(tmp_path / "series.v2") == "series.v2"
    assert case_name(tmp_path / "mouse7.nrrd") == "mouse7"
    monkeypatch.chdir(tmp_path / "series.v2")
    assert case_name(Path()) == "series.v2"


def test_the_same_input_again_overwrites_with_the_same_contours(mouse_file, checkpoint, folder):
    first = segment_file(mouse_file, checkpoint, folder)
    digests = first["outputs_sha256"]
    second = segment_file(mouse_file, checkpoint, folder)
    check_whole(folder)
    for name in ("mouse.seg.nrrd", "mouse_uncertainty.nrrd"):
        assert second["outputs_sha256"][name] == digests[name]
    assert second["measurements"] == first["measurements"]


def test_another_input_of_the_same_name_is_refused_before_work_and_changes_nothing(
    mouse_file, checkpoint, folder, tmp_path, monkeypatch
):
    segment_file(mouse_file, checkpoint, folder)
    before = {path.name: sha256_file(path) for path in folder.iterdir()}
    volume = read_volume(mouse_file)
    (tmp_path / "other").mkdir()
    write_scalar_nrrd(tmp_path / "other" / "mouse.nrrd", volume.array[::-1], volume.ijk_to_ras, {})
    monkeypatch.setattr("thoraxseg.pipeline.segment", lambda *a: pytest.fail("work was done"))
    with pytest.raises(OutputError, match=r"the result of another input.*--name"):
        segment_file(tmp_path / "other" / "mouse.nrrd", checkpoint, folder)
    assert {path.name: sha256_file(path) for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"input": 3}', "\xff", '{"input": {"sha256": 1}}', "[" * 99999]
)
def test_a_json_that_is_no_record_is_not_overwritten(text, result, folder):
    folder.mkdir()
    (folder / "mouse.json").write_text(text, encoding="latin-1")
    with pytest.raises(OutputError, match="not a record of ThoraxSeg"):
        write_case(result, folder, "mouse", "0" * 64)
    assert names(folder) == {"mouse.json"}


def test_a_segmentation_corrected_by_hand_is_not_overwritten(mouse_file, checkpoint, folder):
    segment_file(mouse_file, checkpoint, folder)
    (folder / "mouse.seg.nrrd").write_bytes(b"two hours of work in the Segment Editor")
    with pytest.raises(OutputError, match="changed after it was written"):
        segment_file(mouse_file, checkpoint, folder)
    assert (folder / "mouse.seg.nrrd").read_bytes().startswith(b"two hours")
    (folder / "mouse.seg.nrrd").unlink()
    segment_file(mouse_file, checkpoint, folder)
    check_whole(folder)


def test_no_file_of_other_options_stays_beside_a_new_result(mouse_file, checkpoint, folder):
    segment_file(mouse_file, checkpoint, folder)
    assert "mouse_uncertainty.nrrd" in names(folder)
    (folder / "mouse_image.nrrd").write_text("a file of the user, whose name we might take")
    segment_file(mouse_file, checkpoint, folder, SegmentOptions(uncertainty="none"))
    assert names(folder) == {"mouse.seg.nrrd", "mouse.html", "mouse.json", "mouse_image.nrrd"}


@pytest.mark.parametrize("ending", ["_uncertainty.nrrd", "_image.nrrd", ".seg.nrrd"])
def test_a_result_never_takes_the_place_of_its_input(ending, mouse_file, checkpoint, tmp_path):
    path = tmp_path / f"mouse{ending}"
    path.write_bytes(mouse_file.read_bytes())
    with pytest.raises(OutputError, match="is the input"):
        segment_file(path, checkpoint, tmp_path, name="mouse")
    assert path.read_bytes() == mouse_file.read_bytes()
    assert names(tmp_path) == {path.name}


def test_a_stack_without_geometry_gets_its_image_and_a_warning(
    quick_checkpoint, one_sided, folder, tmp_path, capsys
):
    import tifffile

    tifffile.imwrite(tmp_path / "stack.tif", one_sided.array)
    words = ["segment", str(tmp_path / "stack.tif"), "-c", str(quick_checkpoint), "-o", str(folder), "--json"]
    assert main(words) == 3  # the card states no spacing for stacks
    assert "--spacing" in capsys.readouterr().err
    assert main([*words, "--spacing", "0.5,0.5,0.5"]) == 0
    record = strict_json(capsys.readouterr().out)
    assert record["input"]["assumed"]
    assert "stack_image.nrrd" in names(folder)
    assert any("--spacing" in note for note in record["notes"])
    image, contours = read_volume(folder / "stack_image.nrrd"), read_segmentation(folder / "stack.seg.nrrd")
    assert np.array_equal(image.ijk_to_ras, contours.ijk_to_ras)
    assert np.array_equal(image.array, one_sided.array)


def test_a_spacing_for_a_file_that_states_its_own_is_refused(mouse_file, quick_checkpoint, folder, capsys):
    words = ["segment", str(mouse_file), "-c", str(quick_checkpoint), "-o", str(folder), "--spacing", "1"]
    assert main(words) in {2, 3}
    assert "spacing" in capsys.readouterr().err


# The same answer from another process and another surrounding

SURROUNDINGS = {
    "plain": {},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "HOME that is not there": {"HOME": "/nonexistent"},
    "another time zone": {"TZ": "Pacific/Kiritimati"},
    "German": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "ASCII": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "optimized Python": {"PYTHONOPTIMIZE": "2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_every_surrounding_gives_the_same_result(changes, mouse_file, checkpoint, quick_checkpoint, tmp_path):
    image = tmp_path / "mäuse ☃.nrrd"
    image.write_bytes(mouse_file.read_bytes())
    here = segment_file(image, checkpoint, tmp_path / "here")
    environment = {k: v for k, v in {**os.environ, **changes}.items() if v is not None}
    words = ["segment", image, "-c", quick_checkpoint, "-o", tmp_path / "there", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "thoraxseg", *map(str, words)],
        env=environment, cwd="/proc" if Path("/proc").exists() else None, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    there = strict_json(done.stdout.decode("ascii"))
    assert there["case"] == here["case"]
    assert there["input"] == here["input"]
    assert there["measurements"] == here["measurements"]
    assert there["notes"] == here["notes"]
    assert there["warnings"] == here["warnings"]
    for name, digest in here["outputs_sha256"].items():
        if name.endswith(".nrrd"):
            assert there["outputs_sha256"][name] == digest
    check_whole(tmp_path / "there")


def test_a_lung_map_drawn_in_slicer_has_both_lungs_whatever_the_ids_of_its_segments(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 1, 1], labels[2, 2, 2], labels[3, 3, 3] = 1, 2, 3
    names = {
        1: STRUCTURES["right_lung"],
        2: replace(STRUCTURES["left_lung"], key="Segment_3"),
        3: replace(STRUCTURES["heart"], key="Segment_4"),
    }
    path = tmp_path / "lungs.seg.nrrd"
    write_segmentation(path, Segmentation(labels, geometry_from_spacing((1, 1, 1), "LPS"), names, "drawn"))
    found = pipeline._read_channel(path, None, False)
    assert np.array_equal(found.array, (labels == 1) | (labels == 2))
    heart = Segmentation(
        labels // 3, geometry_from_spacing((1, 1, 1), "LPS"), {1: STRUCTURES["heart"]}, "drawn"
    )
    write_segmentation(path, heart)
    with pytest.raises(
        InputError, match="expected a segmentation with lungs, to be used as lung map, it has Heart"
    ):
        pipeline._read_channel(path, None, False)
