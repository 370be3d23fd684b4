"""Figures for papers: what is drawn is what was given, in its place, and no name can break or steer them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from thoraxseg.report.montage import disagreement_montage, slices_of_disagreement
from thoraxseg.report.plots import (
    agreement_matrix,
    bland_altman_plot,
    box_plots,
    paired_plot,
)
from thoraxseg.report.publication import (
    SERIES_COLORS,
    color_of,
    distinct,
    figures_of,
    file_stem,
    shown,
)
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.volume import geometry_from_spacing, reorient

SVG = "{http://www.w3.org/2000/svg}"
LIMITS = {"bias": 2.0, "sd": 5.0, "low": -7.8, "high": 11.8, "bias_low": -1.0, "bias_high": 5.0, "n": 2}
HOSTILE = "$x_{$ </text><script>alert(1)</script> \x1b[31m \udcff 日本 %s {0} " + "long name " * 20
LUNGS = {1: STRUCTURES["right_lung"], 2: STRUCTURES["left_lung"]}


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"), dtype=float) / 255


def near(picture: np.ndarray, color, tolerance=0.1) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return (np.abs(picture - to_rgb(color)) < tolerance).all(axis=2)


def texts(picture) -> list[tuple[str, float, float]]:
    """Return the words of an SVG with the place of each, in points from the upper left."""
    found = []
    for one in ElementTree.fromstring(picture.svg).iter(f"{SVG}text"):
        found.append(("".join(one.itertext()), float(one.get("x", "nan")), float(one.get("y", "nan"))))
    return found


def words(picture) -> list[str]:
    return [text for text, _, _ in texts(picture)]


def place(picture, text: str) -> tuple[float, float]:
    (found,) = [(x, y) for said, x, y in texts(picture) if said == text]
    return found


def markers(picture, color: str, part: str = "fill") -> list[tuple[float, float]]:
    """Return the places of the points of one color in an SVG, as drawn; rings have it as their `stroke`."""
    found = []
    for one in ElementTree.fromstring(picture.svg).iter(f"{SVG}use"):
        if f"{part}: {color.lower()}" in one.get("style", ""):
            found.append((float(one.get("x")), float(one.get("y"))))
    return found


def all_pictures(name: str):
    grid = np.zeros((6, 7, 8), np.uint8)
    grid[2:4, 2:5, 2:5] = 1
    yield box_plots({name: {name: [1, 2, 3, 4, 5.0], "b": [1.0]}}, name, name, {(name, name): name})
    yield box_plots({name: {name: [1, 2, 3, 4, 5.0]}}, name, name)
    yield bland_altman_plot([1, 2.0], [2, 3.0], name, LIMITS, name, [name, "b"])
    yield agreement_matrix([name, "b"], [[1, 0.5], [0.5, 1]], name, name)
    yield paired_plot([1.0], [2.0], [name], name, name, name, name, name, (1, 0, 2))
    yield disagreement_montage([grid, np.roll(grid, 1, 2)], [name, "b"], {1: STRUCTURES["tumors"]}, np.eye(4))


@pytest.fixture(scope="module")
def pictures():
    return list(all_pictures("heart"))


@pytest.mark.parametrize("name", [HOSTILE, r"$\unknown$ ^_^ 100 % \\", ""], ids=ascii)
def test_a_name_is_drawn_as_text_whatever_it_holds(name):
    for picture in all_pictures(name):
        assert pixels(picture.png).std() > 0.01
        tags = {one.tag for one in ElementTree.fromstring(picture.svg).iter()}
        assert f"{SVG}script" not in tags and not any("foreign" in tag for tag in tags)
        for said in (picture.title, picture.caption, *words(picture)):
            assert said.isprintable() and not re.search("[\ud800-\udfff]", said)
        assert re.fullmatch("[a-z0-9_]{1,60}", picture.name)
        assert max(pixels(picture.png).shape) < 3000


def test_the_same_values_give_the_same_bytes(pictures):
    for first, second in zip(pictures, all_pictures("heart"), strict=True):
        assert first == second
        assert b"matplotlib.org" not in first.svg and b"<dc:date>" not in first.svg
        assert b"Software" not in first.png


def test_drawing_leaves_the_settings_of_matplotlib_and_its_windows_alone():
    code = (
        "import sys, thoraxseg.report.plots as plots; assert 'matplotlib' not in sys.modules;"
        "import matplotlib; before = matplotlib.rcParams.copy();"
        "plots.box_plots({'Heart': {'a': [1.0]}}, 'DSC', '');"
        "assert matplotlib.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)


def test_every_picture_is_white_and_its_letters_stay_letters_in_the_svg(pictures):
    for picture in pictures:
        image = pixels(picture.png)
        for corner in (image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]):
            assert corner == pytest.approx([1, 1, 1])
        assert any("heart" in said.lower() for said in words(picture))
        assert b"sans-serif" in picture.svg
        assert picture.width_px == image.shape[1] * 120 // 200


# Boxes.


def test_four_values_are_points_and_five_have_a_box():
    tint = [1 - 0.28 * (1 - c) for c in STRUCTURES["heart"].color]
    four = box_plots({"Heart": {"a": [0.1, 0.2, 0.3, 0.4]}}, "DSC", "")
    five = box_plots({"Heart": {"a": [0.1, 0.2, 0.3, 0.4, 0.5]}}, "DSC", "")
    assert near(pixels(four.png), tint, 0.03).sum() < 50  # rims of points
    assert near(pixels(five.png), tint, 0.03).sum() > 1000
    red = "#db2626"
    assert len(markers(four, red)) == 4 and len(markers(five, red)) == 5


def test_sixty_values_are_points_and_more_are_a_box_with_outliers():
    values = [*np.linspace(0.4, 0.6, 60).tolist(), 5.0]
    assert len(markers(box_plots({"Heart": {"a": values[1:]}}, "DSC", ""), "#db2626")) == 60
    many = box_plots({"Heart": {"a": values}}, "DSC", "")
    assert markers(many, "#db2626") == [] and len(markers(many, "#db2626", "stroke")) == 1
    few = box_plots({"Heart": {"a": values[50:]}}, "DSC", "")
    assert len(markers(few, "#db2626")) == 11 and markers(few, "#db2626", "stroke") == []


def test_values_that_are_missing_are_left_out_and_n_says_so():
    picture = box_plots({"Heart": {"a": [0.5, None, float("nan"), 0.6], "b": []}}, "DSC", "")
    assert [said for said in words(picture) if said.isdigit()] == ["2", "0"]
    assert len(markers(picture, SERIES_COLORS[0])) == 2
    empty = box_plots({"Heart": {"a": [None]}}, "DSC", "")
    assert "no values" in words(empty)
    assert "no values" in words(box_plots({}, "DSC", "")) or pixels(box_plots({}, "DSC", "").png).any()


def test_the_median_line_lies_at_the_median_and_larger_values_lie_higher():
    picture = box_plots({"Heart": {"a": [0, 0, 1, 9, 10.0]}}, "DSC", "")
    ys = sorted(y for _, y in markers(picture, "#db2626"))
    image = pixels(picture.png)
    scale = image.shape[0] / float(re.search(rb'height="([\d.]+)pt"', picture.svg)[1])
    lines = near(image, "#1a1a1a", 0.05)
    middle = image.shape[1] * 6 // 10
    rows = np.flatnonzero(lines[:, middle - 40 : middle + 40].mean(axis=1) > 0.8) / scale
    # Of the sorted points the third from below is the median.
    assert np.abs(rows - ys[2]).min() < 1.0
    assert not (np.abs(rows - ys[1]) < 1.0).any()


def test_a_mark_stands_above_its_own_box_and_nowhere_else():
    values = {o: {m: [0.5, 0.6, 0.7, 0.8, 0.9] for m in ("a", "b")} for o in ("Heart", "Spinal cord")}
    picture = box_plots(values, "DSC", "", {("Spinal cord", "b"): "*"})
    x, y = place(picture, "*")
    counts = sorted((left for said, left, _ in texts(picture) if said == "5"))
    assert x == pytest.approx(counts[3], abs=1)
    assert y < min(top for left, top in markers(picture, SERIES_COLORS[1]) if left > counts[2])
    assert "footnotes" in picture.caption
    assert "*" not in words(box_plots(values, "DSC", ""))


def test_every_structure_has_a_panel_and_a_single_series_has_one_panel_in_the_structures_colors():
    two = {o: {m: [0.5, 0.6, 0.7, 0.8, 0.9] for m in ("2d", "3d")} for o in ("Heart", "Spinal cord")}
    panels = box_plots(two, "HD95", "mm")
    assert {"Heart", "Spinal cord", "HD95 (mm)"} <= set(words(panels))
    assert words(panels).count("2d") == words(panels).count("3d") == 2
    single = box_plots({o: {"2d": series["2d"]} for o, series in two.items()}, "HD95", "mm")
    assert len(markers(single, "#db2626")) == len(markers(single, "#21a640")) == 5
    assert "Of 2d." in single.caption


def test_one_far_value_makes_its_panel_logarithmic_and_only_that_one():
    close = {"a": [0.28, 0.3, 0.31, 0.4, 0.42], "b": [0.28, 0.3, 0.31, 0.4, 0.5]}
    far = {"a": [0.28, 0.3, 0.31, 0.4, 0.42], "b": [0, 0.3, 0.31, 0.4, 118.0]}
    picture = box_plots({"Heart": close, "Right lung": far}, "HD95", "mm")
    assert words(picture).count("HD95 (mm), log axis") == 1
    assert "logarithmic" in picture.caption
    assert len(markers(picture, SERIES_COLORS[1])) == 10
    ys = [y for _, y in markers(picture, SERIES_COLORS[1])]
    assert min(ys) > 0
    both = box_plots({"Heart": far, "Right lung": far}, "HD95", "mm")
    assert words(both).count("HD95 (mm), log axis") == 2
    ys = sorted(y for _, y in markers(both, SERIES_COLORS[0]))
    assert ys[-1] - ys[0] > 2  # 0.28 and 0.42 beside 118
    plain = box_plots({"Heart": close}, "HD95", "mm")
    assert "log axis" not in " ".join(words(plain)) and "logarithmic" not in plain.caption


def test_panels_of_like_range_share_their_axis():
    def top(high):
        values = {
            "Heart": {"a": [0.5, 0.6], "b": [0.55]},
            "Tumors": {"a": [0.5, high], "b": [0.55]},
        }
        picture = box_plots(values, "DSC", "")
        heart = [y for x, y in markers(picture, SERIES_COLORS[0]) if x < 250]
        return max(heart) - min(heart)

    assert top(0.6) > 1.8 * top(0.7)  # the same 0.1 is drawn smaller where the other panel needs the room
    assert top(5) == pytest.approx(top(0.6), rel=0.1)


# Bland and Altman.


def test_a_larger_prediction_lies_above_zero_and_the_numbers_stand_beside_the_lines():
    picture = bland_altman_plot([100, 200, None, 5], [110, 190, 3, float("nan")], "mm³", LIMITS, "Heart")
    points = sorted(markers(picture, "#0072b2"))
    assert len(points) == 2
    assert points[0][1] < points[1][1]  # 110 of 100 above, 190 of 200 below
    said = " ".join(words(picture))
    assert "(n = 2)" in said and "prediction − reference (mm³)" in said
    for number in ("2.00", "−7.80", "11.8"):
        assert number in said and number in picture.caption
    assert "95 % confidence −1.00 to 5.00 mm³" in picture.caption


def test_the_two_sides_are_called_what_they_are():
    picture = bland_altman_plot([1, 2], [2, 3], "", LIMITS, "DSC", sides=("2d", "3d_fullres"))
    assert {"3d_fullres − 2d", "Mean of 2d and 3d_fullres"} <= set(words(picture))
    assert "3d_fullres minus 2d" in picture.caption and "reference" not in picture.caption


def test_limits_that_are_undefined_are_not_drawn():
    none = dict.fromkeys(LIMITS, None)
    picture = bland_altman_plot([100], [110], "mm³", {**none, "bias": 10.0}, "Heart")
    said = " ".join(words(picture))
    assert "limit" not in said and "bias" in said
    assert "undefined" in picture.caption and "confidence" not in picture.caption
    band = np.array([0.87, 0.93, 0.965])
    assert not near(pixels(picture.png), band, 0.02).any()
    assert near(pixels(bland_altman_plot([100], [110], "mm³", LIMITS, "Heart").png), band, 0.02).any()
    assert "no values" in words(bland_altman_plot([None], [1], "mm³", none, "Heart"))


def test_groups_have_colors_of_their_own_and_a_legend():
    picture = bland_altman_plot([1, 2, 3], [1, 3, 3], "mm³", LIMITS, "all", ["Heart", "Spinal cord", "Heart"])
    assert len(markers(picture, "#db2626")) == 3  # two and the legend's
    assert len(markers(picture, "#21a640")) == 2
    assert {"Heart", "Spinal cord"} <= set(words(picture))


# Matrix.


def test_the_numbers_of_a_matrix_stand_in_their_rows_and_columns():
    matrix = [[float("nan"), 0.12, 0.34], [0.87, 1.0, 0.56], [0.43, 0.65, float("nan")]]
    picture = agreement_matrix(["one", "two", "three"], matrix, "Dice", "Heart")
    assert words(picture).count("–") == 2
    (x12, y12), (x87, y87), (x56, y56) = (place(picture, n) for n in ("0.12", "0.87", "0.56"))
    assert x12 > x87 and y12 < y87  # row 0, column 1 lies right of and above row 1, column 0
    assert x56 > x12 and y56 == pytest.approx(y87, abs=0.5)
    assert {"one", "two", "three", "Dice", "Heart"} <= set(words(picture))


def test_more_agreement_is_darker():
    picture = agreement_matrix(["a", "b"], [[0.2, 0.9], [0.5, 0.2]], "Dice", "Heart")
    image = pixels(picture.png)
    scale = image.shape[1] / float(re.search(rb'width="([\d.]+)pt"', picture.svg)[1])

    def shade(number):
        x, y = place(picture, number)
        return image[int((y - 14) * scale), int(x * scale)].sum()

    assert shade("0.90") < shade("0.50") - 0.3


@pytest.mark.parametrize("count", [1, 2, 25])
def test_a_matrix_of_any_size_can_be_opened(count):
    names = [f"Radiologist {n} of the second hospital, first round" for n in range(count)]
    values = np.full((count, count), 0.5)
    picture = agreement_matrix(names, values, "HD95 (mm)", "Heart")
    assert len(pixels(picture.png)) > 200
    assert words(picture).count("0.50") >= (count**2 if count <= 20 else 0)
    assert agreement_matrix(names, values * np.nan, "Dice", "Heart").png


# Pairs.


def test_pairs_are_joined_and_their_differences_are_in_order():
    a, b = [5, 1, 3, None], [4, 3, 3, 7]
    picture = paired_plot(a, b, ["s1", "s2", "s3", "s4"], "ours", "theirs", "DSC", "", "p = 0.5 of n = 3")
    assert "s4" not in words(picture) and "p = 0.5 of n = 3" in words(picture)
    heights = [place(picture, name)[1] for name in ("s1", "s3", "s2")]
    assert heights == sorted(heights)  # the largest difference of a - b on top
    assert len(markers(picture, SERIES_COLORS[0])) == 3  # of s1: two values and their difference
    assert len(markers(picture, SERIES_COLORS[5])) == 3
    assert "3 pairs" in picture.caption and "DSC: ours − theirs" in words(picture)
    differences = [max(markers(picture, SERIES_COLORS[n])) for n in (0, 5)]
    assert differences[0][0] > differences[1][0]  # 5 - 4 lies right of 1 - 3


@pytest.mark.parametrize("count", [0, 1, 35, 200])
def test_any_number_of_pairs_gives_a_figure_for_a_page(count):
    values = np.linspace(0, 1, count)
    picture = paired_plot(values, values**2, [f"scan {n}" for n in range(count)], "a", "b", "DSC", "", "")
    assert pixels(picture.png).shape[0] <= 1400
    assert ("no values" in words(picture)) == (count == 0)
    assert ("scan 0" in words(picture)) == (0 < count <= 45)


def test_the_median_difference_and_its_interval_are_drawn():
    given = ([1, 2, 3], [0, 1, 3], ["x", "y", "z"], "a", "b", "DSC", "", "")
    band = np.array([0.919, 0.919, 0.919])
    with_effect = paired_plot(*given, (0.5, 0.0, 1.0))
    assert near(pixels(with_effect.png), band, 0.01).sum() > 1000
    assert "Hodges-Lehmann" in with_effect.caption
    assert near(pixels(paired_plot(*given).png), band, 0.01).sum() < 200


# Montage.


def boxes(codes: str = "RAS"):
    """Return two observers' boxes at the patient's upper right, one with a lower left one, and their grid."""
    first = np.zeros((24, 24, 24), np.uint8)
    first[15:21, 9:15, 14:22] = 1  # superior, right
    second = first.copy()
    second[3:9, 9:15, 2:10] = 2  # inferior, left: by the second alone
    matrix = geometry_from_spacing((1, 1, 1), "RAS")
    maps = [reorient(one, matrix, codes)[0] for one in (first, second)]
    return maps, reorient(first, matrix, codes)[1]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
def test_the_right_lies_on_the_left_and_the_head_above(codes):
    maps, matrix = boxes(codes)
    picture = disagreement_montage(maps, ["a", "b"], LUNGS, matrix)
    image = pixels(picture.png)[:-60]  # without the legend
    panel = image[:, : image.shape[1] // (picture.svg.count(b" mm</text>") - 1)]
    height, width = panel.shape[:2]
    rows, columns = np.nonzero(near(panel, SERIES_COLORS[0]))
    assert len(rows) > 50
    assert (columns < width / 2).mean() > 0.95 and (rows < height * 0.55).mean() > 0.95
    rows, columns = np.nonzero(near(panel, SERIES_COLORS[1]))
    low = rows > height * 0.55
    assert low.sum() > 50 and (columns[low] > width / 2).all()
    assert place(picture, "R")[0] < place(picture, "L")[0]
    assert "patient's right on the left" in picture.caption


def test_every_storage_of_the_same_anatomy_gives_the_same_montage():
    first = disagreement_montage(boxes()[0], ["a", "b"], LUNGS, boxes()[1])
    maps, matrix = boxes("PIL")
    assert disagreement_montage(maps, ["a", "b"], LUNGS, matrix).png == first.png


def test_swapped_observers_swap_their_colors():
    maps, matrix = boxes()
    pictures = [disagreement_montage(m, ["a", "b"], LUNGS, matrix) for m in (maps, maps[::-1])]
    straight, swapped = (pixels(p.png) for p in pictures)
    low = slice(int(len(straight) * 0.5), int(len(straight) * 0.85))
    for image, color, other in ((straight, 1, 0), (swapped, 0, 1)):
        assert near(image[low], SERIES_COLORS[color]).sum() > 50
        assert near(image[low], SERIES_COLORS[other]).sum() == 0


def test_structures_that_touch_are_told_apart():
    maps, matrix = boxes()
    halves = maps[0].copy()
    halves[18:21][halves[18:21] > 0] = 2  # the upper half is another structure

    def inked(labels):
        image = pixels(disagreement_montage([labels], ["a"], LUNGS, matrix).png)
        return near(image[:-60], SERIES_COLORS[0], 0.3).sum()

    assert inked(halves) > 1.2 * inked(maps[0])


def test_an_image_lies_below_the_contours_and_is_not_painted_over():
    maps, matrix = boxes()
    image = np.full(maps[0].shape, 10, np.int16)
    image[maps[1] == 2] = 1000
    picture = pixels(disagreement_montage(maps, ["a", "b"], LUNGS, matrix, image).png)
    dark, bright = near(picture, "black", 0.02), near(picture, "white", 0.02)
    assert dark.mean() > 0.3
    panel = picture.shape[1] // 4
    assert bright[int(len(picture) * 0.5) : int(len(picture) * 0.85), panel // 2 : panel].mean() > 0.15
    consensus = pixels(disagreement_montage(maps, ["a", "b"], LUNGS, matrix).png)
    assert near(consensus, "#b9bec5", 0.02).mean() > 0.02  # where both marked
    assert near(consensus, "#dcdee2", 0.02).mean() > 0.02  # where one of two did


def test_the_share_of_unlike_pairs_is_a_second_row_where_it_is():
    maps, matrix = boxes()
    share = (maps[0] != maps[1]).astype(np.float32)
    picture = disagreement_montage(maps, ["a", "b"], LUNGS, matrix, None, share)
    image = pixels(picture.png)
    red = near(image, (0.5, 0, 0.15), 0.06)
    red[:, int(image.shape[1] * 0.9) :] = False  # the scale
    rows, columns = np.nonzero(red)
    assert rows.min() > len(image) * 0.4
    panel = image.shape[1] * 0.88 / 4
    assert len(rows) > 1000 and (columns % panel > panel * 0.4).mean() > 0.95
    assert "share of pairs" in " ".join(words(picture))


def test_slices_are_those_with_most_disagreement_apart_from_one_another():
    doubt = np.zeros((80, 4, 4), np.float32)
    marked = np.zeros(doubt.shape, bool)
    marked[8:72] = True
    doubt[20:23], doubt[21], doubt[40], doubt[60], doubt[70], doubt[10] = 0.5, 0.9, 0.3, 0.4, 0.2, 0.1
    assert slices_of_disagreement(doubt, marked) == [21, 40, 60, 70]
    assert slices_of_disagreement(doubt[::-1], marked[::-1]) == [9, 19, 39, 58]
    assert slices_of_disagreement(doubt * 0, marked) == [16, 32, 48, 64]
    assert slices_of_disagreement(doubt * 0, marked & False) == [10, 30, 50, 70]
    assert slices_of_disagreement(doubt[:1] * 0, marked[:1]) == [0]


def test_observers_who_agree_are_not_said_to_disagree():
    maps, matrix = boxes()
    alike = disagreement_montage([maps[0], maps[0]], ["a", "b"], LUNGS, matrix)
    assert "all alike" in alike.caption and "disagreement" not in alike.caption
    assert "most disagreement" in disagreement_montage(maps, ["a", "b"], LUNGS, matrix).caption


def test_the_slices_shown_say_where_they_lie():
    maps, matrix = boxes()
    matrix[1, 3] = -20
    maps[1][:] = maps[0]
    maps[1][3:9, 12, 2:10] = 2
    picture = disagreement_montage(maps, ["a", "b"], LUNGS, matrix)
    assert [said for said in words(picture) if re.fullmatch(r"[AP] [\d.]+ mm", said)] == ["P 8.0 mm"]


def test_assumed_sides_are_not_shown_as_known():
    maps, matrix = boxes()
    picture = disagreement_montage(maps, ["a", "b"], LUNGS, matrix, sides_assumed=True)
    assert "R?" in words(picture) and "R" not in words(picture)
    assert "assumed" in picture.caption and "patient's right" not in picture.caption


@pytest.mark.parametrize("count", [1, 18])
def test_every_observer_has_a_line_of_its_own_in_the_legend(count):
    from thoraxseg.report.montage import line_of

    maps, matrix = boxes()
    names = [f"observer {n}" for n in range(count)]
    picture = disagreement_montage([maps[n % 2] for n in range(count)], names, LUNGS, matrix)
    assert set(names) <= set(words(picture))
    assert len({(line_of(n, count)["color"], str(line_of(n, count)["ls"])) for n in range(count)}) == count


@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 3, 2), (3, 2, 300)], ids=str)
@pytest.mark.parametrize("value", [0, 1])
def test_an_odd_or_empty_grid_gives_a_montage_that_can_be_opened(shape, value):
    labels = np.full(shape, value, np.uint8)
    image = np.full(shape, 7.0, np.float32)
    picture = disagreement_montage([labels, labels], ["a", "b"], LUNGS, np.eye(4), image, image * 0)
    assert max(pixels(picture.png).shape) < 2000
    assert ("nothing is marked" in words(picture)) == (value == 0)


# Words.


def test_cut_names_stay_different():
    assert distinct(["a", "b"]) == ["a", "b"]
    long = [f"Radiologist {n} at the second hospital, first round" for n in range(12)]
    cut = distinct(long)
    assert len(set(cut)) == 12 and all(len(name) <= 24 and str(n) in name for n, name in enumerate(cut))
    hard = [f"{'x' * 50}{n}{'y' * 60}{n}{'z' * 50}" for n in range(3)]
    assert len(set(distinct(hard))) == 3 and max(map(len, distinct(hard))) <= 24
    assert distinct([]) == []


def test_signs_that_no_font_has_are_shown_by_their_number():
    assert shown("\U00010000") == "\\U00010000"  # a sign of Linear B
    assert shown("m\udcc3\udca4use") == "m\u00e4use"  # UTF-8 read by a program in an ASCII locale
    assert shown("µ ± é $x$") == "µ ± é $x$"
    assert shown("a\nb\x1b") == "a\\nb\\x1b"
    assert len(shown("x" * 500)) == 40


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0.00"), (1, "1.00"), (-0.03125, "−0.0312"), (12345.6, "12,346"), (0.28, "0.280"), (3e-9, "3.00e−09"),
     (float("nan"), "–"), (99.96, "100.0")],
)  # fmt: skip
def test_a_number_has_three_digits(value, said):
    assert figures_of(value) == said


def test_the_stem_of_a_file_is_only_a_stem():
    assert file_stem("Bland-Altman: Heart (mm³)") == "bland_altman_heart_mm"
    assert file_stem("../../etc/passwd") == "etc_passwd"
    assert file_stem("日本") == "figure"
    assert len(file_stem("a" * 300)) == 60


def test_structures_keep_their_colors_and_pale_ones_are_darkened():
    assert color_of("Heart", 3) == color_of("heart", 0) == STRUCTURES["heart"].color
    yellow = color_of("Left lung", 0)
    assert yellow[0] > 0.6 and yellow[2] < 0.2 and sum(yellow) < sum(STRUCTURES["left_lung"].color)
    assert color_of("liver", 0) != color_of("liver", 1)
