"""Stand-ins for Slicer's MRML widgets, on the real scene: they list its nodes and follow what happens to them."""

from __future__ import annotations

import functools

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from Testing.qt_stand_ins import ctk
from Testing.qt_stand_ins.ctk import stored


class _SceneHolder:
    """Keeps a scene and the observers on it; a later scene ends those on the earlier one."""

    def _observe(self, scene, events: dict) -> None:
        if "_observed" not in self.__dict__:
            self.__dict__["_observed"] = []
            self.destroyed.connect(functools.partial(_endObservations, self.__dict__["_observed"]))
        held = self.__dict__["_observed"]
        _endObservations(held)
        self.__dict__["_scene"] = scene
        if scene is not None:
            held += [(scene, scene.AddObserver(event, function)) for event, function in events.items()]

    def mrmlScene(self):
        return self.__dict__.get("_scene")


def _endObservations(held: list, obj=None) -> None:
    for observed, tag in held:
        observed.RemoveObserver(tag)
    held.clear()


class qMRMLWidget(QtWidgets.QWidget, _SceneHolder):
    """A widget that hands its scene on to what is connected to it in the .ui file."""

    isStandIn = True
    signatures = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}  # noqa: RUF012
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene) -> None:
        if scene is not self.mrmlScene():
            self._observe(scene, {})
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget, _SceneHolder):
    """A choice among the nodes of a scene.

    As the real one: without `noneEnabled` the first node that appears is chosen by itself, and when the chosen node
    goes another one is; disabled until it has a scene; `nodeActivated` is for what a person chose.
    """

    isStandIn = True
    signatures = {  # noqa: RUF012
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeIsValid",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }
    currentNodeChanged = Signal(object)
    _currentNodeIsValid = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [])
    baseName = stored(str, "baseName", "")
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "")
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    editEnabled = stored(bool, "editEnabled", False)
    renameEnabled = stored(bool, "renameEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._types, self._attributes, self._hidden, self._children = [], [], False, True
        self._noneEnabled, self._noneText = False, "None"
        self._filling = False
        self._requested = ""
        self._shown = None
        self._combo = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._onIndexChanged)
        self._combo.activated.connect(lambda index: self.nodeActivated.emit(self.currentNode()))
        self.setEnabled(False)

    # Properties

    def _setTypes(self, types) -> None:
        self._types = [one for one in types if one]
        self._fill()

    def _setNoneEnabled(self, isEnabled: bool) -> None:
        self._noneEnabled = isEnabled
        self._fill()

    def _setNoneText(self, text: str) -> None:
        self._noneText = text
        self._fill()

    def _setHidden(self, isShown: bool) -> None:
        self._hidden = isShown
        self._fill()

    def _setChildren(self, isShown: bool) -> None:
        self._children = isShown
        self._fill()

    nodeTypes = Property("QStringList", lambda self: tuple(self._types), _setTypes)
    noneEnabled = Property(bool, lambda self: self._noneEnabled, _setNoneEnabled)
    sizeAdjustPolicy = Property(
        QtWidgets.QComboBox.SizeAdjustPolicy,
        lambda self: self._combo.sizeAdjustPolicy,
        lambda self, policy: self._combo.setSizeAdjustPolicy(policy),
    )
    noneDisplay = Property(str, lambda self: self._noneText, _setNoneText)
    showHidden = Property(bool, lambda self: self._hidden, _setHidden)
    showChildNodeTypes = Property(bool, lambda self: self._children, _setChildren)
    currentNodeID = Property(
        str,
        lambda self: self.currentNode().GetID() if self.currentNode() else "",
        lambda self, identifier: self.setCurrentNodeID(identifier),
    )

    # Functions

    def setMRMLScene(self, scene) -> None:
        import slicer

        if scene is self.mrmlScene():
            return
        changed = slicer.vtkMRMLScene
        self._observe(
            scene,
            {
                changed.NodeAddedEvent: self._onAdded,
                changed.NodeAboutToBeRemovedEvent: self._onAboutToBeRemoved,
                changed.NodeRemovedEvent: self._onChanged,
                changed.EndBatchProcessEvent: self._onChanged,
            },
        )
        self.setEnabled(scene is not None)
        wanted, self._requested = self._requested or self.currentNodeID, ""
        self._fill(wanted)

    def addAttribute(self, nodeType: str, name: str, value=None) -> None:
        self._attributes.append((nodeType, name, value))
        self._fill()

    def removeAttribute(self, nodeType: str, name: str) -> None:
        self._attributes = [one for one in self._attributes if one[:2] != (nodeType, name)]
        self._fill()

    def currentNode(self):
        scene, identifier = self.mrmlScene(), self._combo.itemData(self._combo.currentIndex)
        return scene.GetNodeByID(identifier) if scene is not None and identifier else None

    def setCurrentNode(self, node) -> None:
        if node is not None and not hasattr(node, "GetID"):
            raise ValueError(f"setCurrentNode: expected a node, got {node!r}")
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, identifier: str) -> None:
        if self.mrmlScene() is None:
            self._requested = identifier
        index = self._combo.findData(identifier) if identifier else -1
        self._combo.setCurrentIndex(index if index >= 0 else (0 if self._noneEnabled else -1))

    def setCurrentNodeIndex(self, index: int) -> None:
        self._combo.setCurrentIndex(index + self._noneEnabled)

    def nodeCount(self) -> int:
        return self._combo.count - self._noneEnabled

    def nodeFromIndex(self, index: int):
        return self.mrmlScene().GetNodeByID(self._combo.itemData(index + self._noneEnabled))

    def addNode(self, nodeType: str = ""):
        node = self.mrmlScene().AddNewNodeByClass(nodeType or self._types[0])
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    # The scene

    def _lists(self, node) -> bool:
        if node is None or (node.GetHideFromEditors() and not self._hidden):
            return False
        for kind in self._types:
            fits = node.IsA(kind) if self._children else node.GetClassName() == kind
            wanted = [one for one in self._attributes if one[0] == kind]
            has = all(
                node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
                for _, name, value in wanted
            )
            if fits and has:
                return True
        return False

    def _onAdded(self, caller, event) -> None:
        if not caller.IsBatchProcessing():
            self._fill()

    def _onChanged(self, caller, event) -> None:
        if not caller.IsBatchProcessing():
            self._fill()

    def _onAboutToBeRemoved(self, caller, event) -> None: ...

    def _fill(self, wanted: str | None = None) -> None:
        """List what the scene holds now, and choose again what was chosen."""
        scene = self.mrmlScene()
        before = self._combo.itemData(self._combo.currentIndex) or ""
        hadNodes = self.nodeCount() > 0
        wanted = before if wanted is None else wanted
        nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())] if scene is not None else []
        nodes = [node for node in nodes if self._lists(node)]
        self._filling = True
        self._combo.clear()
        if self._noneEnabled:
            self._combo.addItem(self._noneText, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        index = self._combo.findData(wanted) if wanted else -1
        if index < 0 and not self._noneEnabled and nodes:
            index = len(nodes) - 1 if hadNodes and wanted else 0
        self._combo.setCurrentIndex(max(index, 0) if self._noneEnabled else index)
        self._filling = False
        self._onIndexChanged(self._combo.currentIndex)

    def _onIndexChanged(self, index: int) -> None:
        identifier = self._combo.itemData(index) or ""
        if self._filling or identifier == self._shown:
            return
        self._shown = identifier
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self._currentNodeIsValid.emit(node is not None)
        self.currentNodeIDChanged.emit(identifier)


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Nodes with check boxes."""

    signatures = {**qMRMLNodeComboBox.signatures, "checkedNodesChanged()": "checkedNodesChanged"}  # noqa: RUF012
    checkedNodesChanged = Signal()

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._checked: set[str] = set()

    def _nodes(self) -> list:
        return [self.nodeFromIndex(index) for index in range(self.nodeCount())]

    def checkedNodes(self) -> tuple:
        return tuple(node for node in self._nodes() if node.GetID() in self._checked)

    def uncheckedNodes(self) -> tuple:
        return tuple(node for node in self._nodes() if node.GetID() not in self._checked)

    def allChecked(self) -> bool:
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        return not self.checkedNodes()

    def checkState(self, node):
        states = QtCore.Qt.CheckState
        return states.Checked if node.GetID() in self._checked else states.Unchecked

    def setCheckState(self, node, state) -> None:
        before = set(self._checked)
        (self._checked.add if state == QtCore.Qt.CheckState.Checked else self._checked.discard)(node.GetID())
        index = self._combo.findData(node.GetID())
        mark = "[x]" if node.GetID() in self._checked else "[  ]"
        self._combo.setItemText(index, f"{mark} {node.GetName()}")
        if before != self._checked:
            self.checkedNodesChanged.emit()

    def check(self, node) -> None:
        self.setCheckState(node, QtCore.Qt.CheckState.Checked)

    def uncheck(self, node) -> None:
        self.setCheckState(node, QtCore.Qt.CheckState.Unchecked)

    def _fill(self, wanted: str | None = None) -> None:
        super()._fill(wanted)
        checked = self.__dict__.get("_checked", set())
        for index in range(self._combo.count):
            identifier = self._combo.itemData(index)
            if identifier:
                mark = "[x]" if identifier in checked else "[  ]"
                self._combo.setItemText(index, f"{mark} {self.mrmlScene().GetNodeByID(identifier).GetName()}")
        there = {self._combo.itemData(index) for index in range(self._combo.count)}
        if checked - there:
            self._checked = checked & there
            self.checkedNodesChanged.emit()


class qMRMLTableView(QtWidgets.QTableView, _SceneHolder):
    """The cells of a table node; its model is a sorting proxy, as in the real one."""

    isStandIn = True
    signatures = {  # noqa: RUF012
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
        "selectionChanged()": "_selectionChanged",
    }
    mrmlSceneChanged = Signal(object)
    _selectionChanged = Signal()
    transposed = stored(bool, "transposed", False)
    firstColumnLocked = stored(bool, "firstColumnLocked", False)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._cells = QtGui.QStandardItemModel(self)
        proxy = QtCore.QSortFilterProxyModel(self)
        proxy.setSourceModel(self._cells)
        self.setModel(proxy)
        self._node = self._tag = None
        self._firstRowLocked = False
        self.selectionModel().selectionChanged.connect(lambda *items: self._selectionChanged.emit())

    def _setFirstRowLocked(self, isLocked: bool) -> None:
        self._firstRowLocked = isLocked
        self._fill()

    firstRowLocked = Property(bool, lambda self: self._firstRowLocked, _setFirstRowLocked)

    def setFirstRowLocked(self, isLocked: bool) -> None:
        self._setFirstRowLocked(isLocked)

    def setMRMLScene(self, scene) -> None:
        self._observe(scene, {})
        self.mrmlSceneChanged.emit(scene)

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node) -> None:
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        self._tag = node.AddObserver("ModifiedEvent", self._fill) if node is not None else None
        if node is not None:
            self.destroyed.connect(functools.partial(_endObservations, [(node, self._tag)]))
        self._fill()
        self.resizeColumnsToContents()

    def sortFilterProxyModel(self):
        return self.model()

    def copySelection(self) -> None:
        rows: dict[int, list[str]] = {}
        for index in sorted(self.selectionModel().selectedIndexes, key=lambda one: (one.row(), one.column())):
            rows.setdefault(index.row(), []).append(index.data())
        QtWidgets.QApplication.clipboard().setText("\n".join("\t".join(row) for row in rows.values()))

    def _fill(self, caller=None, event=None) -> None:
        self._cells.clear()
        table = self._node.GetTable() if self._node is not None else None
        if table is None:
            return
        names = [table.GetColumn(index).GetName() for index in range(table.GetNumberOfColumns())]
        rows = [
            [table.GetValue(row, column).ToString() for column in range(len(names))]
            for row in range(table.GetNumberOfRows())
        ]
        if self._node.GetUseColumnTitleAsColumnHeader():
            self._cells.setHorizontalHeaderLabels([self._titleOf(name) for name in names])
        else:  # the names are an editable first row beneath the letters of a spreadsheet
            self._cells.setHorizontalHeaderLabels([chr(ord("A") + index % 26) for index in range(len(names))])
            rows = [names, *rows]
        for row in rows:
            self._cells.appendRow([QtGui.QStandardItem(cell) for cell in row])

    def _titleOf(self, name: str) -> str:
        """Return what qMRMLTableModel puts above a column: its title, else its name, and its unit."""
        unit = self._node.GetColumnUnitLabel(name)
        return (self._node.GetColumnTitle(name) or name) + (f" [{unit}]" if unit else "")


class qMRMLSliderWidget(ctk.ctkSliderWidget, _SceneHolder):
    """A slider that knows the units of the scene."""

    quantity = stored(str, "quantity", "")

    def setMRMLScene(self, scene) -> None:
        self._observe(scene, {})


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Where the Segment Editor is shown: keeps what it is told and draws a placeholder."""

    signatures = {  # noqa: RUF012
        **qMRMLWidget.signatures,
        "currentSegmentIDChanged(QString)": "currentSegmentIDChanged",
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged",
    }
    currentSegmentIDChanged = Signal(str)
    sourceVolumeNodeChanged = Signal(object)
    segmentationNodeChanged = Signal(object)
    segmentationNodeSelectorVisible = stored(bool, "segmentationNodeSelectorVisible", True)
    sourceVolumeNodeSelectorVisible = stored(bool, "sourceVolumeNodeSelectorVisible", True)
    maskingSectionVisible = stored(bool, "maskingSectionVisible", True)
    specifyGeometryButtonVisible = stored(bool, "specifyGeometryButtonVisible", True)
    show3DButtonVisible = stored(bool, "show3DButtonVisible", True)
    addRemoveSegmentButtonsVisible = stored(bool, "addRemoveSegmentButtonsVisible", True)
    autoShowSourceVolumeNode = stored(bool, "autoShowSourceVolumeNode", True)
    switchToSegmentationsButtonVisible = stored(bool, "switchToSegmentationsButtonVisible", True)
    undoEnabled = stored(bool, "undoEnabled", True)
    readOnly = stored(bool, "readOnly", False)
    maximumNumberOfUndoStates = stored(int, "maximumNumberOfUndoStates", 10)
    effectColumnCount = stored(int, "effectColumnCount", 2)
    unorderedEffectsVisible = stored(bool, "unorderedEffectsVisible", True)
    jumpToSelectedSegmentEnabled = stored(bool, "jumpToSelectedSegmentEnabled", False)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._node = None
        self._effect, self._order = "", []
        self._shortcuts = self._views = False
        layout = QtWidgets.QVBoxLayout(self)
        label = QtWidgets.QLabel("(Segment Editor of Slicer)", self)
        label.setFrameShape(QtWidgets.QFrame.StyledPanel)
        label.setMinimumHeight(80)
        label.setAlignment(QtCore.Qt.AlignCenter)
        layout.addWidget(label)

    def mrmlSegmentEditorNode(self):
        return self._node

    def setMRMLSegmentEditorNode(self, node) -> None:
        self._node = node

    def segmentationNode(self):
        return self._node.GetSegmentationNode() if self._node is not None else None

    def segmentationNodeID(self) -> str:
        return self.segmentationNode().GetID() if self.segmentationNode() is not None else ""

    def setSegmentationNode(self, node) -> None:
        if self._node is None:
            return  # the real one says so in the log, and does nothing
        if node is not self.segmentationNode():
            self._node.SetAndObserveSegmentationNode(node)
            self.segmentationNodeChanged.emit(node)

    def sourceVolumeNode(self):
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setSourceVolumeNode(self, node) -> None:
        if self._node is not None and node is not self.sourceVolumeNode():
            self._node.SetAndObserveSourceVolumeNode(node)
            self.sourceVolumeNodeChanged.emit(node)

    def currentSegmentID(self) -> str:
        return (self._node.GetSelectedSegmentID() or "") if self._node is not None else ""

    def setCurrentSegmentID(self, identifier: str) -> None:
        if self._node is not None and identifier != self.currentSegmentID():
            self._node.SetSelectedSegmentID(identifier)
            self.currentSegmentIDChanged.emit(identifier)

    def setActiveEffectByName(self, name: str) -> None:
        self._effect = name

    def activeEffect(self):
        return self._effect or None

    def availableEffectNames(self) -> list[str]:
        return ["Paint", "Draw", "Erase", "Level tracing", "Threshold", "Islands", "Smoothing", "Scissors"]

    def setEffectNameOrder(self, names) -> None:
        self._order = list(names)

    def updateWidgetFromMRML(self) -> None: ...

    def installKeyboardShortcuts(self) -> None:
        self._shortcuts = True

    def uninstallKeyboardShortcuts(self) -> None:
        self._shortcuts = False

    def setupViewObservations(self) -> None:
        self._views = True

    def removeViewObservations(self) -> None:
        self._views = False

    def rotateSliceViewsToSegmentation(self) -> None: ...

    def undo(self) -> None: ...

    def redo(self) -> None: ...
