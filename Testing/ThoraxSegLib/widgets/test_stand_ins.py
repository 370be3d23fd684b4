"""The stand-ins for PythonQt, CTK, MRML widgets and parameter nodes: that they are as strict as what they stand for."""

import enum
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import slicer

from Testing import qt_app
from Testing.qt_stand_ins import ui_files
from Testing.qt_stand_ins.api import API


@pytest.fixture
def qt(qtApp):
    import qt

    return qt


@pytest.fixture
def combo(qtApp, scene):
    """A qMRMLNodeComboBox for volumes, with None, on the scene; `combo.heard` is not a property of it."""
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.noneEnabled = True
    combo.setMRMLScene(scene)
    return combo


def volume(scene, name="scan", kind="vtkMRMLScalarVolumeNode"):
    return scene.AddNewNodeByClass(kind, name)


# PythonQt


def test_a_property_is_read_and_written_without_parentheses(qt):
    button = qt.QPushButton("Run")
    assert button.text == "Run"
    button.text = "Stop"
    button.setEnabled(False)
    assert (button.text, button.enabled, button.isEnabled()) == ("Stop", False, False)
    with pytest.raises(TypeError):
        button.text()


@pytest.mark.parametrize("name", ["tooltip", "Text", "myNote", "isEnabled_"])
def test_a_misspelled_property_is_refused(qt, name):
    with pytest.raises(AttributeError, match="no property"):
        setattr(qt.QPushButton(), name, "x")


def test_a_class_derived_in_python_may_have_attributes_of_its_own(qt):
    class Mine(qt.QWidget):
        pass

    Mine().note = 1


def test_a_static_function_stays_beside_a_property_of_the_same_name(qt):
    calls = []
    qt.QTimer.singleShot(0, lambda: calls.append(1))
    timer = qt.QTimer()
    timer.singleShot = True
    assert timer.singleShot is True
    assert qt_app.waitFor(lambda: calls, 5)


def test_a_signal_brings_as_many_arguments_as_its_signature_says(qt):
    heard = []
    button = qt.QPushButton()
    button.checkable = True
    button.connect("clicked()", lambda *args: heard.append(args))
    button.connect("clicked(bool)", lambda *args: heard.append(args))
    button.connect("clicked(bool)", lambda: heard.append("none wanted"))
    button.click()
    assert sorted(heard, key=str) == [(), (True,), "none wanted"]


def test_a_connection_can_be_undone(qt):
    heard = []

    class Listener:
        def hear(self):
            heard.append(1)

    button, listener = qt.QPushButton(), Listener()
    button.connect("clicked(bool)", listener.hear)
    assert qt_app.isConnected(button, "clicked(bool)")
    button.disconnect("clicked(bool)", listener.hear)
    button.click()
    assert heard == []
    assert not qt_app.isConnected(button, "clicked(bool)")


@pytest.mark.parametrize("signature", ["pressed(int)", "clickedd()", "clicked"])
def test_a_signal_that_does_not_exist_is_refused(qt, signature):
    with pytest.raises(ValueError, match="no signal"):
        qt.QPushButton().connect(signature, print)


def test_what_a_signal_makes_fail_is_not_lost(qt, capfd):
    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda: 1 / 0)
    button.click()
    escaped = qt_app.escapedErrors()
    assert [type(one) for one in escaped] == [ZeroDivisionError]
    escaped.clear()


def test_settings_are_those_of_the_tests(qt):
    assert "thoraxseg-settings-" in qt.QSettings().fileName()


def test_thousands_of_calls_do_not_wear_out_none(qt):
    """PySide6 6.12 below Python 3.12 takes a reference of None away with each call; Python would abort."""
    import sys

    label = qt.QLabel()
    for _ in range(20000):
        label.setText("x")
    assert sys.getrefcount(None) > 1000


# Message boxes and file dialogs


def test_a_message_box_that_nobody_answers_fails_instead_of_waiting(qt):
    import ctk

    with pytest.raises(RuntimeError, match="wait for ever"):
        ctk.ctkMessageBox().exec_()
    with pytest.raises(RuntimeError, match="wait for ever"):
        qt.QFileDialog.getOpenFileName(None, "Open")


