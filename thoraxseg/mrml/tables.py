"""Rows with named, typed columns <-> table nodes, which can be sorted, plotted and saved with the scene.

Slicer saves tables as text with six digits and is lost in quotation marks. So the exact rows are also kept in an
attribute of the node, and count as long as the cells say the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoraxseg.errors import InputError, OptionError
from thoraxseg.mrml.grids import class_name, node_name
from thoraxseg.tables import csv_text

ROWS_ATTRIBUTE = "ThoraxSeg.Rows"
"""The exact rows as a JSON list of lists, cells in the order of the columns."""
SAVED_DIGITS = 1e-5
"""Relative difference that saving leaves in a number."""


@dataclass(frozen=True)
class Column:
    """One column: its key is the name in programs and CSV, with the unit in it; its title is for people."""

    key: str
    kind: type = float
    """`str`, `int` or `float`."""
    title: str = ""
    unit: str = ""
    description: str = ""


def fill_table(node, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows into a vtkMRMLTableNode in place of all that it held; plots that refer to it follow.

    A missing cell or None is an undefined number (NaN), or an empty text. Whole numbers are never missing.
    """
    was_modifying = node.StartModify()
    try:
        node.RemoveAllColumns()
        for column in columns:
            node.AddColumn(_array(column, [row.get(column.key) for row in rows]))
            node.SetColumnTitle(column.key, column.title)
            node.SetColumnUnitLabel(column.key, column.unit)
            node.SetColumnDescription(column.key, column.description)
        node.SetUseColumnTitleAsColumnHeader(any(column.title for column in columns))
        exact = [[_exact(row.get(column.key)) for column in columns] for row in rows]
        node.SetAttribute(ROWS_ATTRIBUTE, json.dumps(exact))
    finally:
        node.EndModify(was_modifying)


def table_columns(node) -> list[Column]:
    """Return the columns of a table node, whoever made it. Raises InputError when it is no table."""
    if not (hasattr(node, "IsA") and node.IsA("vtkMRMLTableNode")):
        raise InputError(
            f"{node_name(node)}: expected a table, got {'nothing' if node is None else class_name(node)}. "
            "Choose a table."
        )
    names = [node.GetColumnName(n) or "" for n in range(node.GetNumberOfColumns())]
    return [
        Column(
            name,
            _kind(node.GetTable().GetColumn(n)),
            node.GetColumnTitle(name) or "",
            node.GetColumnUnitLabel(name) or "",
            node.GetColumnDescription(name) or "",
        )
        for n, name in enumerate(names)
    ]


def table_rows(node) -> list[dict[str, Any]]:
    """Return the rows of a table node by column name: text, numbers, None where a number is not defined.

    Numbers are exact, also after saving and loading, unless somebody changed the cells since they were filled in.
    Raises InputError when it is no table.
    """
    columns = table_columns(node)
    table = node.GetTable()
    arrays = [table.GetColumn(n) for n in range(len(columns))]
    cells = [
        [_exact(array.GetValue(row)) if row < array.GetNumberOfValues() else None for array in arrays]
        for row in range(table.GetNumberOfRows())
    ]
    exact = _noted(node)
    if len(exact) == len(cells) and all(map(_says_the_same, exact, cells)):
        cells = exact
    keys = [column.key for column in columns]
    return [dict(zip(keys, row, strict=True)) for row in cells]


def sort_table(node, key: str, descending: bool = False) -> None:
    """Sort the rows of a table node in place by the column of that name; undefined numbers come last.

    Rows that are equal there keep their order. Raises OptionError for a column that the table does not have.
    """
    columns, rows = table_columns(node), table_rows(node)
    if key not in [column.key for column in columns]:
        names = ", ".join(column.key for column in columns) or "none"
        raise OptionError(f"{node_name(node)}: no column {key!r}; it has {names}.")
    known = [row for row in rows if row[key] is not None]
    known.sort(
        key=lambda row: row[key].casefold() if isinstance(row[key], str) else row[key], reverse=descending
    )
    fill_table(node, columns, known + [row for row in rows if row[key] is None])


def table_csv(node) -> str:
    """Return a table node as CSV with column names in the first line, numbers with all digits, formulas guarded."""
    columns = [column.key for column in table_columns(node)]
    return csv_text(columns, table_rows(node))


def _array(column: Column, values: Sequence[Any]):
    import vtk

    array = {str: vtk.vtkStringArray, int: vtk.vtkIntArray, float: vtk.vtkDoubleArray}[column.kind]()
    array.SetName(column.key)
    for value in values:
        array.InsertNextValue(_as_saved(value) if column.kind is str else _number(value, column.kind))
    return array


def _number(value: Any, kind: type) -> Any:
    return math.nan if value is None and kind is float else kind(value)


def _as_saved(value: Any) -> str:
    """Return text that comes back from the file of a table: one line, without the characters that end cells."""
    return " ".join(str(value if value is not None else "").replace('"', "'").split())


def _kind(array) -> type:
    if array.IsA("vtkStringArray"):
        return str
    return float if array.GetDataType() in (10, 11) else int  # VTK_FLOAT, VTK_DOUBLE


def _exact(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _noted(node) -> list[list[Any]]:
    try:
        rows = json.loads(node.GetAttribute(ROWS_ATTRIBUTE) or "[]")
    except ValueError:  # edited by hand
        return []
    return rows if isinstance(rows, list) and all(isinstance(row, list) for row in rows) else []


def _says_the_same(exact: list[Any], cells: list[Any]) -> bool:
    return len(exact) == len(cells) and all(map(_is_the_same, exact, cells))


def _is_the_same(exact: Any, cell: Any) -> bool:
    if isinstance(exact, str) or isinstance(cell, str):
        return _as_saved(exact) == _as_saved(cell)
    if exact is None or cell is None:
        return exact is cell
    return math.isclose(exact, cell, rel_tol=SAVED_DIGITS)
