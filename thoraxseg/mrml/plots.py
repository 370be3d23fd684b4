"""Plot nodes over table nodes: series that refer to columns, and the chart that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bars:
    """One bar a row, `y` high; below it what stands in the column `labels`."""

    y: str
    labels: str
    name: str
    color: tuple[float, float, float]


@dataclass(frozen=True)
class Line:
    """A line through (`x`, `y`) of all rows."""

    x: str
    y: str
    name: str
    color: tuple[float, float, float]


def fill_chart(
    chart, table_node, series: Sequence[Bars | Line], title: str, x_title: str, y_title: str
) -> list:
    """Show columns of a table in a vtkMRMLPlotChartNode, in place of what it showed; return the series nodes.

    Series nodes that the chart has already are used again, those left over are removed from the scene.
    """
    scene = chart.GetScene()
    had = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    had = [node for node in had if node is not None]
    was_modifying = chart.StartModify()
    chart.RemoveAllPlotSeriesNodeIDs()
    nodes = []
    for n, one in enumerate(series):
        node = had[n] if n < len(had) else scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
        _fill_series(node, table_node, one)
        chart.AddAndObservePlotSeriesNodeID(node.GetID())
        nodes.append(node)
    for node in had[len(series) :]:
        scene.RemoveNode(node)
    chart.SetTitle(title)
    chart.SetXAxisTitle(x_title)
    chart.SetYAxisTitle(y_title)
    chart.SetLegendVisibility(len(nodes) > 1)
    chart.EndModify(was_modifying)
    return nodes


def _fill_series(node, table_node, series: Bars | Line) -> None:
    was_modifying = node.StartModify()
    node.SetName(series.name)
    node.SetAndObserveTableNodeID(table_node.GetID())
    node.SetYColumnName(series.y)
    node.SetColor(*series.color)
    if isinstance(series, Bars):
        node.SetPlotType(node.PlotTypeBar)
        node.SetXColumnName("")
        node.SetLabelColumnName(series.labels)
    else:
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleNone)
        node.SetXColumnName(series.x)
        node.SetLabelColumnName("")
    node.EndModify(was_modifying)