def test_slicers_own_message_functions_reach_the_person_who_answers(dialogs):
    dialogs.answers = [True, False]
    slicer.util.errorDisplay("It broke.", detailedText="in line 3")
    slicer.util.infoDisplay("It is done.")
    assert slicer.util.confirmYesNoDisplay("Go on?") is True
    assert slicer.util.confirmOkCancelDisplay("And now?") is False
    assert (dialogs.errors, dialogs.details, dialogs.infos) == (["It broke."], ["in line 3"], ["It is done."])
    assert dialogs.questions == ["Go on?", "And now?"]
    with pytest.raises(AssertionError, match="Nobody answers"):
        slicer.util.confirmYesNoDisplay("Really?")


# .ui files

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Top</class>
 <widget class="qMRMLWidget" name="Top"><layout class="QVBoxLayout" name="layout"><item>
  <widget class="{kind}" name="inner">{property}</widget></item></layout></widget>
 <customwidgets>{custom}<customwidget><class>qMRMLWidget</class><extends>QWidget</extends>
  <header>qMRMLWidget.h</header><container>1</container></customwidget></customwidgets>
 <connections>{connection}</connections></ui>"""
CUSTOM = (
    "<customwidget><class>{kind}</class><extends>QWidget</extends><header>{kind}.h</header></customwidget>"
)
CONNECTION = """<connection><sender>Top</sender><signal>{signal}</signal>
 <receiver>inner</receiver><slot>{slot}</slot></connection>"""
SCENE = {"signal": "mrmlSceneChanged(vtkMRMLScene*)", "slot": "setMRMLScene(vtkMRMLScene*)"}


@pytest.fixture
def load(qtApp, tmp_path):
    def load(kind="qMRMLNodeComboBox", inside="", custom=None, connection=""):
        custom = CUSTOM.format(kind=kind) if custom is None and not kind.startswith("Q") else custom or ""
        path = tmp_path / "Top.ui"
        path.write_text(UI.format(kind=kind, property=inside, custom=custom, connection=connection))
        return slicer.util.loadUI(str(path))

    return load


def textProperty(name: str, value: str = "x") -> str:
    return f'<property name="{name}"><string>{value}</string></property>'


def test_a_ui_file_becomes_widgets_with_their_properties(load):
    root = load("QLabel", inside=textProperty("text", "Volume:"))
    ui = slicer.util.childWidgetVariables(root)
    assert (ui.inner.text, ui.inner.className()) == ("Volume:", "QLabel")
    assert root.className() == "qMRMLWidget"


def test_the_scene_reaches_a_selector_only_through_its_connection(load, scene):
    without, connected = load(), load(connection=CONNECTION.format(**SCENE))
    for root in (without, connected):
        root.setMRMLScene(scene)
    assert slicer.util.childWidgetVariables(without).inner.mrmlScene() is None
    assert slicer.util.childWidgetVariables(connected).inner.mrmlScene() is scene


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "ctkFancyButton"}, "no stand-in for ctkFancyButton"),
        ({"kind": "QFancyButton", "custom": ""}, "Qt has no class QFancyButton"),
        ({"inside": textProperty("noneEnable")}, "has no property noneEnable"),
        ({"custom": ""}, "missing from customwidgets"),
        (
            {"connection": CONNECTION.format(**SCENE | {"slot": "setScene(vtkMRMLScene*)"})},
            "no slot setScene",
        ),
        ({"connection": CONNECTION.format(**SCENE | {"signal": "sceneChanged()"})}, "no signal sceneChanged"),
        (
            {
                "inside": '<property name="nodeTypes"><stringlist><string>vtkMRMLNode</string></stringlist></property>'
            },
            "mark them notr",
        ),
    ],
    ids=["CTK class", "Qt class", "property", "declaration", "slot", "signal", "translation"],
)
def test_what_does_not_exist_in_slicer_is_refused(load, change, reason):
    with pytest.raises(RuntimeError, match=reason):
        load(**change)


# MRML widgets


def test_a_selector_lists_nodes_of_its_types_as_they_come_and_go(combo, scene):
    one = volume(scene, "one")
    volume(scene, "labels", "vtkMRMLLabelMapVolumeNode")
    volume(scene, "text", "vtkMRMLTextNode")
    assert combo.nodeCount() == 2  # a label map is a scalar volume
    combo.showChildNodeTypes = False
    assert [combo.nodeFromIndex(row).GetName() for row in range(combo.nodeCount())] == ["one"]
    scene.RemoveNode(one)
    assert combo.nodeCount() == 0


def test_a_selector_without_none_chooses_by_itself(combo, scene):
    combo.noneEnabled = False
    one = volume(scene, "one")
    assert combo.currentNode() is one
    two = volume(scene, "two")
    assert combo.currentNode() is one
    scene.RemoveNode(one)
    assert combo.currentNode() is two


def test_a_selector_with_none_falls_back_to_none_and_says_so(combo, scene):
    heard = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    combo.connect("currentNodeChanged(bool)", heard.append)
    combo.connect("currentNodeIDChanged(QString)", heard.append)
    one = volume(scene, "one")
    assert combo.currentNode() is None
    combo.setCurrentNode(one)
    assert heard == [one, True, one.GetID()]
    heard.clear()
    scene.RemoveNode(one)
    assert heard == [None, False, ""]


def test_a_selector_chooses_what_was_asked_for_before_it_had_a_scene(qtApp, scene):
    one = volume(scene, "one")
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes, combo.noneEnabled = ["vtkMRMLScalarVolumeNode"], True
    assert not combo.enabled
    combo.setCurrentNodeID(one.GetID())
    combo.setMRMLScene(scene)
    assert combo.enabled
    assert combo.currentNode() is one


def test_a_selector_lists_by_attribute(combo, scene):
    ours = volume(scene, "ours")
    volume(scene, "other")
    ours.SetAttribute("Made", "us")
    combo.addAttribute("vtkMRMLScalarVolumeNode", "Made", "us")
    assert combo.nodeCount() == 1


def test_a_selector_that_is_gone_leaves_the_scene_alone(combo, scene, qt):
    combo.deleteLater()
    qt_app.processEvents()
    volume(scene, "later")


def test_a_table_view_shows_a_table_node_and_follows_it(qtApp, scene):
    import vtk

    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "volumes")
    column = vtk.vtkStringArray()
    column.SetName("Structure")
    node.AddColumn(column)
    view = slicer.qMRMLTableView()
    view.setMRMLTableNode(node)
    node.SetCellText(node.AddEmptyRow(), 0, "heart")
    assert [view.model().index(row, 0).data() for row in range(view.model().rowCount())] == [
        "Structure",
        "heart",
    ]


def test_a_table_view_shows_titles_with_units_where_the_table_asks_for_titles(qtApp, scene, qt):
    from thoraxseg.mrml.tables import Column, fill_table

    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "volumes")
    fill_table(
        node,
        [Column("name", str, "Structure"), Column("volume_mm3", float, "Volume", "mm3"), Column("k", int)],
        [],
    )
    view = slicer.qMRMLTableView()
    view.setMRMLTableNode(node)
    assert [view.model().headerData(n, qt.Qt.Horizontal) for n in range(3)] == [
        "Structure",
        "Volume [mm3]",
        "k",
    ]


# Parameter nodes


@pytest.fixture
def wrapper(qtApp):
    import slicer.parameterNodeWrapper as wrapper

    return wrapper


class Side(enum.Enum):
    RIGHT = "r"
    LEFT = "l"


def test_a_type_that_a_parameter_node_cannot_keep_is_refused(wrapper):
    class Wrong:
        word: Literal["a", "b"]

    with pytest.raises(Exception, match=r"word|Literal"):
        wrapper.parameterNodeWrapper(Wrong)


def test_values_are_checked_kept_and_read_again(wrapper, scene):
    @wrapper.parameterPack
    class Pack:
        size: Annotated[int, wrapper.WithinRange(1, 9)] = 3
        side: Side = Side.LEFT
        names: list[str]

    @wrapper.parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        isOn: bool = True
        share: Annotated[float, wrapper.WithinRange(0, 1)] = 0.5
        pack: Pack
        observers: list[slicer.vtkMRMLSegmentationNode]

    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    first, again = Parameters(node), Parameters(node)
    contours = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    first.volume = volume(scene)
    first.isOn, first.share, first.pack.size, first.pack.side = False, 0.25, 5, Side.RIGHT
    first.pack.names = ["heart", "left_lung"]
    first.observers = [contours]
    assert again.volume is first.volume
    assert (again.isOn, again.share, again.pack.size, again.pack.side) == (False, 0.25, 5, Side.RIGHT)
    assert list(again.pack.names) == ["heart", "left_lung"]
    assert list(again.observers) == [contours]
    for name, value in (("share", 2.0), ("pack.size", 0), ("share", "much")):
        with pytest.raises((ValueError, TypeError)):
            first.setValue(name, value)
    with pytest.raises((AttributeError, ValueError)):
        first.pack.sizee = 3
    scene.RemoveNode(first.volume)
    assert again.volume is None


def test_only_widgets_that_fit_a_type_can_be_bound(wrapper, scene, qt):
    import ctk

    @wrapper.parameterNodeWrapper
    class Parameters:
        share: float = 0.5
        name: str
        side: Side

    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    for name, widget in (
        ("share", qt.QSpinBox()),
        ("name", qt.QComboBox()),
        ("share", ctk.ctkSliderWidget()),
    ):
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: widget})
    line, box, choice = qt.QLineEdit(), qt.QDoubleSpinBox(), qt.QComboBox()
    tag = parameters.connectParametersToGui({"name": line, "share": box, "side": choice})
    line.text, box.value = "Ada", 2.5
    choice.setCurrentIndex(1)
    assert (parameters.name, parameters.share, parameters.side) == ("Ada", 2.5, Side.LEFT)
    parameters.disconnectGui(tag)
    line.text = "Bert"
    assert parameters.name == "Ada"


# What the stand-ins offer, against what the real classes have


def standIns() -> dict[str, type]:
    from Testing.qt_stand_ins.pythonqt import UiLoader

    return UiLoader.standIns


def test_a_stand_in_offers_nothing_that_the_real_class_lacks(qtApp):
    assert set(standIns()) == set(API)
    for name, kind in standIns().items():
        bases = [API[one.__name__] for one in kind.__mro__ if one.__name__ in API]
        allowed = {one for base in bases for one in base.properties}
        allowed |= {one.partition("(")[0] for base in bases for one in (*base.signals, *base.slots)}
        own = {one for base in kind.__mro__ if base.__module__.startswith("Testing") for one in vars(base)}
        helpers = {
            "isStandIn",
            "signatures",
            "staticMetaObject",
            "answer",
            "mrmlScene",
            "sortFilterProxyModel",
        }
        inherited = set(dir(kind.__mro__[-1])) | {one for base in kind.__mro__ for one in qtMembers(base)}
        extra = {one for one in own - allowed - helpers - inherited if not one.startswith("_")}
        assert extra == set(), name
        missing = {one for base in bases for one in base.properties if not hasattr(kind, one)}
        assert missing == set(), name


def qtMembers(base: type) -> set[str]:
    return set(vars(base)) if base.__module__.startswith("PySide6") else set()


def test_signals_of_stand_ins_have_the_signatures_of_the_real_ones(qtApp):
    for name, kind in standIns().items():
        signatures = {
            one for base in kind.__mro__ if base.__name__ in API for one in API[base.__name__].signals
        }
        for signature in getattr(kind, "signatures", ()):
            assert signature in signatures, name
        for signature in API[name].signals:
            known = ui_files.MEMBERS[name].signals | set(getattr(kind, "signatures", ()))
            assert signature in known, f"{name} lacks {signature}"


def sourceOf(api) -> Path | None:
    variable = qt_app.CTK_SOURCE if Path(api.header).name.startswith("ctk") else qt_app.SLICER_SOURCE
    return Path(os.environ[variable]) / api.header if os.environ.get(variable) else None


@pytest.mark.parametrize("name", API, ids=str)
def test_the_list_says_what_the_headers_say(name):
    api = API[name]
    path = sourceOf(api)
    if path is None:
        pytest.skip(f"{qt_app.SLICER_SOURCE} and {qt_app.CTK_SOURCE} name no checkouts to compare with")
    header = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    header = re.sub(r"//.*", "", header)
    header = " ".join(header[header.index(f" {name}") :].split())
    assert f"public {api.base}" in header
    for one in api.properties:
        assert re.search(rf"Q_PROPERTY\([^)]*\b{one} READ", header), one
    for kind, members in (("signals", api.signals), ("slots", api.slots)):
        for one in members:
            function, _, arguments = one.rstrip(")").partition("(")
            wanted = [part for part in arguments.split(",") if part]
            found = re.findall(rf"\b{function}\(([^)]*)\)", header)
            assert any(fits(wanted, declared) for declared in found), f"{kind}: {one}"


def fits(wanted: list[str], declared: str) -> bool:
    """Tell whether a declaration takes these types, further ones having defaults."""
    parts = [part for part in declared.split(",") if part.strip()]
    plain = [re.sub(r"\bconst\b|&|=.*", "", part).split() for part in parts]
    types = ["".join(part[:1]) + ("*" if "*" in "".join(part) else "") for part in plain]
    types = [one.replace("**", "*") for one in types]
    rest = parts[len(wanted) :]
    return types[: len(wanted)] == wanted and all("=" in part for part in rest)
