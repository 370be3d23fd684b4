"""A picture of the segments in 3-D: smooth surfaces, organs see-through, tumors solid."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import to_ras

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_EDGE = 72
"""Voxels along the longest edge after thinning: enough for a picture, few enough triangles to draw quickly."""
FINE_EDGE = 200
"""The same for tumors: thinned, small ones would look several times as large as they are."""
LIGHT = np.array([-0.3, 0.85, 0.45])
"""Direction to the lamp in RAS: in front of the animal, above, a little to its left."""
SOLID = {"tumors", "heart", "spinal_cord"}
SMALL_PARTS = {"tumors"}
"""What may be a few voxels here and there: none of them may vanish in thinning and smoothing."""
BACKGROUND, TEXT = "#10151c", "#dfe6ee"
VIEWS = {"from the front": (8, 90), "from the side": (8, 180)}
"""Elevation and azimuth of the camera in degrees; azimuth 90 looks from the front, 180 from the left (RAS)."""


def draw_surfaces(segmentation: Segmentation) -> bytes:
    """Return a PNG with the segments' surfaces from two sides; an empty segmentation gives an empty box."""
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    triangles, colors = _scene(segmentation)
    figure = Figure(figsize=(9, 5.2), facecolor=BACKGROUND)
    for column, (title, (elevation, azimuth)) in enumerate(VIEWS.items(), start=1):
        axis = figure.add_subplot(1, len(VIEWS), column, projection="3d")
        axis.set_axis_off()
        axis.set_facecolor(BACKGROUND)
        axis.view_init(elevation, azimuth)
        axis.set_proj_type("ortho")
        axis.set_title(title, color=TEXT, fontsize=10, y=0.02)
        if len(triangles):
            # One collection for all: matplotlib sorts by depth only inside a collection.
            axis.add_collection3d(Poly3DCollection(triangles, facecolors=colors, edgecolors="none"))
            low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
            axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
            axis.set_box_aspect(np.maximum(high - low, 1e-3), zoom=1.25)
        else:
            axis.text2D(0.5, 0.5, "nothing found", transform=axis.transAxes, color=TEXT, ha="center")
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    return to_png(figure)


def to_png(figure: Figure, dpi: int = 130) -> bytes:
    """Return the figure as PNG bytes, the same for the same figure (no version or date inside)."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None}
    )
    return buffer.getvalue()


def _scene(segmentation: Segmentation) -> tuple[np.ndarray, np.ndarray]:
    """Return triangles `(N, 3, 3)` in RAS mm and their lit colors `(N, 4)`."""
    triangles, colors = [np.zeros((0, 3, 3))], [np.zeros((0, 4))]
    for value, structure in segmentation.structures.items():
        mask = segmentation.labels == value
        corners = _surface(mask, segmentation.ijk_to_ras, structure.key in SMALL_PARTS)
        if len(corners) == 0:
            continue
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        # Either side of a triangle may face the lamp: the order of corners depends on handedness.
        light = 0.45 + 0.55 * np.abs(normals @ (LIGHT / np.linalg.norm(LIGHT)))
        alpha = 1.0 if structure.key in SOLID else 0.2
        lit = np.clip(light[:, None] * np.array(structure.color), 0, 1)
        triangles.append(corners)
        colors.append(np.column_stack([lit, np.full(len(lit), alpha)]))
    return np.concatenate(triangles), np.concatenate(colors)


def _surface(mask: np.ndarray, ijk_to_ras: np.ndarray, keep_all: bool) -> np.ndarray:
    """Return the triangles `(N, 3, 3)` in RAS mm around a bool mask, empty for an empty mask.

    `keep_all` shows even a single voxel beside large parts, at the price of a rougher surface.
    """
    from scipy.ndimage import find_objects, gaussian_filter, maximum_filter
    from skimage.measure import marching_cubes

    boxes = find_objects(mask.astype(np.uint8))
    if not boxes:
        return np.zeros((0, 3, 3))
    box = boxes[0]
    edge = FINE_EDGE if keep_all else MAX_EDGE
    stride = max(1, -(-max(s.stop - s.start for s in box) // edge))
    rim = stride + 2  # keeps the surface closed
    solid = np.pad(mask[box].astype(np.float32), rim)
    smooth = gaussian_filter(solid, 0.5 * stride + 0.3)
    if keep_all:  # the filter lets every voxel reach a point that thinning looks at
        smooth = np.maximum(smooth, 0.7 * maximum_filter(solid, stride))
    level = min(0.5, 0.5 * float(smooth.max()))
    vertices, faces, _, _ = marching_cubes(smooth, level, step_size=stride)
    start = np.array([s.start for s in box])
    return to_ras(ijk_to_ras, vertices - rim + start)[faces]
