"""Pre-flight panel: traffic lights for what can be wrong with a scan, and corrections of them on a copy."""

from __future__ import annotations

from pathlib import Path

import qt
from slicer.i18n import tr as _

from thoraxseg.precheck import FIXES, KEYS, Level, Light
from ThoraxSegLib.Panels import UI_FOLDER, Panel
from ThoraxSegLib.Panels.Parts import enableUnless, tell

LOOK_AFTER_MS = 300
"""How long the inputs must rest before they are looked at: who drags a box would wait at every step."""
AUTOMATIC_VOXELS = 150_000_000
"""Larger volumes are looked at on request and before a run only, since that takes a second and more."""
REFUSED = ("spacing", "channels")
"""Lights that, when red, stop a run: another scale or no image; whatever came out would be nonsense."""
ICON_SIZE = 18
ICONS = {
    Level.GREEN: "ThoraxSegLightGreen.png",
    Level.YELLOW: "ThoraxSegLightYellow.png",
    Level.RED: "ThoraxSegLightRed.png",
    Level.UNKNOWN: "ThoraxSegLightUnknown.png",
}
"""Each has a shape and a sign of its own: not everybody tells red from green."""


class PreflightPanel(Panel):
    """Shows `logic.preflight.lights` for the chosen inputs, as soon as they rest."""

    def __init__(self, widget) -> None:
        super().__init__(widget)
        self._rows: dict[str, _Row] = {}
        self._lights: list[Light] = []
        self._shown: tuple | None = None
        """What the lights are about; None when there are none."""
        self._awaited: tuple | None = None
        """What is going to be looked at when the inputs have rested."""
        self._fix = ""

    def setup(self) -> None:
        """Wire the widgets and make a row for each light."""
        for key in KEYS:
            self._rows[key] = _Row(self.ui.lightsArea, self.onFix)
            self.ui.lightsArea.layout().addWidget(self._rows[key].root)
        self.ui.checkButton.connect("clicked(bool)", self.onCheck)
        self.ui.fixApplyButton.connect("clicked(bool)", self.onFixApply)
        self.ui.fixCancelButton.connect("clicked(bool)", self.onFixCancel)
        self.ui.codesEdit.connect("textChanged(QString)", self.onCodesChanged)
        self._timer = qt.QTimer(self.root)
        self._timer.setSingleShot(True)
        self._timer.setInterval(LOOK_AFTER_MS)
        self._timer.connect("timeout()", self.check)
        self.ui.fixGroup.visible = False

    def cleanup(self) -> None:
        """Stop waiting."""
        self._timer.stop()

    def onSceneClosing(self) -> None:
        """Forget the volume."""
        self._timer.stop()
        self._shown, self._lights = None, []
        self.onFixCancel()

    # Looking

    def onCheck(self) -> None:
        """Look now."""
        self.widget.run(self.check, _("The volume could not be checked."))

    def check(self) -> None:
        """Look at the chosen inputs, at once, and show the lights."""
        self._timer.stop()
        asked = self._asked()
        if asked is None:
            return
        parameters = self.parameters
        self._lights = self.logic.preflight.lights(
            parameters.inputVolume,
            parameters.checkpoint,
            parameters.regionOfInterest,
            parameters.options.device.value,
        )
        self._shown = asked
        self.widget.refresh()

    def current(self) -> list[Light]:
        """Return the lights of the chosen inputs as they are now, looking if need be."""
        if self._shown is None or self._shown != self._asked():
            self.check()
        return list(self._lights)

    def refusal(self) -> str:
        """Return why a run of the chosen inputs is refused, as far as is known without looking; else ""."""
        if self._shown is None or self._shown != self._asked():
            return ""
        return " ".join(light.sentence for light in self._lights if isRefused(light))

    def tick(self) -> None:
        """See whether voxels, transforms or the region have changed: no event tells of all of them."""
        if self._shown is not None and self._shown != self._asked():
            self.refresh()

    def _asked(self) -> tuple | None:
        """Return what a look would be about: it changes with every change of volume, region, checkpoint or device."""
        parameters = self.parameters
        if parameters is None or parameters.inputVolume is None or not parameters.checkpoint:
            return None
        return (
            parameters.checkpoint,
            parameters.options.device,
            _stampOf(parameters.inputVolume),
            _stampOf(parameters.regionOfInterest),
        )

    # What is shown

    def refresh(self) -> None:
        """Show the lights, or that they are not up to date, and look soon where that is quick."""
        asked = self._asked()
        isCurrent = asked is not None and asked == self._shown
        enableUnless(self._whyNoCheck(), self.ui.checkButton)
        self.ui.lightsArea.visible = isCurrent
        if isCurrent:
            for light in self._lights:
                self._rows[light.key].show(light)
            tell(self.ui.summaryLabel, summaryOf(self._lights))
        elif asked is None:
            self._timer.stop()
            tell(self.ui.summaryLabel, self._whyNoCheck())
        elif self._isLarge():
            tell(self.ui.summaryLabel, _("A large volume: it is checked on request, and before a run."))
        else:
            tell(self.ui.summaryLabel, _("Checking ..."))
            if asked != self._awaited or not self._timer.active:
                self._awaited = asked
                self._timer.start()
        if self._fix and self._whyNoVolume():
            self.onFixCancel()

    def _whyNoVolume(self) -> str:
        if self.parameters is None or self.parameters.inputVolume is None:
            return _("Choose a volume.")
        return ""

    def _whyNoCheck(self) -> str:
        if self._whyNoVolume():
            return self._whyNoVolume()
        return "" if self.parameters.checkpoint else _("Choose a checkpoint.")

    def _isLarge(self) -> bool:
        image = self.parameters.inputVolume.GetImageData()
        return image is not None and image.GetNumberOfPoints() > AUTOMATIC_VOXELS

    # Correcting

    def onFix(self, key: str) -> None:
        """A fix was chosen: ask for what it needs."""
        fix = FIXES[key]
        self._fix = key
        ui, volumeNode = self.ui, self.parameters.inputVolume
        ui.fixGroup.title = _("{title}, on a copy").format(title=fix.title)
        copied = _("The copy is made of {volume}, which stays as it is.").format(volume=volumeNode.GetName())
        tell(ui.fixSentenceLabel, [fix.sentence, copied])
        for widget in (ui.codesLabel, ui.codesEdit):
            widget.visible = "codes" in fix.parameters
        for widget in (ui.spacingLabel, ui.spacingRow):
            widget.visible = "spacing_mm" in fix.parameters
        if "spacing_mm" in fix.parameters:
            for box, spacing in zip(self._spacingBoxes(), volumeNode.GetSpacing(), strict=True):
                box.value = spacing
        ui.codesEdit.text = ""
        ui.fixGroup.visible = True
        self.onCodesChanged("")

    def onCodesChanged(self, text: str) -> None:
        """Letters were typed."""
        needsCodes = self._fix and "codes" in FIXES[self._fix].parameters
        reason = (
            _("Type the three letters first.")
            if needsCodes and len(self.ui.codesEdit.text.strip()) < 3
            else ""
        )
        enableUnless(reason, self.ui.fixApplyButton)

    def onFixApply(self) -> None:
        """Make the corrected copy and choose it."""
        self.widget.run(self._applyFix, _("The copy could not be made."))

    def onFixCancel(self) -> None:
        """Change nothing."""
        self._fix = ""
        self.ui.fixGroup.visible = False

    def _applyFix(self) -> None:
        arguments = {}
        if "codes" in FIXES[self._fix].parameters:
            arguments["codes"] = self.ui.codesEdit.text.strip().upper()
        if "spacing_mm" in FIXES[self._fix].parameters:
            arguments["spacing_mm"] = tuple(box.value for box in reversed(self._spacingBoxes()))  # (k, j, i)
        volumeNode = self.parameters.inputVolume
        corrected = self.logic.preflight.fix(volumeNode, self._fix, **arguments)
        self.onFixCancel()
        self.parameters.inputVolume = corrected
        self.widget.say(
            _("{copy} was made and chosen; {volume} is as it was.").format(
                copy=corrected.GetName(), volume=volumeNode.GetName()
            )
        )

    def _spacingBoxes(self) -> list:
        """Return the boxes for the voxel size along i, j and k, as Slicer's own panels order them."""
        return [self.ui.spacingISpinBox, self.ui.spacingJSpinBox, self.ui.spacingKSpinBox]


