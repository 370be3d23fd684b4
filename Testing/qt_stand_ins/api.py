"""Which properties, signals and slots the real CTK and MRML widget classes have, by name: those we may use.

Read from the headers of CTK and of Slicer (main, August 2026; each of them is in 5.10 too). A stand-in offers nothing
that is not listed here. `Testing/ThoraxSegLib/widgets/test_stand_ins.py` compares the list with a checkout of both,
where THORAXSEG_SLICER_SOURCE and THORAXSEG_CTK_SOURCE name one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Api:
    """What a class declares itself; what it inherits is with its base class."""

    base: str
    """Name of the base class, in Qt or in this list."""
    header: str
    """Where it is declared, below the checkout."""
    properties: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    """Slots and invokable functions: what Python may call. Setters of properties are not among them."""


_MRML = "Libs/MRML/Widgets"
_CTK = "Libs/Widgets"
_SEGMENTATIONS = "Modules/Loadable/Segmentations/Widgets"
_SCENE_SLOT = "setMRMLScene(vtkMRMLScene*)"

API = {
    "ctkCheckBox": Api("QCheckBox", f"{_CTK}/ctkCheckBox.h"),
    "ctkCollapsibleButton": Api(
        "QAbstractButton",
        f"{_CTK}/ctkCollapsibleButton.h",
        ("collapsed", "collapsedHeight", "flat", "contentsFrameShape", "contentsLineWidth"),
        ("contentsCollapsed(bool)",),
    ),
    "ctkCollapsibleGroupBox": Api(
        "QGroupBox",
        f"{_CTK}/ctkCollapsibleGroupBox.h",
        ("collapsed", "collapsedHeight"),
    ),
    "ctkComboBox": Api("QComboBox", f"{_CTK}/ctkComboBox.h", ("defaultText", "forceDefault")),
    "ctkDoubleSpinBox": Api(
        "QWidget",
        f"{_CTK}/ctkDoubleSpinBox.h",
        ("prefix", "suffix", "decimals", "minimum", "maximum", "singleStep", "value"),
        ("valueChanged(double)", "editingFinished()"),
        ("setValue(double)",),
    ),
    "ctkMessageBox": Api(
        "QMessageBox", f"{_CTK}/ctkMessageBox.h", ("dontShowAgainSettingsKey", "dontShowAgainVisible")
    ),
    "ctkPathLineEdit": Api(
        "QWidget",
        f"{_CTK}/ctkPathLineEdit.h",
        ("label", "currentPath", "settingKey", "nameFilters", "showBrowseButton", "showHistoryButton"),
        ("validInputChanged(bool)", "currentPathChanged(QString)"),
        ("setCurrentPath(QString)", "addCurrentPathToHistory()"),
    ),
    "ctkSliderWidget": Api(
        "QWidget",
        f"{_CTK}/ctkSliderWidget.h",
        (
            *("decimals", "singleStep", "pageStep", "minimum", "maximum", "value", "prefix", "suffix"),
            *("tracking", "spinBoxVisible"),
        ),
        ("valueChanged(double)", "valueIsChanging(double)"),
        ("setValue(double)",),
    ),
    "qMRMLWidget": Api(
        "QWidget",
        f"{_MRML}/qMRMLWidget.h",
        (),
        ("mrmlSceneChanged(vtkMRMLScene*)",),
        (_SCENE_SLOT, "mrmlScene()"),
    ),
    "qMRMLNodeComboBox": Api(
        "QWidget",
        f"{_MRML}/qMRMLNodeComboBox.h",
        (
            *(
                "currentNodeID",
                "nodeTypes",
                "showHidden",
                "showChildNodeTypes",
                "hideChildNodeTypes",
                "baseName",
            ),
            *("noneEnabled", "addEnabled", "removeEnabled", "editEnabled", "renameEnabled"),
            *("selectNodeUponCreation", "noneDisplay", "interactionNodeSingletonTag"),
            "sizeAdjustPolicy",
        ),
        (
            *(
                "currentNodeChanged(vtkMRMLNode*)",
                "currentNodeChanged(bool)",
                "currentNodeIDChanged(QString)",
            ),
            *("nodeActivated(vtkMRMLNode*)", "nodeAdded(vtkMRMLNode*)", "nodeAddedByUser(vtkMRMLNode*)"),
            "nodeAboutToBeRemoved(vtkMRMLNode*)",
        ),
        (
            *(
                _SCENE_SLOT,
                "setCurrentNode(vtkMRMLNode*)",
                "setCurrentNodeID(QString)",
                "setCurrentNodeIndex(int)",
            ),
            *("addNode()", "mrmlScene()", "currentNode()", "nodeCount()", "nodeFromIndex(int)"),
            *("addAttribute(QString,QString,QVariant)", "removeAttribute(QString,QString)"),
        ),
    ),
    "qMRMLCheckableNodeComboBox": Api(
        "qMRMLNodeComboBox",
        f"{_MRML}/qMRMLCheckableNodeComboBox.h",
        (),
        ("checkedNodesChanged()",),
        (
            *("checkedNodes()", "uncheckedNodes()", "checkState(vtkMRMLNode*)", "check(vtkMRMLNode*)"),
            *(
                "uncheck(vtkMRMLNode*)",
                "setCheckState(vtkMRMLNode*,Qt::CheckState)",
                "allChecked()",
                "noneChecked()",
            ),
        ),
    ),
    "qMRMLTableView": Api(
        "QTableView",
        f"{_MRML}/qMRMLTableView.h",
        ("transposed", "firstRowLocked", "firstColumnLocked"),
        ("mrmlSceneChanged(vtkMRMLScene*)", "selectionChanged()"),
        (
            *(_SCENE_SLOT, "setMRMLTableNode(vtkMRMLTableNode*)", "setMRMLTableNode(vtkMRMLNode*)"),
            *("mrmlTableNode()", "mrmlScene()", "copySelection()", "setFirstRowLocked(bool)"),
        ),
    ),
    "qMRMLSliderWidget": Api(
        "ctkSliderWidget", f"{_MRML}/qMRMLSliderWidget.h", ("quantity",), (), (_SCENE_SLOT,)
    ),
    "qMRMLSegmentEditorWidget": Api(
        "qMRMLWidget",
        f"{_SEGMENTATIONS}/qMRMLSegmentEditorWidget.h",
        (
            *("segmentationNodeSelectorVisible", "sourceVolumeNodeSelectorVisible", "maskingSectionVisible"),
            *("specifyGeometryButtonVisible", "show3DButtonVisible", "addRemoveSegmentButtonsVisible"),
            *("autoShowSourceVolumeNode", "switchToSegmentationsButtonVisible", "undoEnabled", "readOnly"),
            *("maximumNumberOfUndoStates", "effectColumnCount", "unorderedEffectsVisible"),
            "jumpToSelectedSegmentEnabled",
        ),
        (
            *("currentSegmentIDChanged(QString)", "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)"),
            "segmentationNodeChanged(vtkMRMLSegmentationNode*)",
        ),
        (
            *(_SCENE_SLOT, "setMRMLSegmentEditorNode(vtkMRMLSegmentEditorNode*)", "mrmlSegmentEditorNode()"),
            *("segmentationNode()", "segmentationNodeID()", "sourceVolumeNode()", "currentSegmentID()"),
            *("setSegmentationNode(vtkMRMLNode*)", "setSourceVolumeNode(vtkMRMLNode*)"),
            *("setCurrentSegmentID(QString)", "setActiveEffectByName(QString)", "activeEffect()"),
            *("setEffectNameOrder(QStringList)", "availableEffectNames()", "updateWidgetFromMRML()"),
            *("installKeyboardShortcuts()", "uninstallKeyboardShortcuts()", "undo()", "redo()"),
            *("setupViewObservations()", "removeViewObservations()", "rotateSliceViewsToSegmentation()"),
        ),
    ),
}
