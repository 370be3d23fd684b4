"""Headers of NRRD, NIfTI and MetaImage: what they promise is checked before use (SAFETY R15-R21)."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.io import StackGeometry, hash_input, read_volume

SUPPLIED = StackGeometry((0.5, 0.25, 0.125), "RIA", "from the card of checkpoint mouse")


@pytest.fixture
def matrix(tools):
    return tools.matrix("LPS")


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


# What a file is


@pytest.mark.parametrize("suffix", ["nrrd", "nii", "nii.gz", "mha", "tif", "dat"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty file (0 bytes)"),
        (b"hello there", "a text file"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git-LFS pointer"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
        (b"\x00\x01\x02\x03" * 100, "unknown bytes"),
    ],
    ids=["empty", "text", "html", "lfs", "zip", "noise"],
)
def test_a_file_that_is_no_image_is_named_for_what_it_is(suffix, content, word, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    refused(path, str(path), word, "Known are NRRD")


def test_a_missing_path_is_named(tmp_path):
    refused(tmp_path / "nothing.nrrd", "nothing.nrrd", "there is none")


def test_a_name_that_promises_another_kind_is_refused(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix).rename(tmp_path / "a.nii")
    refused(path, "promises NIfTI", "content is NRRD")


def test_an_unknown_suffix_does_not_matter_when_the_content_is_known(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix).rename(tmp_path / "scan")
    assert np.array_equal(read_volume(path).array, phantom)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix)
    path.chmod(0)
    refused(path, "cannot be read", "ermission")


def test_an_error_of_the_disk_is_an_input_error(tools, phantom, matrix, tmp_path, monkeypatch):
    from thoraxseg.io import kinds

    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix)

    def failing(path, count=0):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(kinds, "head", failing)
    refused(path, "cannot be read: Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_instead_of_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.nrrd")
    refused(tmp_path / "a.nrrd", "device or pipe")


# Truncation and length


@pytest.mark.parametrize("kind", ["nrrd", "nii", "mha"])
def test_a_truncated_file_is_refused_and_says_how_many_bytes_are_missing(
    kind, tools, phantom, matrix, tmp_path
):
    write = {"nrrd": tools.nrrd, "nii": tools.nifti, "mha": tools.mha}[kind]
    path = write(tmp_path / f"a.{kind}", phantom, matrix)
    path.write_bytes(path.read_bytes()[:-33])
    refused(path, "promises 4", "33 are missing")


@pytest.mark.parametrize("kind", ["nrrd", "nii", "mha"])
def test_bytes_too_many_are_refused(kind, tools, phantom, matrix, tmp_path):
    write = {"nrrd": tools.nrrd, "nii": tools.nifti, "mha": tools.mha}[kind]
    path = write(tmp_path / f"a.{kind}", phantom, matrix)
    path.write_bytes(path.read_bytes() + b"12345")
    refused(path, "5 are too many")


def compressed_files(tools, phantom, matrix, folder):
    return [
        tools.nrrd(folder / "a.nrrd", phantom, matrix, encoding="gzip"),
        tools.nifti(folder / "a.nii.gz", phantom, matrix),
        tools.mha(folder / "a.mha", phantom, matrix, compressed=True),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["nrrd", "nii.gz", "mha"])
def test_truncated_compressed_data_is_refused(which, tools, phantom, matrix, tmp_path):
    path = compressed_files(tools, phantom, matrix, tmp_path)[which]
    path.write_bytes(path.read_bytes()[:-20])
    message = refused(path, "truncated")
    assert "compressed" in message


@pytest.mark.parametrize("which", [0, 1, 2], ids=["nrrd", "nii.gz", "mha"])
def test_a_wrong_checksum_is_refused(which, tools, phantom, matrix, tmp_path):
    path = compressed_files(tools, phantom, matrix, tmp_path)[which]
    data = bytearray(path.read_bytes())
    data[-6 if which < 2 else -2] ^= 0xFF  # gzip ends with CRC and length, zlib with its checksum
    path.write_bytes(data)
    refused(path, "damaged", "check")


@pytest.mark.parametrize("which", [0, 1], ids=["nrrd", "nii.gz"])
def test_garbage_after_compressed_data_is_refused(which, tools, phantom, matrix, tmp_path):
    path = compressed_files(tools, phantom, matrix, tmp_path)[which]
    path.write_bytes(path.read_bytes() + b"garbage")
    refused(path, "unknown bytes follow")


def test_gzip_in_several_members_is_read(tools, phantom, matrix, tmp_path):
    data = tools.nifti(tmp_path / "a.nii", phantom, matrix).read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"".join(gzip.compress(data[n : n + 100]) for n in range(0, len(data), 100)))
    with pytest.raises(InputError):  # the header must lie in the first member, as every writer puts it
        read_volume(path)
    path.write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    assert np.array_equal(read_volume(path).array, phantom)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["nrrd", "nii.gz", "mha"])
def test_the_limit_of_decoded_bytes_holds_and_can_be_raised(which, tools, phantom, matrix, tmp_path):
    path = compressed_files(tools, phantom, matrix, tmp_path)[which]
    refused(path, "the limit for compressed data is 100", max_decoded_bytes=100)
    assert np.array_equal(read_volume(path, max_decoded_bytes=10_000).array, phantom)


def test_a_small_file_that_promises_gigabytes_is_refused_before_memory_is_taken(
    tools, phantom, matrix, tmp_path
):
    sizes = {"sizes": "2000 1000 500"}
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra=sizes), "promises 2,000,000,000")
    refused(tools.nrrd(tmp_path / "b.nrrd", phantom, matrix, extra=sizes, encoding="gzip"), "cannot hold")
    refused(tools.nrrd(tmp_path / "c.nrrd", phantom, matrix, extra=sizes, encoding="ascii"), "missing")
    sizes = {"DimSize": "2000 1000 500"}
    refused(tools.mha(tmp_path / "a.mha", phantom, matrix, extra=sizes, compressed=True), "cannot hold")


def test_more_data_than_the_header_promises_is_refused(tools, phantom, matrix, tmp_path):
    sizes = {"sizes": "7 6 4"}
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra=sizes, encoding="gzip"), "more follow")
    refused(tools.nrrd(tmp_path / "b.nrrd", phantom, matrix, extra=sizes, encoding="ascii"), "168", "210")


# Values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["nrrd", "nii.gz", "mha"])
def test_not_a_number_is_refused_and_counted(kind, bad, tools, phantom, matrix, tmp_path):
    array = phantom.astype(np.float32)
    array[1:3, 2, 3] = bad
    write = {"nrrd": tools.nrrd, "nii.gz": tools.nifti, "mha": tools.mha}[kind]
    refused(write(tmp_path / f"a.{kind}", array, matrix), "2 of 210 voxels are NaN or infinite")


def test_a_constant_image_is_refused(tools, phantom, matrix, tmp_path):
    refused(
        tools.nrrd(tmp_path / "a.nrrd", np.full_like(phantom, 7), matrix), "all 210 voxels have the value 7"
    )


# Shapes and types


def test_color_vector_and_time_are_refused_with_shape_and_type(tools, phantom, matrix, tmp_path):
    directions = "none (1,0,0) (0,1,0) (0,0,1)"
    extra = {"dimension": "4", "sizes": "3 7 2 5", "space directions": directions, "kinds": "RGB-color d d d"}
    refused(
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra=extra), "[3, 7, 2, 5]", "short", "RGB-color"
    )
    channels = {"ElementNumberOfChannels": "3", "DimSize": "7 2 5"}
    refused(tools.mha(tmp_path / "a.mha", phantom, matrix, extra=channels), "3 channel", "MET_SHORT")
    array = {"ElementType": "MET_UCHAR_ARRAY"}
    refused(tools.mha(tmp_path / "b.mha", phantom, matrix, extra=array), "MET_UCHAR_ARRAY")
    for code, word in (
        (128, "RGB"),
        (32, "complex"),
        (2304, "RGBA"),
        (1536, "128-bit"),
        (1, "1-bit"),
        (7, "7"),
    ):
        path = tools.patch(tools.nifti(tmp_path / "a.nii", phantom, matrix), 70, "<h", code)
        refused(path, word, "[7, 6, 5]")
    path = tools.patch(tools.nifti(tmp_path / "a.nii", phantom, matrix), 40, "<5h", 4, 7, 6, 1, 5)
    refused(path, "[7, 6, 1, 5]", "time point")


def test_a_trailing_axis_of_one_is_dropped_and_said(tools, phantom, matrix, tmp_path):
    path = tools.patch(tools.nifti(tmp_path / "a.nii", phantom, matrix), 40, "<5h", 4, 7, 6, 5, 1)
    directions = " ".join(
        f"({','.join(str(-v if r < 2 else v) for r, v in enumerate(matrix[:3, c]))})" for c in range(3)
    )
    lead = {"dimension": "4", "sizes": "1 7 6 5", "space directions": f"none {directions}"}
    trail = {"dimension": "4", "sizes": "7 6 5 1", "space directions": f"{directions} none"}
    mha = {"NDims": "4", "DimSize": "7 6 5 1", "ElementSpacing": "0.15 0.2 0.3 1", "Offset": "0 0 0 0"}
    mha["TransformMatrix"] = "1 0 0 0  0 1 0 0  0 0 1 0  0 0 0 1"
    for made in (
        path,
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra=lead),
        tools.nrrd(tmp_path / "b.nrrd", phantom, matrix, extra=trail),
        tools.mha(tmp_path / "a.mha", phantom, matrix, extra=mha),
    ):
        volume = read_volume(made)
        assert np.array_equal(volume.array, phantom)
        assert np.allclose(volume.spacing_mm, tools.spacing_mm)
        assert any("dropped" in note for note in volume.notes)


def test_a_single_picture_is_refused(tools, phantom, matrix, tmp_path):
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom[:1], matrix), "at least 2 slices", "(1, 6, 7)")
    flat = {"dimension": "2", "sizes": "7 30", "space directions": "(1,0,0) (0,1,0)"}
    refused(tools.nrrd(tmp_path / "b.nrrd", phantom, matrix, extra=flat), "[7, 30]")
    refused(
        tools.mha(tmp_path / "a.mha", phantom, matrix, extra={"NDims": "2", "DimSize": "7 30"}), "[7, 30]"
    )
    path = tools.patch(tools.nifti(tmp_path / "a.nii", phantom, matrix), 40, "<3h", 2, 7, 30)
    refused(path, "[7, 30]")


@pytest.mark.parametrize("size", ["0", "-5"])
def test_dimensions_below_one_are_refused(size, tools, phantom, matrix, tmp_path):
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"sizes": f"7 6 {size}"}), "positive")
    refused(tools.mha(tmp_path / "a.mha", phantom, matrix, extra={"DimSize": f"7 6 {size}"}), "positive")
    path = tools.patch(tools.nifti(tmp_path / "a.nii", phantom, matrix), 46, "<h", int(size))
    refused(path, "positive")


# NRRD


def test_an_nrrd_needs_a_known_magic_and_complete_known_fields(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix)
    path.write_bytes(path.read_bytes().replace(b"NRRD0004", b"NRRD0009"))
    refused(path, "NRRD0001 to NRRD0005", "NRRD0009")
    for field in ("type", "dimension", "sizes", "encoding", "endian"):
        refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, drop=[field]), field)
    refused(
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"spase origin": "(0,0,0)"}), "spase origin"
    )
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"type": "block"}), "block")
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"encoding": "hex"}), "hex")
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"dimension": "4"}), "agree")
    refused(
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space origin": "(0,0)"}), "three numbers"
    )
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space origin": "(0,0,x)"}), "vectors")


@pytest.mark.parametrize(
    "space",
    ["right-anterior-superior-time", "left-posterior-superior-time", "scanner-xyz", "3D-right-handed"],
)
def test_an_nrrd_space_other_than_the_patients_is_refused(space, tools, phantom, matrix, tmp_path):
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space": space}), "space", space.lower())


def test_nrrd_units_are_converted_and_said(tools, phantom, matrix, tmp_path):
    for unit in ("um", "\u00b5m", "micron"):
        micro = matrix.copy()
        micro[:3] *= 1000
        extra = {"space units": f'"{unit}" "{unit}" "{unit}"'}
        volume = read_volume(tools.nrrd(tmp_path / "a.nrrd", phantom, micro, extra=extra))
        assert np.allclose(volume.ijk_to_ras, matrix, rtol=1e-12)
        assert any("converted to mm" in note for note in volume.notes)
    assert (
        read_volume(
            tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space units": '"mm" "mm" "mm"'})
        ).notes
        == ()
    )
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space units": '"mm" "mm" "s"'}), "mm")
    refused(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"space units": '"parsec"'}), "parsec")


def test_an_nrrd_without_origin_says_that_zero_was_assumed(tools, phantom, matrix, tmp_path):
    volume = read_volume(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, drop=["space origin"]))
    assert np.array_equal(volume.ijk_to_ras[:3, 3], (0, 0, 0))
    assert any("no origin" in note for note in volume.notes)


def test_nrrd_byte_skip_is_followed(tools, phantom, matrix, tmp_path):
    for skip, junk in (("4", b"junk"), ("-1", b"any length of junk")):
        path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={"byte skip": skip})
        data = path.read_bytes()
        start = data.index(b"\n\n") + 2
        path.write_bytes(data[:start] + junk + data[start:])
        assert np.array_equal(read_volume(path).array, phantom)


def test_an_nrrd_with_windows_line_ends_is_read(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix)
    header, data = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(header.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data)
    assert np.array_equal(read_volume(path).array, phantom)


def test_a_segmentation_given_as_an_image_is_refused(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.seg.nrrd", phantom, matrix)
    path.write_bytes(path.read_bytes().replace(b"# comment", b"Segment0_ID:=heart"))
    refused(path, "got a segmentation")


# Geometry that is not stated


def test_no_orientation_is_refused_unless_supplied_and_then_said(tools, phantom, matrix, tmp_path):
    nowhere = ["space", "space directions", "space origin"]
    silent = [
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, drop=nowhere),
        tools.nrrd(tmp_path / "b.nrrd", phantom, matrix, drop=["space directions"]),
        tools.nrrd(tmp_path / "c.nrrd", phantom, matrix, drop=nowhere, extra={"spacings": "1 1 1"}),
        tools.mha(tmp_path / "a.mha", phantom, matrix, drop=["ElementSpacing"]),
    ]
    for path in silent:
        refused(path, "states no geometry", "--spacing slice,row,column")
        volume = read_volume(path, SUPPLIED)
        assert volume.geometry_assumed
        assert volume.spacing_mm == SUPPLIED.spacing_mm
        assert volume.axis_codes == "RIA"
        assert "0.5 x 0.25 x 0.125 mm and axes RIA were assumed (from the card" in volume.notes[-1]
        assert np.array_equal(volume.array, phantom)


def test_spacing_without_orientation_is_used_and_said(tools, phantom, matrix, tmp_path):
    nowhere = ["space", "space directions", "space origin"]
    stated = [
        tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, drop=nowhere, extra={"spacings": "0.15 0.2 0.3"}),
        tools.nrrd(
            tmp_path / "b.nrrd",
            phantom,
            matrix,
            drop=nowhere,
            extra={"spacings": "150 200 300", "units": '"um" "um" "um"'},
        ),
        tools.mha(tmp_path / "a.mha", phantom, matrix, drop=["TransformMatrix"]),
        tools.nifti(tmp_path / "a.nii", phantom, matrix, forms=""),
    ]
    for path in stated:
        refused(path, "0.3 x 0.2 x 0.15 mm but not which way")
        volume = read_volume(path, SUPPLIED)
        assert np.allclose(volume.spacing_mm, (0.3, 0.2, 0.15))
        assert volume.axis_codes == "RIA" and volume.geometry_assumed
        assert "axes RIA were assumed" in volume.notes[-1]
        refused(path, "--spacing says 0.5 x", stack_geometry=SUPPLIED, spacing_given=True)


def test_spacing_given_for_a_file_that_states_its_geometry_is_refused(tools, phantom, matrix, tmp_path):
    path = tools.nrrd(tmp_path / "a.nrrd", phantom, matrix)
    refused(
        path, "--spacing is for stacks", "0.3 x 0.2 x 0.15 mm", stack_geometry=SUPPLIED, spacing_given=True
    )
    assert not read_volume(path, SUPPLIED).geometry_assumed  # from a card: simply not needed


def test_axis_letters_that_name_no_orientation_are_refused(tools, phantom, matrix, tmp_path):
    path = tools.mha(tmp_path / "a.mha", phantom, matrix, drop=["TransformMatrix"])
    refused(path, "three axis letters", stack_geometry=StackGeometry((1, 1, 1), "RLA", "test"))


# NIfTI


def test_a_nifti_of_another_version_or_layout_is_refused(tools, phantom, matrix, tmp_path):
    made = lambda: tools.nifti(tmp_path / "a.nii", phantom, matrix)  # noqa: E731
    refused(tools.patch(made(), 344, "4s", b"ni1\0"), ".hdr, .img")
    refused(tools.patch(made(), 344, "4s", b"\0\0\0\0"), "Analyze")
    refused(tools.patch(made(), 344, "4s", b"n+9\0"), "n+9")
    refused(tools.patch(made(), 40, "<h", 9), "1 to 7 dimensions")
    refused(tools.patch(made(), 72, "<h", 8), "bits per voxel")
    for offset in (float("nan"), float("inf"), 0.0, 300.0, 352.5, -400.0):
        refused(tools.patch(made(), 108, "<f", offset), "offset")
    refused(tools.patch(made(), 108, "<f", 400.0), "missing")
    refused(tools.patch(made(), 123, "<B", 5), "code 5")
    path = made()
    path.write_bytes(path.read_bytes()[:340])
    refused(path, "340 bytes")


def test_nifti_units_are_converted_and_said(tools, phantom, matrix, tmp_path):
    for units, factor in (("micron", 1000), ("meter", 0.001)):
        scaled = matrix.copy()
        scaled[:3] *= factor
        for forms in ("sq", "q"):
            volume = read_volume(tools.nifti(tmp_path / "a.nii", phantom, scaled, units=units, forms=forms))
            assert np.allclose(volume.ijk_to_ras, matrix, rtol=1e-6, atol=1e-6)
            assert [note for note in volume.notes if "converted to mm" in note]
            assert len(volume.notes) == 1
    volume = read_volume(tools.nifti(tmp_path / "a.nii", phantom, matrix, units="unknown"))
    assert volume.notes == ("The NIfTI header states no unit of length: mm was assumed.",)
    assert read_volume(tools.nifti(tmp_path / "a.nii", phantom, matrix)).notes == ()


def test_the_sform_wins_over_a_different_qform_and_says_so(tools, phantom, matrix, tmp_path):
    path = tools.nifti(tmp_path / "a.nii", phantom, matrix)
    tools.patch(path, 268, "<f", float(matrix[0, 3]) + 0.075)  # half a voxel in the qform's offset
    volume = read_volume(path)
    assert np.allclose(volume.ijk_to_ras, matrix, atol=1e-6)
    assert any("disagree by up to 0.5 voxels" in note for note in volume.notes)


def test_a_pixdim_that_contradicts_the_sform_is_said(tools, phantom, matrix, tmp_path):
    path = tools.nifti(tmp_path / "a.nii", phantom, matrix, forms="s")
    tools.patch(path, 80, "<3f", 1, 1, 1)
    volume = read_volume(path)
    assert np.allclose(volume.spacing_mm, (0.3, 0.2, 0.15))
    assert any("pixdim of 1 x 1 x 1 mm: the sform was used" in note for note in volume.notes)


def test_a_broken_qform_is_refused_when_it_is_all_there_is(tools, phantom, matrix, tmp_path):
    made = lambda: tools.nifti(tmp_path / "a.nii", phantom, matrix, forms="q")  # noqa: E731
    refused(tools.patch(made(), 256, "<3f", 1, 1, 1), "unit quaternion")
    refused(tools.patch(made(), 80, "<f", 0), "positive spacings")
    refused(tools.patch(made(), 80, "<f", float("nan")), "finite")


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_slope_and_intercept_are_applied(suffix, tools, phantom, matrix, tmp_path):
    path = tools.nifti(tmp_path / "a.nii", phantom, matrix)
    tools.patch(path, 112, "<2f", 0.5, -10)
    if suffix == "nii.gz":
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    volume = read_volume(tmp_path / f"a.{suffix}")
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, phantom * 0.5 - 10)
    for slope in (0.0, float("nan")):
        tools.patch(path, 112, "<2f", slope, 5)
        assert read_volume(path).array.dtype == np.int16
    for slope, inter in ((float("inf"), 0), (1, float("nan")), (1, float("inf"))):
        tools.patch(path, 112, "<2f", slope, inter)
        refused(path, "finite slope")


# MetaImage


def test_a_metaimage_with_a_strange_header_is_refused(tools, phantom, matrix, tmp_path):
    def bad(extra=(), drop=(), **options):
        return tools.mha(tmp_path / "a.mha", phantom, matrix, extra=extra, drop=drop, **options)

    refused(bad({"ElementSpacing": "0.15 -0.2 0.3"}), "positive spacings")
    refused(bad({"ElementSpacing": "0.15 0 0.3"}), "positive spacings")
    refused(bad({"ElementSpacing": "0.15 nan 0.3"}), "finite")
    refused(bad({"ElementSpacing": "0.15 0.3"}), "3 finite numbers")
    refused(bad({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}), "length 1")
    refused(bad({"ObjectType": "Tube"}), "Tube")
    refused(bad({"BinaryData": "False"}), "binary")
    refused(bad({"BinaryData": "perhaps"}), "True or False")
    refused(bad({"DimSize": "7 6 5.5"}), "whole numbers")
    refused(bad(drop=["DimSize"]), "positive")
    refused(bad(drop=["BinaryDataByteOrderMSB"]), "BinaryDataByteOrderMSB")
    refused(bad({"ElementToIntensityFunctionSlope": "2"}), "not supported")
    refused(bad({"CompressedDataSize": "12"}, compressed=True), "expected 12 compressed bytes")
    assert any("no origin" in note for note in read_volume(bad(drop=["Offset"])).notes)
    path = bad()
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile", b"ElementDataFila"))
    refused(path, "a.mha")


@pytest.mark.parametrize("alias", ["Position", "Origin"])
def test_metaimage_keys_have_aliases(alias, tools, phantom, matrix, tmp_path):
    path = tools.mha(tmp_path / "a.mha", phantom, matrix)
    text = path.read_bytes().replace(b"Offset =", alias.encode() + b" =")
    path.write_bytes(text.replace(b"TransformMatrix", b"Rotation").replace(b"ElementSpacing", b"ElementSize"))
    assert np.allclose(read_volume(path).ijk_to_ras, matrix)


def test_a_metaimage_header_size_is_followed(tools, phantom, matrix, tmp_path):
    for size in ("-1", "4"):
        extra = {"ElementDataFile": "a.raw", "HeaderSize": size}
        path = tools.mha(tmp_path / "a.mhd", phantom, matrix, extra=extra)
        (tmp_path / "a.raw").write_bytes(b"junk" + (tmp_path / "a.raw").read_bytes())
        assert np.array_equal(read_volume(path).array, phantom)


# Detached headers (R21)


@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
@pytest.mark.parametrize(
    "target",
    [
        "../secret.raw",
        "sub/secret.raw",
        "sub\\secret.raw",
        "/etc/passwd",
        "C:secret.raw",
        "https://example.org/a.raw",
        "LIST",
        "a%03d.raw 1 5 1",
        "*.raw",
        "..",
    ],
)
def test_a_detached_header_reads_no_file_outside_its_folder(kind, target, tools, phantom, matrix, tmp_path):
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret.raw", home / "sub" / "secret.raw"):
        place.write_bytes(phantom.tobytes())
    write, key = (tools.nrrd, b"data file: ") if kind == "nhdr" else (tools.mha, b"ElementDataFile = ")
    extra = {"data file": "a.raw"} if kind == "nhdr" else {"ElementDataFile": "a.raw"}
    path = write(home / f"a.{kind}", phantom, matrix, extra=extra)
    path.write_bytes(path.read_bytes().replace(key + b"a.raw", key + target.encode()))
    refused(path, "plain name of a data file")


@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_a_detached_header_needs_its_data_file_and_follows_no_link(kind, tools, phantom, matrix, tmp_path):
    write = tools.nrrd if kind == "nhdr" else tools.mha
    extra = {"data file": "a.raw"} if kind == "nhdr" else {"ElementDataFile": "a.raw"}
    path = write(tmp_path / f"a.{kind}", phantom, matrix, extra=extra)
    before = hash_input(path)
    assert np.array_equal(read_volume(path).array, phantom)
    refused(path, "names 'a.raw'", allow_detached=False)
    (tmp_path / "a.raw").write_bytes(bytes(420))
    assert hash_input(path) != before  # the voxels count, not only the header
    (tmp_path / "a.raw").unlink()
    refused(path, "'a.raw' is not beside it")
    if hasattr(os, "symlink") and os.name == "posix":
        (tmp_path / "elsewhere.raw").write_bytes(phantom.tobytes())
        (tmp_path / "a.raw").symlink_to(tmp_path / "elsewhere.raw")
        refused(path, "plain name")


def test_the_package_is_light_to_import():
    import subprocess
    import sys

    code = "import sys, thoraxseg.io as io; heavy = {'SimpleITK', 'pydicom', 'tifffile', 'nrrd'}; "
    code += "print(sorted(heavy & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_reading_does_not_change_the_file(tools, phantom, matrix, tmp_path):
    for path in compressed_files(tools, phantom, matrix, tmp_path):
        before = path.read_bytes()
        volume = read_volume(path)
        volume.array[...] = 0  # a private, writable copy
        assert path.read_bytes() == before