class _Row:
    """One traffic light: sign, word, sentence, and a button for each fix."""

    def __init__(self, parent, onFix) -> None:
        self._onFix = onFix
        self._buttons: list = []
        self.root = qt.QWidget(parent)
        line = qt.QHBoxLayout(self.root)
        line.setContentsMargins(0, 0, 0, 0)
        self.icon = qt.QLabel(self.root)
        self.icon.setFixedWidth(ICON_SIZE + 4)
        self.icon.setAlignment(qt.Qt.AlignTop)
        line.addWidget(self.icon)
        texts = qt.QWidget(self.root)
        line.addWidget(texts, 1)
        self._column = qt.QVBoxLayout(texts)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self.title, self.sentence = qt.QLabel(texts), qt.QLabel(texts)
        for label in (self.title, self.sentence):
            label.setTextFormat(qt.Qt.PlainText)
            label.setWordWrap(True)
            self._column.addWidget(label)
        font = qt.QFont(self.title.font)
        font.setBold(True)
        self.title.setFont(font)
        self.sentence.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        self._fixes = qt.QWidget(texts)
        layout = qt.QHBoxLayout(self._fixes)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addStretch(1)
        self._column.addWidget(self._fixes)

    def show(self, light: Light) -> None:
        """Show a light: a green one in one line, the others with what was found and what helps."""
        self.icon.setPixmap(iconOf(light.level))
        self.title.text = f"{light.title}: {wordOf(light.level)}"
        self.title.toolTip = light.sentence
        tell(self.sentence, "" if light.level is Level.GREEN else light.sentence)
        for button in self._buttons:
            self._fixes.layout().removeWidget(button)
            button.deleteLater()
        self._buttons = [self._buttonFor(key) for key in light.fixes]
        self._fixes.visible = bool(self._buttons)

    def _buttonFor(self, key: str):
        fix = FIXES[key]
        button = qt.QPushButton(f"{fix.title} ...", self._fixes)
        button.objectName = f"{key}Button"
        button.toolTip = fix.sentence
        button.connect("clicked(bool)", lambda isOn, key=key: self._onFix(key))
        self._fixes.layout().insertWidget(self._fixes.layout().count() - 1, button)
        return button


