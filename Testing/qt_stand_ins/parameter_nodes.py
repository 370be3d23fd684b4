"""Stand-in for `slicer.parameterNodeWrapper`: typed parameters kept in a real scripted-module node, bound to widgets.

It takes what the panels use and refuses, as the real one does, what that refuses: a type it cannot store (`Literal`),
a widget of another class than the ones that fit, a value outside its range, a new attribute on a pack. Values are
stored under the same names and as the same words as in Slicer.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import MutableSequence

import slicer
import vtk

PARAMETER_PROPERTY = "SlicerParameterName"


class Default:
    """Marks the default of a parameter in its annotation."""

    def __init__(self, value=None, *, generator=None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Validator:
    """Base of what a value is checked with."""


class WithinRange(Validator):
    """From minimum to maximum, both included."""

    def __init__(self, minimum, maximum) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Expected {self.minimum} to {self.maximum}, got {value}.")


class Minimum(Validator):
    """At least this."""

    def __init__(self, minimum) -> None:
        self.minimum = minimum

    def validate(self, value) -> None:
        if value < self.minimum:
            raise ValueError(f"Expected at least {self.minimum}, got {value}.")


class Maximum(Validator):
    """At most this."""

    def __init__(self, maximum) -> None:
        self.maximum = maximum

    def validate(self, value) -> None:
        if value > self.maximum:
            raise ValueError(f"Expected at most {self.maximum}, got {value}.")


class Choice(Validator):
    """One of these."""

    def __init__(self, choices) -> None:
        self.choices = choices

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"Expected one of {self.choices}, got {value}.")


def _split(annotation) -> tuple[typing.Any, tuple]:
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.get_args(annotation)[0], annotation.__metadata__
    return annotation, ()


def _withoutNone(kind):
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return kinds[0] if len(kinds) == 1 else kind
    return kind


def _isNode(kind) -> bool:
    return isinstance(_withoutNone(kind), type) and issubclass(_withoutNone(kind), slicer.vtkMRMLNode)


def _isEnum(kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


class _Parameter:
    """One parameter: its type, its checks, and how it is kept in the node."""

    def __init__(self, owner: type, name: str, annotation) -> None:
        self.name, self.annotation = name, annotation
        self.kind, notes = _split(annotation)
        self.validators = [note for note in notes if isinstance(note, Validator)]
        defaults = [note.value for note in notes if isinstance(note, Default)]
        if name in vars(owner):
            self.default = vars(owner)[name]
        elif defaults:
            self.default = defaults[0]
        else:
            self.default = _plainDefault(self.kind, owner, name)
        if self.default is not None:
            self.check(self.default)

    def check(self, value) -> None:
        kind = _withoutNone(self.kind)
        if typing.get_origin(kind) is list:
            kind = list
        if kind is float and isinstance(value, int):
            value = float(value)
        if isinstance(value, _ObservedList):
            value = list(value)
        optional = _isNode(self.kind) or kind is not self.kind
        if not (value is None and optional) and not isinstance(value, kind):
            raise TypeError(f"{self.name}: expected {kind.__name__}, got {value!r}.")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node, path: str, value) -> None:
        self.check(value)
        kind = self.kind
        if _isNode(kind):
            node.SetParameter(path, "")
            node.SetNodeReferenceID(path, value.GetID() if value is not None else None)
        elif isPack(kind):
            for one in kind.allParameters.values():
                one.write(node, f"{path}.{one.name}", getattr(value, one.name))
        elif typing.get_origin(kind) is list:
            self._writeList(node, path, value)
        elif kind is bool:
            node.SetParameter(path, "True" if value else "False")
        elif _isEnum(kind):
            node.SetParameter(path, value.name)
        elif value is None:
            node.SetParameter(path, "None")
        else:
            node.SetParameter(path, str(value))

    def _writeList(self, node, path: str, values) -> None:
        item = typing.get_args(self.kind)[0]
        if _isNode(item):
            node.SetParameter(path, "")
            node.RemoveNodeReferenceIDs(path)
            for value in values:
                node.AddNodeReferenceID(path, value.GetID())
        else:
            node.SetParameter(path, "\x1f".join(map(str, values)))

    def read(self, node, path: str):
        kind = _withoutNone(self.kind)
        if _isNode(kind):
            return node.GetNodeReference(path)
        if isPack(kind):
            values = {one.name: one.read(node, f"{path}.{one.name}") for one in kind.allParameters.values()}
            return _observedPack(kind, values, self, node, path)
        text = node.GetParameter(path)
        if typing.get_origin(kind) is list:
            item = typing.get_args(kind)[0]
            if _isNode(item):
                count = node.GetNumberOfNodeReferences(path)
                values = [node.GetNthNodeReference(path, n) for n in range(count)]
                values = [value for value in values if value is not None]
            else:
                values = [item(one) for one in text.split("\x1f")] if text else []
            return _ObservedList(values, self, node, path)
        if kind is bool:
            return text == "True"
        if _isEnum(kind):
            return kind[text]
        if kind is not self.kind and text == "None":
            return None
        return kind(text)

    def isIn(self, node, path: str) -> bool:
        if isPack(self.kind):
            first = next(iter(self.kind.allParameters.values()))
            return first.isIn(node, f"{path}.{first.name}")
        return bool(node.HasParameter(path)) if hasattr(node, "HasParameter") else _has(node, path)


def _has(node, path: str) -> bool:
    names: list[str] = []
    return path in (node.GetParameterNames(names) or names)


def _plainDefault(kind, owner: type, name: str):
    if _isNode(kind) or _withoutNone(kind) is not kind:
        return None
    if isPack(kind):
        return kind()
    if typing.get_origin(kind) is list:
        return []
    if _isEnum(kind):
        return next(iter(kind))
    if kind in (int, float, str, bool):
        return kind()
    raise TypeError(f"{owner.__name__}.{name}: a parameter node cannot keep {kind!r}.")


def _storable(kind) -> bool:
    return (
        _isNode(kind)
        or isPack(kind)
        or _isEnum(kind)
        or _withoutNone(kind) in (int, float, str, bool)
        or (typing.get_origin(kind) is list and _storable(typing.get_args(kind)[0]))
    )


def _parametersOf(owner: type) -> dict[str, _Parameter]:
    hints = typing.get_type_hints(owner, include_extras=True)
    for name, annotation in hints.items():
        if not _storable(_split(annotation)[0]):
            raise TypeError(f"{owner.__name__}.{name}: a parameter node cannot keep {annotation!r}.")
    return {name: _Parameter(owner, name, annotation) for name, annotation in hints.items()}


class _ObservedList(MutableSequence):
    """A list of the node: every change of it is written back."""

    def __init__(self, values: list, parameter: _Parameter, node, path: str) -> None:
        self._values, self._parameter, self._node, self._path = values, parameter, node, path

    def __getitem__(self, index):
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other) -> bool:
        return list(self) == list(other)

    __hash__ = None

    def __setitem__(self, index, value) -> None:
        self._values[index] = value
        self._parameter.write(self._node, self._path, self._values)

    def __delitem__(self, index) -> None:
        del self._values[index]
        self._parameter.write(self._node, self._path, self._values)

    def insert(self, index: int, value) -> None:
        self._values.insert(index, value)
        self._parameter.write(self._node, self._path, self._values)


def isPack(kind) -> bool:
    """Tell whether a class or an object is a parameter pack."""
    return getattr(kind, "_isPack", False)


def parameterPack(kind=None):
    """Make a class of annotated members a pack of parameters with checks."""
    if kind is None:
        return parameterPack
    parameters = _parametersOf(kind)

    def __init__(self, *args, **kwargs) -> None:
        given = dict(zip(parameters, args, strict=False)) | kwargs
        for name in given.keys() - parameters.keys():
            raise TypeError(f"{kind.__name__} has no member {name!r}.")
        for name, parameter in parameters.items():
            setattr(self, name, given.get(name, parameter.default))

    def member(name: str, parameter: _Parameter) -> property:
        def write(self, value) -> None:
            parameter.check(value)
            self.__dict__[f"_{name}"] = value

        return property(lambda self: self.__dict__[f"_{name}"], write)

    def __eq__(self, other) -> bool:
        return isPack(other) and all(getattr(self, name) == getattr(other, name) for name in parameters)

    for name, parameter in parameters.items():
        setattr(kind, name, member(name, parameter))
    kind.__init__, kind.__eq__, kind.__hash__ = __init__, __eq__, None
    kind.allParameters, kind._isPack = parameters, True
    kind.getValue = lambda self, name: getattr(self, name)
    kind.setValue = lambda self, name, value: setattr(self, name, value)
    kind.dataType = staticmethod(lambda name: parameters[name].annotation)
    return kind


def _observedPack(kind: type, values: dict, parameter: _Parameter, node, path: str):
    class Observed(kind):
        def __setattr__(self, name: str, value) -> None:
            if name not in kind.allParameters:
                raise AttributeError(f"{kind.__name__} has no member {name!r}.")
            super().__setattr__(name, value)
            if self.__dict__.get("_isReady"):
                with slicer.util.NodeModify(node):
                    parameter.write(node, path, self)

    pack = Observed(**values)
    pack.__dict__["_isReady"] = True
    return pack


def parameterNodeWrapper(kind=None):
    """Make a class of annotated members a typed view of a scripted-module node."""
    if kind is None:
        return parameterNodeWrapper
    parameters = _parametersOf(kind)

    def __init__(self, node) -> None:
        self.__dict__.update(parameterNode=node, _guis={}, _updating=False)
        for name, parameter in parameters.items():
            if not parameter.isIn(node, name):
                parameter.write(node, name, parameter.default)

    def member(name: str, parameter: _Parameter) -> property:
        def write(self, value) -> None:
            with slicer.util.NodeModify(self.parameterNode):
                parameter.write(self.parameterNode, name, value)

        return property(lambda self: parameter.read(self.parameterNode, name), write)

    for name, parameter in parameters.items():
        setattr(kind, name, member(name, parameter))
    functions = (dataType, getValue, setValue, connectGui, connectParametersToGui, disconnectGui)
    for function in functions:
        setattr(kind, function.__name__, function)
    kind.__init__, kind.allParameters = __init__, parameters
    for name in ("StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified"):
        setattr(kind, name, _passedOn(name))
    return kind


def _passedOn(name: str):
    return lambda self, *args: getattr(self.parameterNode, name)(*args)


def dataType(self, name: str):
    """Return the annotation of a parameter, also of `pack.member`."""
    top, _, member = name.partition(".")
    if top not in self.allParameters:
        raise ValueError(f"No parameter {name!r}; known: {', '.join(self.allParameters)}.")
    parameter = self.allParameters[top]
    if not member:
        return parameter.annotation
    if not isPack(parameter.kind) or member not in parameter.kind.allParameters:
        raise ValueError(f"No parameter {name!r}.")
    return parameter.kind.dataType(member)


def getValue(self, name: str):
    """Return the value of a parameter or of a member of a pack."""
    self.dataType(name)
    top, _, member = name.partition(".")
    value = getattr(self, top)
    return getattr(value, member) if member else value


def setValue(self, name: str, value) -> None:
    """Set a parameter or a member of a pack."""
    self.dataType(name)
    top, _, member = name.partition(".")
    if member:
        setattr(getattr(self, top), member, value)
    else:
        setattr(self, top, value)


def connectGui(self, gui) -> int:
    """Bind every widget that has the dynamic property SlicerParameterName; return a tag for `disconnectGui`."""
    import qt

    widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "findChildren") else vars(gui).values()
    named = {widget.property(PARAMETER_PROPERTY): widget for widget in widgets}
    return self.connectParametersToGui({name: widget for name, widget in named.items() if name})


def connectParametersToGui(self, mapping: dict) -> int:
    """Bind parameters to widgets, by name."""
    pairs = {name: _connector(widget, self.dataType(name), name) for name, widget in mapping.items()}
    tag = len(self._guis)
    links = []
    for name, (widget, signal, read, write) in pairs.items():
        write(widget, self.getValue(name))

        def changed(*, name=name, widget=widget, read=read) -> None:
            if not self._updating:
                with slicer.util.NodeModify(self.parameterNode):
                    self.setValue(name, read(widget))

        widget.connect(signal, changed)
        links.append((widget, signal, changed))

    def update(caller=None, event=None) -> None:
        if self._updating:
            return
        self.__dict__["_updating"] = True
        try:
            for name, (widget, _signal, _read, write) in pairs.items():
                write(widget, self.getValue(name))
        finally:
            self.__dict__["_updating"] = False

    self._guis[tag] = (self.AddObserver(vtk.vtkCommand.ModifiedEvent, update), links)
    return tag


def disconnectGui(self, tag: int) -> None:
    """End a binding."""
    if tag in self._guis:
        observer, links = self._guis.pop(tag)
        self.RemoveObserver(observer)
        for widget, signal, changed in links:
            widget.disconnect(signal, changed)


def _connector(widget, annotation, name: str):
    """Return widget, signal, reader and writer; as in Slicer, for exactly these classes of widgets."""
    import ctk
    import qt

    kind, notes = _split(annotation)
    here = type(widget)
    if _isNode(kind) and here is slicer.qMRMLNodeComboBox:
        node = _withoutNone(kind)()
        widget.nodeTypes = (node.GetClassName(),)
        return (
            widget,
            "currentNodeChanged(vtkMRMLNode*)",
            lambda w: w.currentNode(),
            lambda w, v: w.setCurrentNode(v),
        )
    if kind is bool and here in (qt.QCheckBox, ctk.ctkCheckBox):
        return widget, "toggled(bool)", lambda w: w.checked, lambda w, v: w.setChecked(v)
    if kind is bool and here is qt.QPushButton:
        widget.checkable = True
        return widget, "toggled(bool)", lambda w: w.checked, lambda w, v: w.setChecked(v)
    if kind is int and here in (qt.QSpinBox, qt.QSlider):
        _limit(widget, notes, -(2**31), 2**31 - 1)
        return widget, "valueChanged(int)", lambda w: w.value, lambda w, v: w.setValue(v)
    floats = (qt.QDoubleSpinBox, ctk.ctkDoubleSpinBox, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
    if kind in (float, int) and here in floats:
        bounded = any(isinstance(one, WithinRange) for one in notes)
        if here in (ctk.ctkSliderWidget, slicer.qMRMLSliderWidget) and not bounded:
            raise RuntimeError(f"{name}: a ctkSliderWidget needs a parameter WithinRange.")
        _limit(widget, notes, float("-inf"), float("inf"))
        return widget, "valueChanged(double)", lambda w: kind(w.value), lambda w, v: w.setValue(v)
    if _isEnum(kind) and here in (qt.QComboBox, ctk.ctkComboBox):
        label = getattr(kind, "label", lambda one: one.name)
        members = list(kind)
        widget.clear()
        for one in members:
            widget.addItem(label(one))
        return (
            widget,
            "currentIndexChanged(int)",
            lambda w: members[w.currentIndex],
            lambda w, v: w.setCurrentIndex(members.index(v)),
        )
    choices = next((one.choices for one in notes if isinstance(one, Choice)), None)
    if kind in (int, float, str) and here in (qt.QComboBox, ctk.ctkComboBox) and choices:
        widget.clear()
        for one in choices:
            widget.addItem(str(one))
        return (
            widget,
            "currentIndexChanged(int)",
            lambda w: choices[w.currentIndex],
            lambda w, v: w.setCurrentIndex(choices.index(v)),
        )
    if kind is str and here is qt.QLineEdit:
        return widget, "textChanged(QString)", lambda w: w.text, _writeText
    raise RuntimeError(f"Slicer cannot bind {name} ({annotation}) to a {here.__name__}.")


def _writeText(widget, text: str) -> None:
    if widget.text != text:  # or the cursor would jump while somebody types
        widget.text = text


def _limit(widget, notes: tuple, low, high) -> None:
    for note in notes:
        low, high = getattr(note, "minimum", low), getattr(note, "maximum", high)
    widget.minimum, widget.maximum = low, high
