"""TIFF stacks: one file or a folder of pages; the geometry comes from outside and is said."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.io import ASSUMED_KEY, StackGeometry, hash_input, read_volume, write_scalar_nrrd
from thoraxseg.volume import geometry_from_spacing

tifffile = pytest.importorskip("tifffile")
SUPPLIED = StackGeometry((0.15625, 0.1953125, 0.15625), "RIA", "from --spacing")


@pytest.fixture
def stack(phantom):
    return (phantom + 200).astype(np.uint16)


def refused(path, *words, stack_geometry=SUPPLIED, **options):
    with pytest.raises(InputError) as caught:
        read_volume(path, stack_geometry, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def folder_of_pages(folder, stack, names=None):
    folder.mkdir(exist_ok=True)
    for k, page in enumerate(stack):
        tifffile.imwrite(folder / (names[k] if names else f"slice{k + 1}.tif"), page)
    return folder


WRITERS = {
    "plain": {},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "no text": {"metadata": None, "photometric": "minisblack"},
    "big tiff": {"bigtiff": True},
    "big endian": {"byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "strips": {"rowsperstrip": 2},
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_a_stack_is_read_page_row_column_with_the_geometry_supplied(writer, kind, stack, tmp_path):
    path = tmp_path / ("a.ome.tif" if writer == "ome" else "a.tif")
    array = (stack % 250).astype(kind)
    tifffile.imwrite(path, array, **WRITERS[writer])
    volume = read_volume(path, SUPPLIED)
    assert np.array_equal(volume.array, array) and volume.array.dtype == array.dtype
    assert volume.array.dtype.isnative
    assert volume.spacing_mm == SUPPLIED.spacing_mm
    assert volume.axis_codes == "RIA" and volume.geometry_assumed
    assert volume.notes == (
        "The stack states no geometry: spacing 0.15625 x 0.1953125 x 0.15625 mm and axes RIA were assumed "
        "(from --spacing).",
    )
    read_volume(path, SUPPLIED, spacing_given=True)


def test_a_stack_without_supplied_geometry_is_refused_with_the_remedy(stack, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack)
    refused(tmp_path / "a.tif", "Pass --spacing slice,row,column in mm", stack_geometry=None)


def test_a_spacing_that_holds_for_another_shape_is_not_assumed(stack, tmp_path):
    path, shape = tmp_path / "a.tif", stack.shape
    tifffile.imwrite(path, stack)
    fits = StackGeometry((0.3, 0.5, 0.25), "RIA", "the card of x", shape)
    assert read_volume(path, fits).spacing_mm == (0.3, 0.5, 0.25)
    other = StackGeometry((0.3, 0.5, 0.25), "RIA", "the card of x", (shape[0] + 1, *shape[1:]))
    refused(path, "voxels only, not for", "Pass --spacing", stack_geometry=other)


def test_a_guessed_geometry_stays_a_guess_when_the_image_is_read_again(stack, tmp_path):
    path = tmp_path / "a_image.nrrd"
    for word, assumed in (("assumed", True), ("stated", False)):
        write_scalar_nrrd(path, stack, geometry_from_spacing((0.3, 0.5, 0.25), "RIA"), {ASSUMED_KEY: word})
        volume = read_volume(path, None)
        assert volume.geometry_assumed is assumed and volume.spacing_mm == pytest.approx((0.3, 0.5, 0.25))
        assert any("was assumed when ThoraxSeg wrote it" in note for note in volume.notes) is assumed


@pytest.mark.parametrize("unit", ["mm", "micron", "um", "\\u00B5m"])
def test_spacing_that_imagej_states_is_used_but_orientation_is_still_assumed(unit, stack, tmp_path):
    path = tmp_path / "a.tif"
    factor = 1 if unit == "mm" else 1000
    tifffile.imwrite(
        path,
        stack,
        imagej=True,
        resolution=(1 / (0.25 * factor), 1 / (0.5 * factor)),
        metadata={"axes": "ZYX", "spacing": 0.3 * factor, "unit": unit},
    )
    volume = read_volume(path, SUPPLIED)
    assert np.allclose(volume.spacing_mm, (0.3, 0.5, 0.25), rtol=1e-5)
    assert volume.geometry_assumed and volume.axis_codes == "RIA"
    assert "states a spacing of 0.3 x 0.5 x 0.25 mm" in volume.notes[0]
    assert "axes RIA were assumed" in volume.notes[0]
    refused(path, "--spacing says", spacing_given=True)
    refused(path, "not which way its axes run", stack_geometry=None)
    agreeing = StackGeometry((0.3, 0.5, 0.25), "RIA", "from --spacing")
    assert read_volume(path, agreeing, spacing_given=True).geometry_assumed


def test_imagej_spacing_without_a_unit_is_not_trusted(stack, tmp_path):
    path = tmp_path / "a.tif"
    for metadata in ({"spacing": 3.0, "unit": "pixel"}, {"spacing": 3.0}, {"unit": "mm"}):
        tifffile.imwrite(path, stack, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", **metadata})
        assert read_volume(path, SUPPLIED).spacing_mm == SUPPLIED.spacing_mm


def test_spacing_that_ome_states_is_used(stack, tmp_path):
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 150.0, "PhysicalSizeY": 200.0, "PhysicalSizeZ": 0.3, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX", **sizes})
    assert np.allclose(read_volume(path, SUPPLIED).spacing_mm, (0.3, 0.2, 0.15))


def test_channels_and_time_points_are_refused(stack, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TYX"})
    refused(tmp_path / "a.tif", "frames", "Image > Properties")
    tifffile.imwrite(tmp_path / "b.tif", stack, imagej=True, metadata={"axes": "CYX"})
    refused(tmp_path / "b.tif", "channels")
    tifffile.imwrite(tmp_path / "c.ome.tif", stack, ome=True, metadata={"axes": "CYX"})
    refused(tmp_path / "c.ome.tif", "'C': 5")


def test_color_and_inverted_pages_are_refused(stack, tmp_path):
    rgb = np.stack([stack % 250] * 3, axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    refused(tmp_path / "rgb.tif", "gray", "(6, 7, 3)", "RGB")
    tifffile.imwrite(tmp_path / "white.tif", stack, photometric="miniswhite")
    refused(tmp_path / "white.tif", "MINISWHITE")


def test_pages_that_differ_are_refused(stack, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(stack[0], metadata=None)
        tif.write(stack[1, :4], metadata=None)
    refused(tmp_path / "a.tif", "one shape", "(6, 7)", "(4, 7)")
    with tifffile.TiffWriter(tmp_path / "b.tif") as tif:
        tif.write(stack[0], metadata=None)
        tif.write(stack[1].astype(np.uint8), metadata=None)
    refused(tmp_path / "b.tif", "uint8")


def test_a_single_page_is_refused(stack, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack[0])
    refused(tmp_path / "a.tif", "single image")
    refused(folder_of_pages(tmp_path / "one", stack[:1]), "got one")


def test_a_truncated_stack_is_refused_wherever_it_ends(stack, tmp_path, caplog):
    for name, options in WRITERS.items():
        path = tmp_path / ("a.ome.tif" if name == "ome" else "a.tif")
        tifffile.imwrite(path, stack, **options)
        whole = path.read_bytes()
        kept = []
        for end in range(8, len(whole), 13):
            path.write_bytes(whole[:end])
            try:
                volume = read_volume(path, SUPPLIED)
                assert np.array_equal(volume.array, stack), (name, end)  # only text at the end was lost
                kept.append(end)
            except InputError:
                pass
        assert not kept or min(kept) > len(whole) - 64, (name, kept)


def test_a_stack_past_4_gb_of_imagej_is_read_from_its_one_page_entry(stack, tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(stack, metadata={"axes": "ZYX"})
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    data[first + 2 + 12 * entries : first + 6 + 12 * entries] = bytes(4)  # cut the chain after page 1
    path.write_bytes(data)
    assert np.array_equal(read_volume(path, SUPPLIED).array, stack)
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[0].dataoffsets[0]
    path.write_bytes(data[: start + stack.nbytes - 1])
    refused(path, "5 slices")


def test_a_circle_of_pages_is_refused(stack, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, metadata=None)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    data[first + 2 + 12 * entries : first + 6 + 12 * entries] = data[4:8]
    path.write_bytes(data)
    refused(path, "circle")


def test_compressed_pages_have_a_limit(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((50, 100, 100), np.uint8), compression="zlib")
    refused(tmp_path / "a.tif", "limit for compressed data", max_decoded_bytes=100_000)


def test_a_folder_is_read_in_natural_order(stack, tmp_path):
    array = np.concatenate([stack, stack + 1000, stack + 2000])
    folder = folder_of_pages(tmp_path / "pages", array)  # slice10 comes after slice9
    assert np.array_equal(read_volume(folder, SUPPLIED).array, array)


def test_other_files_in_a_folder_are_ignored_and_counted(stack, tmp_path):
    folder = folder_of_pages(tmp_path / "pages", stack)
    (folder / "scan.log").write_text("SkyScan")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "sub").mkdir()
    volume = read_volume(folder, SUPPLIED)
    assert np.array_equal(volume.array, stack)
    assert "1 file(s) in the folder that are not TIFF were ignored: scan.log." in volume.notes


def test_a_missing_page_in_a_folder_is_refused(stack, tmp_path):
    folder = folder_of_pages(tmp_path / "pages", stack)
    (folder / "slice3.tif").unlink()
    refused(folder, "slice2.tif followed by slice4.tif")


def test_a_damaged_or_different_page_in_a_folder_is_refused_and_named(stack, tmp_path):
    folder = folder_of_pages(tmp_path / "pages", stack)
    (folder / "slice5.tif").write_bytes(b"")
    refused(folder, "slice5.tif", "empty")
    tifffile.imwrite(folder / "slice5.tif", stack[0, :3])
    refused(folder, "slice5.tif", "(3, 7)")
    tifffile.imwrite(folder / "slice5.tif", stack[:2], metadata=None)
    refused(folder, "slice5.tif", "one page per file")


def test_links_out_of_a_folder_are_refused(stack, tmp_path):
    folder = folder_of_pages(tmp_path / "pages", stack)
    tifffile.imwrite(tmp_path / "outside.tif", stack[0])
    try:
        (folder / "slice6.tif").symlink_to(tmp_path / "outside.tif")
    except OSError:
        pytest.skip("links are not allowed here")
    refused(folder, "leaves the folder")


def test_a_folder_without_images_is_refused_with_what_it_holds(tools, phantom, tmp_path):
    refused(tmp_path, "an empty folder")
    (tmp_path / "sub").mkdir()
    refused(tmp_path, "1 folder(s)", "subfolder")
    tools.nrrd(tmp_path / "a.nrrd", phantom, tools.matrix("RAS"))
    refused(tmp_path, "such as a.nrrd")


def test_the_hash_of_a_folder_follows_content_and_order(stack, tmp_path):
    one = hash_input(folder_of_pages(tmp_path / "a", stack))
    assert one == hash_input(folder_of_pages(tmp_path / "b", stack))
    assert one != hash_input(folder_of_pages(tmp_path / "c", stack[::-1]))
    assert len(one) == 64