def isRefused(light: Light) -> bool:
    """Tell whether a light stops a run."""
    return light.level is Level.RED and light.key in REFUSED


def wordOf(level: Level) -> str:
    """Return the word that goes with the sign."""
    words = {
        Level.GREEN: _("fine"),
        Level.YELLOW: _("check"),
        Level.RED: _("problem"),
        Level.UNKNOWN: _("not known"),
    }
    return words[level]


def iconOf(level: Level):
    """Return the picture of a light."""
    path = Path(UI_FOLDER).parent / "Icons" / ICONS[level]
    return qt.QIcon(str(path)).pixmap(ICON_SIZE, ICON_SIZE)


def summaryOf(lights: list[Light]) -> str:
    """Return how many lights are what, in one sentence."""
    counts = {level: sum(light.level is level for light in lights) for level in Level}
    if counts[Level.GREEN] == len(lights):
        return _("Everything looks as the checkpoint expects it.")
    phrases = {
        Level.RED: _("problems: {count}"),
        Level.YELLOW: _("to check: {count}"),
        Level.UNKNOWN: _("not known: {count}"),
        Level.GREEN: _("fine: {count}"),
    }
    said = [phrase.format(count=counts[level]) for level, phrase in phrases.items() if counts[level]]
    return ", ".join(said).capitalize()


def _stampOf(node) -> tuple:
    """Return what changes with the voxels of a node and its place in the patient; quick."""
    if node is None:
        return ()
    image = node.GetImageData() if hasattr(node, "GetImageData") else None
    transform = node.GetParentTransformNode()
    return (
        node.GetID(),
        node.GetMTime(),
        image.GetMTime() if image is not None else 0,
        transform.GetTransformToWorldMTime() if transform is not None else 0,
    )
