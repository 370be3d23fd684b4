"""The tutorial of docs/slicer.md, step by step through Logic calls, with the pictures that the page shows.

    python -m Testing.tutorial docs/pictures

runs it on the real mouse of the demo with the published DeepMeta weights; a test runs the same steps on a phantom.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from Testing import slicer_app
from Testing.slicer_views import SliceView, ThreeDView

SIZE = (500, 500)
GAP = 6
"""Pixels between two pictures that stand side by side."""


def follow(logic, volume_node, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Walk from a scan to accepted contours and write the pictures into a folder; return the facts of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    with SliceView("Red", _acquired_orientation(volume_node), SIZE) as red:
        return _walk(red, logic, volume_node, checkpoint, folder)


def _walk(red: SliceView, logic, volume_node, checkpoint: str, folder: Path) -> dict[str, Any]:
    import slicer

    facts: dict[str, Any] = {}

    # The scan, and what the traffic lights say of it.
    _show_alone(red, volume_node)
    facts["lights"] = [(light.title, light.level.name.lower(), light.sentence)
                       for light in logic.preflight.lights(volume_node, checkpoint)]  # fmt: skip

    # One press of Run.
    logic.time.open(volume_node, "Anna")
    run = logic.runs.start(volume_node, checkpoint)
    run.wait(600)
    if run.error:
        raise RuntimeError(run.error)
    contours, doubt = run.segmentationNode, run.uncertaintyNode
    facts["warnings"] = list(run.warnings)
    facts["run_s"] = run.elapsedSeconds

    # Look where the model doubts.
    logic.time.look()
    logic.review.show(contours)
    facts["doubtful"] = doubtful = logic.review.nextDoubtfulSlice(contours)
    contours.SetDisplayVisibility(False)
    logic.review.setUncertaintyVisible(contours, False)
    _brighten(volume_node)
    plain = red.array()
    logic.review.setUncertaintyVisible(contours, True)
    doubted = red.array()
    logic.review.setUncertaintyVisible(contours, False)
    contours.SetDisplayVisibility(True)
    _outline(contours)
    drawn = red.array()
    _write(folder / "tutorial-contours.jpg", plain, drawn)
    _write(folder / "tutorial-doubt.jpg", drawn, doubted)

    # Correct by hand: what a brush does, here in one stroke for the doubtful part of the second structure.
    first, second = (contours.GetSegmentation().GetNthSegmentID(n) for n in (0, 1))
    logic.time.edit(contours.GetSegmentation().GetSegment(second).GetName())
    given = slicer.util.arrayFromSegmentBinaryLabelmap(contours, first, volume_node)
    taken = slicer.util.arrayFromSegmentBinaryLabelmap(contours, second, volume_node)
    part = _most_doubtful_part(taken, slicer.util.arrayFromVolume(doubt), doubtful.k)
    facts["corrected_voxels"] = int(part.sum())
    taken[part], given[part] = 0, 1
    for segment_id, mask in ((first, given), (second, taken)):
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, contours, segment_id, volume_node)
    _write(folder / "tutorial-corrected.jpg", drawn, red.array())

    # Accept, measure, see it whole.
    from ThoraxSegLib.Review import Verdict

    logic.review.setVerdict(contours, Verdict.ACCEPTED)
    facts["measured"] = logic.measurements.measure(contours)
    facts["time"] = logic.time.soFar()
    contours.CreateClosedSurfaceRepresentation()
    _see_through(contours)
    with ThreeDView(size=SIZE) as whole:
        whole.look_from((0.35, 0.93, 0.1))
        front = whole.array()
        whole.look_from((0.93, 0.3, 0.1))
        _write(folder / "tutorial-surfaces.jpg", front, whole.array())
    for view in (red, whole):
        view.close()
    return facts


def _acquired_orientation(volume_node) -> str:
    """Return the orientation preset whose slices are those of the image's own array."""
    directions = np.zeros((3, 3))
    volume_node.GetIJKToRASDirections(directions)
    across = int(np.abs(directions[:, 2]).argmax())
    return ("Sagittal", "Coronal", "Axial")[across]


def _show_alone(view: SliceView, volume_node) -> None:
    composite = view.logic.GetSliceCompositeNode()
    composite.SetBackgroundVolumeID(volume_node.GetID())
    view.fit(zoom=1.15)


def _brighten(volume_node) -> None:
    """Set the window as a person would to see into the lungs."""
    import slicer

    display, array = volume_node.GetDisplayNode(), slicer.util.arrayFromVolume(volume_node)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(float(array.min()), float(np.percentile(array, 97)))


def _most_doubtful_part(mask: np.ndarray, doubt: np.ndarray, k: int) -> np.ndarray:
    """Return the component of a mask, bool `(K, J, I)`, with the largest mean doubt of those seen in slice k."""
    from scipy.ndimage import label, mean

    parts, _ = label(mask)
    seen = np.unique(parts[k])[1:]
    return parts == seen[int(np.argmax(mean(doubt, parts, seen)))]


def _outline(contours) -> None:
    display = contours.GetDisplayNode()
    display.SetAllSegmentsVisibility2DFill(False)
    display.SetSliceIntersectionThickness(2)


def _see_through(contours) -> None:
    """Let the last structure be seen through those before it."""
    segmentation = contours.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments() - 1):
        contours.GetDisplayNode().SetSegmentOpacity3D(segmentation.GetNthSegmentID(n), 0.35)


def _write(path: Path, *pictures: np.ndarray) -> None:
    from PIL import Image

    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)][:-1]
    Image.fromarray(np.hstack(row)).save(path, quality=88)


def main() -> None:
    """Make the pictures of the page from the real mouse of the demo."""
    import slicer

    slicer_app.start()
    from thoraxseg.checkpoints import install
    from thoraxseg.demo import REAL_CHECKPOINT, real_mouse
    from thoraxseg.mrml import volume_to_node
    from ThoraxSegLib.Logic import ThoraxSegLogic
    from ThoraxSegLib.Tasks import LUNG_TUMOR

    install(REAL_CHECKPOINT)
    logic = ThoraxSegLogic(LUNG_TUMOR)
    scan = volume_to_node(real_mouse(), scene=slicer.mrmlScene, name="mouse 8")
    try:
        facts = follow(logic, scan, REAL_CHECKPOINT, Path(sys.argv[1]))
    finally:
        logic.close()
    measured = facts.pop("measured")
    facts |= {"structures": measured.structures, "tumors": {**measured.tumors, "nodules": "..."}}
    for key, value in facts.items():
        print(key, value, sep=": ")  # noqa: T201


if __name__ == "__main__":
    main()
