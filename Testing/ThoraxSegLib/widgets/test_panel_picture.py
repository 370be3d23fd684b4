"""The picture of the panels that the documentation shows: made, looked at for blanks, and kept where asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from Testing import qt_app
from Testing.made_results import put_result
from Testing.qt_stand_ins.panels import check
from ThoraxSegLib.Tasks import LUNG_TUMOR

KEEP = "THORAXSEG_PANEL_PICTURE"
"""Environment variable: path of a JPEG file that the picture is also written to, such as docs/pictures/panels.jpg."""
COLUMNS = (("Inputs", "Preflight", "Run"), ("Review",), ("Measurements", "Time"), ("Cleaning", "Observers"))
COLUMN_WIDTH, GAP = 400, 12
PAPER = "#efefef"
KEPT_WIDTH, JPEG_QUALITY, LARGEST_BYTES = 1480, 88, 250_000


def test_the_panels_are_drawn_side_by_side_after_a_real_run(
    openModule, tumorMouse, paintedLungTumor, dialogs, sliceViews, tmp_path
):
    module = openModule(LUNG_TUMOR)
    panels = module.panels
    assert qt_app.waitFor(lambda: panels["Preflight"].ui.lightsArea.isVisibleTo(module.root))
    panels["Run"].ui.runButton.click()
    assert qt_app.waitFor(lambda: not module.isBusy, 120)
    review = panels["Review"].ui
    for _ in range(4):  # the slices may be the bright one and those beside it: go on to a tumor
        review.nextDoubtfulButton.click()
        if "Tumors" in review.doubtfulLabel.text:
            break
    panels["Measurements"].ui.measureButton.click()
    time = panels["Time"].ui
    time.operatorLineEdit.setText("Anna")
    qt_app.processEvents()
    time.startClockButton.click()
    time.paperReferenceButton.click()
    compareWithAnna(module, tumorMouse, paintedLungTumor)
    panels["Cleaning"].ui.minSizeSpinBox.value = 3
    panels["Cleaning"].ui.livePreviewCheckBox.checked = True
    qt_app.processEvents()
    assert dialogs.errors == []

    columns = [[pictureOf(panels[name], tmp_path) for name in names] for names in COLUMNS]
    path = compose(columns, tmp_path / "panels.png")
    assert path.stat().st_size > 50_000
    if os.environ.get(KEEP):
        assert save(path, Path(os.environ[KEEP])) <= LARGEST_BYTES


def compareWithAnna(module, volumeNode, phantom) -> None:
    """Compare the result with contours of somebody who drew everything a voxel beside it."""
    labels = np.roll(phantom.truth.labels, 1, axis=2)
    anna = put_result(volumeNode, labels, phantom.truth.structures, LUNG_TUMOR.key)
    anna.SetName("Anna")
    qt_app.processEvents()
    ui = module.panels["Observers"].ui
    for row in range(ui.segmentationsListWidget.count):
        check(ui.segmentationsListWidget, row)
    qt_app.processEvents()
    ui.compareButton.click()


def pictureOf(panel, folder: Path):
    """Return a panel as a QImage; it must show something."""
    import qt

    opener = next(one for name, one in vars(panel.ui).items() if name.endswith("CollapsibleButton"))
    opener.collapsed = False
    panel.root.setParent(None)
    for _ in range(4):  # wrapped texts tell their height only once they have their width
        qt_app.grab(panel.root, folder / "panel.png", COLUMN_WIDTH)
    image = qt.QImage(str(folder / "panel.png")).convertToFormat(qt.QImage.Format_RGB32)
    pixels = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.width(), 4)
    assert image.width() <= COLUMN_WIDTH + 60
    assert (pixels[..., :3].max(axis=2) < 120).mean() > 0.002, (
        f"{panel.uiName or type(panel).__name__} is blank"
    )
    return image


def compose(columns, path: Path) -> Path:
    """Draw pictures in columns, side by side, and save them as one."""
    import qt

    widths = [max(image.width() for image in column) for column in columns]
    heights = [sum(image.height() for image in column) for column in columns]
    whole = qt.QImage(sum(widths) + GAP * (len(columns) + 1), max(heights) + 2 * GAP, qt.QImage.Format_RGB32)
    whole.fill(qt.QColor(PAPER))
    painter = qt.QPainter()
    painter.begin(whole)
    x = GAP
    for column, width in zip(columns, widths, strict=True):
        y = GAP
        for image in column:
            painter.drawImage(x, y, image)
            y += image.height()
        x += width + GAP
    painter.end()
    assert whole.save(str(path))
    return path


def save(picture: Path, path: Path) -> int:
    """Save a picture as JPEG and return its size in bytes."""
    import qt

    image = qt.QImage(str(picture)).scaledToWidth(KEPT_WIDTH, qt.Qt.SmoothTransformation)
    writer = qt.QImageWriter(str(path), b"jpeg")
    writer.setQuality(JPEG_QUALITY)
    writer.setOptimizedWrite(True)
    assert writer.write(image), writer.errorString()
    return path.stat().st_size
