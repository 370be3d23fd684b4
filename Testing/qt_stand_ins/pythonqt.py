"""PySide6 made to behave like PythonQt: properties without parentheses, `connect("clicked()", f)`, nothing unknown.

In PythonQt `button.text` is the text, `button.text()` an error, `button.setText` a method; `name` means `objectName`;
and a new attribute on a Qt object is refused, so that a misspelled property is an error and not silence.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from Testing.qt_stand_ins import ui_files

VIRTUAL = {"sizeHint", "minimumSizeHint"}
"""Getters that PySide6 looks up in Python whenever Qt asks: a property there would ask Qt again, without end."""
FURTHER_GETTERS = {"mouseTracking": "hasMouseTracking", "frame": "hasFrame", "tracking": "hasTracking"}


escaped: list[Exception] = []
"""What functions raised that a signal had called: Qt prints it and goes on, in Slicer as here."""


class QtProperty:
    """A Qt property as PythonQt shows it: read and written as an attribute of an object.

    On the class, the function of the same name stays, as `QTimer.singleShot` does in Slicer.
    """

    def __init__(self, name: str, reader: Callable | None, writer: Callable | None, onClass) -> None:
        self.name, self.reader, self.writer, self.onClass = name, reader, writer, onClass

    def __get__(self, obj, kind=None):
        if obj is None:
            return self.onClass if self.onClass is not None else self
        return self.reader(obj) if self.reader is not None else obj.property(self.name)

    def __set__(self, obj, value) -> None:
        if self.writer is not None:
            self.writer(obj, value)
        elif not obj.setProperty(self.name, value):
            raise AttributeError(f"Property {self.name!r} of {type(obj).__name__} cannot be written.")


def enable() -> types.ModuleType:
    """Patch PySide6 once and return a module that stands for `qt`."""
    classes = {}
    everything = {}
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):  # the classes are loaded by asking for them
            if not name.startswith("_"):
                everything[name] = getattr(module, name)
    for thing in everything.values():
        if isinstance(thing, type) and issubclass(thing, QtCore.QObject):
            classes[thing.__name__] = thing
    getters = {kind: kind.__getattribute__ for kind in classes.values()}  # all, before the first is replaced
    for kind, getter in getters.items():
        ui_files.learn(kind)
        _patch(kind)
        kind.__getattribute__ = _gettingAttribute(getter)
    QtCore.QObject.name = QtProperty("objectName", None, QtCore.QObject.setObjectName, None)
    QtCore.QObject.className = lambda self: type(self).__name__
    qt = types.ModuleType("qt", __doc__)
    vars(qt).update(everything)
    qt.QUiLoader, qt.QFileDialog = UiLoader, FileDialog
    return qt


def _patch(kind: type) -> None:
    meta = kind.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in VIRTUAL:
            setattr(kind, name, _propertyOf(kind, name, meta.property(index).isWritable()))
    kind.__setattr__ = _setAttribute


def _propertyOf(kind: type, name: str, isWritable: bool) -> QtProperty:
    capital = name[0].upper() + name[1:]
    own = getattr(kind, name, None)
    names = (name, f"is{capital}", f"has{capital}", FURTHER_GETTERS.get(name, ""))
    reader = next((getattr(kind, one) for one in names if one and _isMethod(getattr(kind, one, None))), None)
    writer = getattr(kind, f"set{capital}", None) if isWritable else None
    onClass = own if isinstance(own, types.BuiltinFunctionType) or inspect.isfunction(own) else None
    return QtProperty(name, reader, writer, onClass)


def _isMethod(thing) -> bool:
    return thing is not None and inspect.ismethoddescriptor(thing)


def _gettingAttribute(original: Callable) -> Callable:
    """Return `__getattribute__` of a class. Each class has its own: some tell functions of the class and of objects
    apart in it, and `connect` is among these, whatever a class says of it, unless it is caught here."""

    def __getattribute__(self, name: str):
        if name == "connect":
            return functools.partial(_connect, self)
        if name == "disconnect":
            return functools.partial(_disconnect, self)
        return original(self, name)

    return __getattribute__


def _setAttribute(self, name: str, value) -> None:
    for kind in type(self).__mro__:
        descriptor = kind.__dict__.get(name)
        if isinstance(descriptor, QtCore.Property):
            if not self.setProperty(name, list(value) if isinstance(value, tuple) else value):
                raise AttributeError(f"Property {name!r} of {type(self).__name__} cannot be {value!r}.")
            return
        if descriptor is not None and hasattr(type(descriptor), "__set__"):
            type(descriptor).__set__(descriptor, self, value)
            return
    # Classes derived in Python, and the inner things of the stand-ins, may have attributes of their own.
    isQtOwn = type(self).__module__.startswith(("PySide6", "Testing.qt_stand_ins"))
    isOfPySide = UiLoader.isLoading or isinstance(value, QtCore.SignalInstance)  # it keeps signals this way
    if isQtOwn and not name.startswith("_") and not isOfPySide:
        raise AttributeError(
            f"{type(self).__name__} has no property {name!r}, and PythonQt allows no new attributes on Qt objects."
        )
    self.__dict__[name] = value


def signalsOf(obj: QtCore.QObject) -> set[str]:
    """Return the signatures of the signals that the real object has."""
    return {one for one in _ownSignals(obj) if "PyObject" not in one} | set(
        getattr(type(obj), "signatures", ())
    )


def _ownSignals(obj: QtCore.QObject) -> frozenset[str]:
    kind = next(one for one in type(obj).__mro__ if one.__name__ in ui_files.MEMBERS)
    return ui_files.MEMBERS[kind.__name__].signals


def _connect(obj, signature: str, receiver: Callable) -> bool:
    signature = signature.replace(" ", "")
    if signature not in signalsOf(obj):
        known = ", ".join(sorted(signalsOf(obj)))
        raise ValueError(f"{type(obj).__name__} has no signal {signature}. Known: {known}.")
    if not callable(receiver):
        raise ValueError(f"{receiver!r} cannot be called.")
    slot = _trimmed(receiver, signature)
    own = getattr(type(obj), "signatures", {})
    if signature in own:
        getattr(obj, own[signature]).connect(slot)
    else:
        QtCore.QObject.connect(obj, QtCore.SIGNAL(signature), slot)
    obj.__dict__.setdefault("_links", []).append((signature, receiver, slot))
    return True


def _disconnect(obj, signature: str, receiver: Callable) -> bool:
    signature = signature.replace(" ", "")
    links = obj.__dict__.get("_links", [])
    for link in links:
        if link[:2] == (signature, receiver):
            links.remove(link)
            own = getattr(type(obj), "signatures", {})
            if signature in own:
                getattr(obj, own[signature]).disconnect(link[2])
            else:
                QtCore.QObject.disconnect(obj, QtCore.SIGNAL(signature), link[2])
            return True
    return False


def _trimmed(receiver: Callable, signature: str) -> Callable:
    """Return a slot that hands over as many arguments as the signature has, at most as many as are taken."""
    count = len([one for one in re.search(r"\((.*)\)", signature)[1].split(",") if one])
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except ValueError:  # built in
        parameters = ()
    if not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        count = min(
            count, sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
        )

    def slot(*args) -> None:
        try:
            receiver(*args[:count])
        except Exception as error:
            escaped.append(error)
            raise

    return slot


def isConnected(obj: QtCore.QObject, signature: str) -> bool:
    """Tell whether anything listens to a signal of an object, however it was connected."""
    name = getattr(type(obj), "signatures", {}).get(signature)
    if name is None:
        return obj.receivers(QtCore.SIGNAL(signature)) > 0
    return any(
        obj.receivers(QtCore.SIGNAL(one)) > 0 for one in _ownSignals(obj) if one.partition("(")[0] == name
    )


class FileDialog(QtWidgets.QFileDialog):
    """File dialogs; they return a path as text, as in PythonQt, and ask `answer(title)` for it."""

    answer = None

    @staticmethod
    def _ask(title: str) -> str:
        if FileDialog.answer is None:
            raise RuntimeError(f"A file dialog would wait for ever: {title}")
        return FileDialog.answer(title)

    @staticmethod
    def getOpenFileName(parent=None, title="", folder="", filters="") -> str:
        return FileDialog._ask(title)

    @staticmethod
    def getSaveFileName(parent=None, title="", path="", filters="") -> str:
        return FileDialog._ask(title)

    @staticmethod
    def getExistingDirectory(parent=None, title="", folder="") -> str:
        return FileDialog._ask(title)


class UiLoader(QtUiTools.QUiLoader):
    """QUiLoader with the stand-ins, strict: a class, property, signal or slot that does not exist is an error."""

    isLoading = False
    standIns: dict[str, type] = {}  # noqa: RUF012 - filled once by Testing.qt_app

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._made: list = []
        self._problems: list[str] = []

    def createWidget(self, name, parent=None, objectName=""):
        # An error raised in here would get lost on its way through Qt.
        kind = self.standIns.get(name)
        if kind is None and name[:3] in ("ctk", "qMR", "qSl"):
            self._problems.append(f"no stand-in for {name} ({objectName}): add one to Testing/qt_stand_ins")
            kind = QtWidgets.QWidget
        widget = super().createWidget(name, parent, objectName) if kind is None else kind(parent)
        if widget is None:
            self._problems.append(f"Qt has no class {name} ({objectName})")
            widget = QtWidgets.QWidget(parent)
        widget.setObjectName(objectName)
        return self._keep(widget)

    def createLayout(self, name, parent=None, objectName=""):
        return self._keep(super().createLayout(name, parent, objectName))

    def createAction(self, parent=None, objectName=""):
        return self._keep(super().createAction(parent, objectName))

    def _keep(self, obj):
        self._made.append(obj)
        return obj

    def load(self, file, parent=None):
        """Return the widget of a .ui file, its connections made; raises RuntimeError for what does not exist."""
        description = ui_files.read(file.fileName())
        self._made, self._problems = [], ui_files.problems(description)
        buffer = QtCore.QBuffer()
        buffer.setData(description.withoutConnections)
        UiLoader.isLoading = True
        try:
            widget = super().load(buffer, parent)
        finally:
            UiLoader.isLoading = False
        if self._problems or widget is None:
            told = "; ".join(self._problems) or self.errorString()
            raise RuntimeError(f"{file.fileName()}: {told}")
        for name in description.widgets:  # PySide6 makes the widgets attributes of the outermost one
            widget.__dict__.pop(name, None)
        widget.__dict__["_made"] = self._made  # or Python would forget what belongs to widgets that Qt keeps
        byName = {one.objectName: one for one in self._made}
        for name, member, value in description.enumsOfStandIns:
            kind, _, word = value.partition("::")
            setattr(byName[name], member, getattr(getattr(QtWidgets, kind), word))
        for sender, signal, receiver, slot in description.connections:
            byName[sender].connect(signal, getattr(byName[receiver], slot.partition("(")[0]))
        return widget
