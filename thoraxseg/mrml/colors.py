"""The color ramp of a map of doubt: dark violet (little) over red and orange to light yellow (much)."""

from __future__ import annotations

import numpy as np

COLORS = 256
COLOR_NODE_NAME = "ThoraxSeg doubt"

_LMS_FROM_OKLAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def doubt_colors() -> np.ndarray:
    """Return the ramp as sRGB, `(256, 3)`, 0 to 1.

    Lightness rises in even steps, so that more doubt is brighter for every kind of color vision and in
    gray print too; hue turns from violet to yellow; colorfulness is a parabola, so that no step looks
    like an edge. Computed in Oklab; no color leaves sRGB.
    Source: B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    share = np.linspace(0.0, 1.0, COLORS)
    lightness = 0.28 + 0.65 * share
    chroma = 0.11 + 0.30 * share * (1.0 - share)
    hue = np.radians(310.0 + 150.0 * share)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = (lab @ _LMS_FROM_OKLAB.T) ** 3 @ _RGB_FROM_LMS.T
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def doubt_color_node(scene):
    """Return the scene's color table with the ramp of doubt, made on first use.

    It is built here because the wheels of slicer-core ship no color files.
    """
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLColorTableNode")
        if node.GetAttribute("ThoraxSeg.Colors") == "doubt":
            return node
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", COLOR_NODE_NAME)
    node.SetAttribute("ThoraxSeg.Colors", "doubt")
    node.SetAttribute("Category", "ThoraxSeg")
    node.SetTypeToUser()
    node.SetNumberOfColors(COLORS)
    for index, (red, green, blue) in enumerate(doubt_colors().tolist()):
        node.SetColor(index, f"{index / (COLORS - 1):.0%}", red, green, blue, 1.0)
    return node
