"""The tutorial's ten steps on a painted phantom: the road it describes works, and its pictures show what they say."""

from __future__ import annotations

import os
from ctypes.util import find_library

import numpy as np
import pytest
import slicer
from PIL import Image

from Testing import tutorial

LUNGS, TUMORS = np.array([64, 158, 242]), np.array([242, 76, 38])


@pytest.fixture
def followed(tumorLogic, tumorMouse, tmp_path, vtkMessages):
    """The facts and the folder of pictures."""
    if find_library("EGL") is None and "THORAXSEG_REQUIRE_QT" not in os.environ:
        pytest.skip("drawing without a display needs the system library libEGL")
    vtkMessages.expect("FileGenericColors")  # the wheel ships no color files
    return tutorial.follow(tumorLogic, tumorMouse, "painted-lung-tumor", tmp_path), tmp_path


def has_color(picture, color, within=40) -> bool:
    return bool((np.abs(picture.astype(int) - color).max(axis=-1) < within).any())


def test_the_tutorial_walks_from_a_scan_to_accepted_contours_and_shows_it(followed):
    facts, folder = followed
    assert slicer.app.applicationLogic().GetSliceLogics().GetNumberOfItems() == 0, "its views are gone again"
    assert {level for _, level, _ in facts["lights"]} == {"green"}
    assert facts["measured"].tumors["count"] == 2, "one of three was corrected away"
    assert facts["time"]["editing_by_structure_s"]["Tumors"] >= 0
    pictures = {
        path.stem.removeprefix("tutorial-"): np.array(Image.open(path)) for path in folder.glob("*.jpg")
    }
    assert set(pictures) == {"contours", "doubt", "corrected", "surfaces"}
    half = tutorial.SIZE[0]
    plain, contours = pictures["contours"][:, :half], pictures["contours"][:, -half:]
    assert not has_color(plain, LUNGS)
    assert not has_color(plain, TUMORS, within=80)
    assert has_color(contours, LUNGS)
    assert has_color(contours, TUMORS, within=80), "its thin line is blurred by JPEG"
    doubted = pictures["doubt"][:, -half:].astype(int)
    assert np.ptp(doubted, axis=-1).max() > 100, "the overlay has colors"
    assert not has_color(doubted, LUNGS), "and lies there without the contours"
    assert (pictures["corrected"][:, :half] != pictures["corrected"][:, -half:]).any()
    assert has_color(pictures["surfaces"], TUMORS)
