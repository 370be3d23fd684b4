"""Stand-ins for widgets of CTK: the real names, with as much behavior as a panel leans on."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal


def stored(kind, name: str, default):
    """Return a Qt property that does nothing but keep its value."""
    return Property(
        kind,
        lambda self: self.__dict__.get(f"_{name}", default),
        lambda self, value: self.__dict__.__setitem__(f"_{name}", value),
    )


class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box."""

    isStandIn = True


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box."""

    isStandIn = True
    defaultText = stored(str, "defaultText", "")
    forceDefault = stored(bool, "forceDefault", False)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A section with a header that opens and closes it; collapsed, only the header is seen."""

    isStandIn = True
    contentsCollapsed = Signal(bool)
    contentsFrameShape = stored(int, "contentsFrameShape", 0)
    contentsLineWidth = stored(int, "contentsLineWidth", 1)
    collapsedHeight = stored(int, "collapsedHeight", 10)
    flat = stored(bool, "flat", False)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Maximum)
        self.toggled.connect(self._onToggled)

    def _headerHeight(self) -> int:
        return self.fontMetrics().height() + 10

    def _onToggled(self, isOpen: bool) -> None:
        self.setMaximumHeight(16777215 if isOpen else self._headerHeight())
        self.updateGeometry()
        self.contentsCollapsed.emit(not isOpen)

    collapsed = Property(
        bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value)
    )

    def event(self, event) -> bool:
        if event.type() == QtCore.QEvent.LayoutRequest or event.type() == QtCore.QEvent.Polish:
            self.setContentsMargins(0, self._headerHeight(), 0, 0)
        return super().event(event)

    def sizeHint(self) -> QtCore.QSize:
        height, layout = self._headerHeight(), self.layout()
        inner = layout.totalSizeHint() if layout is not None else QtCore.QSize(0, 0)
        width = max(inner.width(), self.fontMetrics().horizontalAdvance(self.text) + 40)
        return QtCore.QSize(width, inner.height() if self.isChecked() and layout is not None else height)

    def minimumSizeHint(self) -> QtCore.QSize:
        height, layout = self._headerHeight(), self.layout()
        inner = layout.totalMinimumSize() if layout is not None else QtCore.QSize(0, 0)
        return QtCore.QSize(
            inner.width(), inner.height() if self.isChecked() and layout is not None else height
        )

    def hitButton(self, position) -> bool:
        return position.y() < self._headerHeight()

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        header = QtCore.QRect(0, 0, self.width, self._headerHeight())
        painter.fillRect(header, self.palette.color(QtGui.QPalette.Midlight))
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(6, (header.height() - 12) // 2, 12, 12)
        arrows = QtWidgets.QStyle
        arrow = arrows.PE_IndicatorArrowDown if self.isChecked() else arrows.PE_IndicatorArrowRight
        self.style().drawPrimitive(arrow, option, painter)
        painter.setPen(self.palette.color(QtGui.QPalette.ButtonText))
        painter.drawText(header.adjusted(26, 0, 0, 0), QtCore.Qt.AlignVCenter, self.text)
        painter.end()


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box that opens and closes by its check box."""

    isStandIn = True
    collapsedHeight = stored(int, "collapsedHeight", 10)

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.setCheckable(True)
        self.toggled.connect(self._onToggled)

    def _onToggled(self, isOpen: bool) -> None:
        self.setMaximumHeight(16777215 if isOpen else self.fontMetrics().height() + 8)
        self.setFlat(not isOpen)

    collapsed = Property(
        bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value)
    )


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box; in tests nobody is there to press a button, so it asks `answer` for one.

    `answer(box)` returns a standard button, and may look at `box.text`, `box.detailedText` and the like.
    """

    isStandIn = True
    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")
    dontShowAgainVisible = stored(bool, "dontShowAgainVisible", False)
    answer = None

    def exec_(self):
        if ctkMessageBox.answer is None:
            raise RuntimeError(f"A message box would wait for ever: {self.text}")
        return ctkMessageBox.answer(self)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, with a button to browse."""

    isStandIn = True
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    label = stored(str, "label", "")
    settingKey = stored(str, "settingKey", "")
    nameFilters = stored("QStringList", "nameFilters", [])
    showBrowseButton = stored(bool, "showBrowseButton", True)
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._line, self._browse = QtWidgets.QLineEdit(self), QtWidgets.QToolButton(self)
        self._browse.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(self._browse)
        self._line.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda self: self._line.text, lambda self, value: self._line.setText(value))

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    def addCurrentPathToHistory(self) -> None: ...


class _Number(QtWidgets.QWidget):
    """What ctkSliderWidget and ctkDoubleSpinBox share: a number in a range."""

    isStandIn = True
    signatures = {"valueChanged(double)": "valueChanged"}  # noqa: RUF012
    valueChanged = Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._spinBox = QtWidgets.QDoubleSpinBox(self)
        self._layout = QtWidgets.QHBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(self._spinBox)
        self._spinBox.valueChanged.connect(self.valueChanged)

    def setValue(self, value: float) -> None:
        self._spinBox.setValue(value)


def _ofSpinBox(kind, name: str):
    return Property(
        kind,
        lambda self: getattr(self._spinBox, name),
        lambda self, value: setattr(self._spinBox, name, value),
    )


_SPIN_BOX = {
    **dict.fromkeys(("minimum", "maximum", "singleStep", "value"), float),
    "decimals": int,
    "prefix": str,
    "suffix": str,
}


class ctkDoubleSpinBox(_Number):
    """A spin box."""

    editingFinished = Signal()
    locals().update({name: _ofSpinBox(kind, name) for name, kind in _SPIN_BOX.items()})


class ctkSliderWidget(_Number):
    """A slider with a spin box beside it."""

    valueIsChanging = Signal(float)
    pageStep = stored(float, "pageStep", 10.0)
    tracking = stored(bool, "tracking", True)
    spinBoxVisible = stored(bool, "spinBoxVisible", True)
    locals().update({name: _ofSpinBox(kind, name) for name, kind in _SPIN_BOX.items()})

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._slider.setRange(0, 1000)
        self._layout.insertWidget(0, self._slider)
        self._spinBox.valueChanged.connect(self._moveSlider)
        self._slider.sliderMoved.connect(self._onMoved)

    def _moveSlider(self, value: float) -> None:
        span = self._spinBox.maximum - self._spinBox.minimum
        self._slider.setValue(round(1000 * (value - self._spinBox.minimum) / span) if span else 0)

    def _onMoved(self, position: int) -> None:
        span = self._spinBox.maximum - self._spinBox.minimum
        self._spinBox.setValue(self._spinBox.minimum + span * position / 1000)
        self.valueIsChanging.emit(self._spinBox.value)
