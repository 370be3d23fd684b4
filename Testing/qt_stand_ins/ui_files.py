"""What a .ui file says: widgets, properties, connections; and what of it the real classes do not have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

from Testing.qt_stand_ins.api import API


@dataclass(frozen=True)
class UiFile:
    """A parsed .ui file."""

    path: Path
    root: ElementTree.Element

    @cached_property
    def widgets(self) -> dict[str, str]:
        """Class of every widget by its name."""
        return {one.get("name"): one.get("class") for one in self.root.iter("widget")}

    @cached_property
    def connections(self) -> list[tuple[str, str, str, str]]:
        """Sender, signal, receiver and slot of every connection."""
        parts = ("sender", "signal", "receiver", "slot")
        return [tuple(one.findtext(part) for part in parts) for one in self.root.iter("connection")]

    @cached_property
    def parameterNames(self) -> dict[str, str]:
        """`SlicerParameterName` of every widget that has one, by the widget's name."""
        return {
            widget.get("name"): one.findtext("string")
            for widget in self.root.iter("widget")
            for one in widget.findall("property")
            if one.get("name") == "SlicerParameterName"
        }

    @cached_property
    def enumsOfStandIns(self) -> list[tuple[str, str, str]]:
        """Widget, property and value, such as "QComboBox::NoInsert", of what stand-ins have in words."""
        return [
            (widget.get("name"), one.get("name"), one.findtext("enum"))
            for widget in self.root.iter("widget")
            if widget.get("class") in API
            for one in widget.findall("property")
            if one.find("enum") is not None
        ]

    @property
    def withoutConnections(self) -> bytes:
        """The file as Qt may load it: the loader makes the connections itself, stand-ins included.

        PySide6 cannot read an enum that is a property of a class made in Python: the loader sets those too.
        """
        text = ElementTree.tostring(self.root)
        copy = ElementTree.fromstring(text)
        for one in copy.findall("connections"):
            copy.remove(one)
        for widget in copy.iter("widget"):
            for one in widget.findall("property") if widget.get("class") in API else ():
                if one.find("enum") is not None:
                    widget.remove(one)
        return ElementTree.tostring(copy)


def read(path) -> UiFile:
    """Return what a .ui file says."""
    return UiFile(Path(path), ElementTree.parse(path).getroot())


def problems(ui: UiFile) -> list[str]:
    """Return a sentence for everything in the file that the real Slicer, CTK and Qt classes do not have."""
    found = []
    names = [one.get("name") for one in ui.root.iter("widget")]
    found += [f"the name {name} is used twice" for name in sorted(set(names)) if names.count(name) > 1]
    declared = {one.findtext("class"): one.findtext("extends") for one in ui.root.iter("customwidget")}
    for widget in ui.root.iter("widget"):
        kind, name = widget.get("class"), widget.get("name")
        if kind in API and kind not in declared:
            found.append(f"{kind} ({name}) is missing from customwidgets")
        for one in widget.findall("property"):
            if one.get("stdset") == "0":
                continue
            if one.get("name") not in propertiesOf(kind):
                found.append(f"{kind} ({name}) has no property {one.get('name')}")
        for one in widget.findall("property[@name='nodeTypes']/stringlist"):
            if one.get("notr") != "true":
                found.append(f"nodeTypes of {name} would be translated: mark them notr")
    for sender, signal, receiver, slot in ui.connections:
        for side, text, kinds in ((sender, signal, "signals"), (receiver, slot, "slots")):
            kind = ui.widgets.get(side)
            if kind is None:
                found.append(f"a connection names {side}, which is no widget")
            elif text not in _membersOf(kind, kinds):
                found.append(f"{kind} ({side}) has no {kinds[:-1]} {text}")
    return found


def propertiesOf(kind: str) -> set[str]:
    """Return the names of the properties of a class, those of its base classes included."""
    return _membersOf(kind, "properties")


def _membersOf(kind: str, what: str) -> set[str]:
    if kind in API:
        return set(getattr(API[kind], what)) | _membersOf(API[kind].base, what)
    return set(getattr(MEMBERS[kind], what)) if kind in MEMBERS else set()


@dataclass(frozen=True)
class Members:
    """What a class of Qt has, inherited things included."""

    properties: frozenset[str]
    signals: frozenset[str]
    slots: frozenset[str]


MEMBERS: dict[str, Members] = {}
"""By class name. Read once, before there are objects: with the first one that goes, PySide6 loses the description."""


def learn(kind: type) -> None:
    """Keep what a class has."""
    from PySide6.QtCore import QMetaMethod

    meta = kind.staticMetaObject
    methods = [meta.method(index) for index in range(meta.methodCount())]

    def of(wanted) -> frozenset[str]:
        return frozenset(
            bytes(one.methodSignature()).decode() for one in methods if one.methodType() == wanted
        )

    kinds = QMetaMethod.MethodType
    properties = frozenset(meta.property(index).name() for index in range(meta.propertyCount()))
    MEMBERS[kind.__name__] = Members(properties, of(kinds.Signal), of(kinds.Slot))
