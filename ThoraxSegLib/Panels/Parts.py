"""What several panels are made of: reasons on buttons, sentences in labels, tables to sort, copy and save."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

OWN_TIP = "ThoraxSegToolTip"
"""Dynamic property that keeps the tooltip of the .ui file while a reason stands in its place."""


LONG_WORD = 24
"""Letters that stand together in any panel; longer words, as names of scans are, may be broken."""
TECHNICAL_COLUMNS = ("key",)
"""Columns for programs: kept in the table, its file and the clipboard, not shown."""


def enableUnless(reason: str, *widgets) -> None:
    """Enable widgets where there is no reason against it; else disable them, with the reason as their tooltip."""
    for widget in widgets:
        # An empty tooltip of its own is one too: else the reason would take its place for good.
        if widget.property(OWN_TIP) is None:
            widget.setProperty(OWN_TIP, widget.toolTip)
        widget.enabled = not reason
        widget.toolTip = _plain(reason or widget.property(OWN_TIP))


def _plain(text: str) -> str:
    """Return text for a tooltip so that Qt takes nothing in it for markup: names come from files and people."""
    return f"<qt>{html.escape(text)}</qt>" if "<" in text or "&" in text else text


def tell(label, sentences: str | Sequence[str]) -> None:
    """Show sentences in a label, each on a line of its own; without any the label takes no room."""
    lines = [sentences] if isinstance(sentences, str) else list(sentences)
    label.text = breakable("\n".join(line for line in lines if line))
    label.visible = bool(label.text)


def breakable(text: str) -> str:
    """Return text in which long words may go on in the next line: else a long name makes the whole module wide.

    Where a word has no place to break it, such as an underscore, it may break anywhere. The marks have no width.
    Paths and addresses stay as they are: Qt breaks them after slashes, and who copies one wants no marks in it.
    """

    def marked(found: re.Match) -> str:
        parts = re.findall(r"[^_.-]*[_.-]?", found[0])
        return "\u200b".join(
            part[n : n + LONG_WORD] for part in parts for n in range(0, len(part), LONG_WORD)
        )

    return re.sub(rf"(?<!\S)[^\s/\\]{{{LONG_WORD + 1},}}(?!\S)", marked, text)


def fillChecked(listWidget, entries: Sequence[tuple[str, str, bool]]) -> None:
    """Let a list show entries (text, key, whether it is checked); one that shows them already is left as it is.

    So what was scrolled to stays in sight when a box is checked. No signal is sent.
    """
    items = [listWidget.item(row) for row in range(listWidget.count)]
    shown = [(item.text(), item.data(qt.Qt.UserRole), item.checkState() == qt.Qt.Checked) for item in items]
    if shown == list(entries):
        return
    wasBlocked = listWidget.blockSignals(True)
    if [key for _text, key, _isChecked in shown] != [key for _text, key, _isChecked in entries]:
        listWidget.clear()
        for text, _key, _isChecked in entries:
            listWidget.addItem(text)
    for row, (text, key, isChecked) in enumerate(entries):
        item = listWidget.item(row)
        item.setText(text)
        item.setData(qt.Qt.UserRole, key)
        item.setCheckState(qt.Qt.Checked if isChecked else qt.Qt.Unchecked)
    listWidget.blockSignals(wasBlocked)


def showChart(chartNode) -> None:
    """Show a chart in a plot view, in a layout that has one."""
    slicer.modules.plots.logic().ShowChartInLayout(chartNode)


def askWhereToSave(widget, title: str, suggested: str, endings: Sequence[str]) -> Path | None:
    """Ask where to save a file; None when the user does not want to.

    `endings` such as ".csv": the first is added to a name without one. The dialog asks before a file is replaced;
    where the ending was added, that is another file, so it is asked here.
    """
    filters = ";;".join(f"{ending[1:].upper()} (*{ending})" for ending in endings)
    chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, suggested, filters)
    if not chosen:
        return None
    path = Path(chosen)
    if path.suffix.lower() in endings:
        return path
    path = path.with_name(path.name + endings[0])
    question = _("{path} exists. Replace it?").format(path=path)
    return None if path.exists() and not widget.confirm(question) else path


class TableSection:
    """A table node in a view: a click on a column title sorts, buttons copy the whole table and save it as CSV.

    Cells are sorted by the logic, as numbers: the view itself would sort them as text.
    """

    def __init__(self, widget, view, copyButton, saveButton) -> None:
        self.widget, self.view = widget, view
        self.copyButton, self.saveButton = copyButton, saveButton
        self._sorted = ("", True)
        view.horizontalHeader().connect("sectionClicked(int)", self.onSectionClicked)
        copyButton.connect("clicked(bool)", self.onCopy)
        saveButton.connect("clicked(bool)", self.onSave)

    @property
    def node(self):
        """The table node that is shown, or None."""
        return self.view.mrmlTableNode()

    def show(self, tableNode, reason: str = "") -> None:
        """Show a table node, or nothing for None; `reason` says why the buttons are off."""
        if tableNode is not self.node:
            self._sorted = ("", True)
            self.view.horizontalHeader().setSortIndicatorShown(False)
            self.view.setMRMLTableNode(tableNode)
        self._fitColumns()
        enableUnless(reason, self.copyButton, self.saveButton)

    def _fitColumns(self) -> None:
        """Hide what is for programs only, and make the other columns as wide as what is in them."""
        node = self.node
        if node is None:
            return
        for column in range(node.GetNumberOfColumns()):
            self.view.setColumnHidden(column, node.GetColumnName(column) in TECHNICAL_COLUMNS)
        self.view.resizeColumnsToContents()

    def onClickedRow(self, handle: Callable[[int], None]) -> None:
        """Call a function with the row of the node that was clicked."""
        self.view.connect("clicked(QModelIndex)", lambda index: handle(self._rowOf(index)))

    def onSectionClicked(self, section: int) -> None:
        """Sort by a column, the other way round when it is clicked again."""
        node = self.node
        if node is None:
            return
        column = node.GetColumnName(section)
        wasColumn, wasDescending = self._sorted
        descending = column == wasColumn and not wasDescending

        def sort() -> None:
            self.widget.logic.measurements.sort(node, column, descending)
            self._sorted = (column, descending)
            header = self.view.horizontalHeader()
            header.setSortIndicatorShown(True)
            header.setSortIndicator(section, qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder)

        self.widget.run(sort, _("The table could not be sorted."))

    def onCopy(self) -> None:
        """Copy the whole table, cells apart by tabs, as spreadsheets take them."""

        def copy() -> None:
            rows = csv.reader(io.StringIO(self.widget.logic.measurements.csvText(self.node)))
            slicer.app.clipboard().setText("\n".join("\t".join(map(_inOneCell, row)) for row in rows))
            self.widget.say(_("{name} is on the clipboard.").format(name=self.node.GetName()))

        self.widget.run(copy, _("The table could not be copied."))

    def onSave(self) -> None:
        """Ask for a file and save the whole table to it."""

        def save() -> None:
            path = askWhereToSave(self.widget, _("Save table"), f"{self.node.GetName()}.csv", [".csv"])
            if path is not None:
                saved = self.widget.logic.measurements.writeCsv(self.node, path)
                self.widget.say(_("Saved {path}.").format(path=saved))

        self.widget.run(save, _("The table was not saved."))

    def _rowOf(self, index) -> int:
        """Return the row of the node for an index of the view, whose first row may hold the column names."""
        return index.row() - (0 if self.node.GetUseColumnTitleAsColumnHeader() else 1)


def _inOneCell(text: str) -> str:
    return " ".join(text.split())
