"""What is handed to people and programs: the record, the figures and the page."""

from thoraxseg.report.agreement import DataTable, Section, render_report
from thoraxseg.report.figures import draw
from thoraxseg.report.page import render_page
from thoraxseg.report.publication import Picture
from thoraxseg.report.record import case_record, provenance, uncertainty_fields, versions
from thoraxseg.report.words import format_volume, printable

__all__ = [
    "DataTable",
    "Picture",
    "Section",
    "case_record",
    "draw",
    "format_volume",
    "printable",
    "provenance",
    "render_page",
    "render_report",
    "uncertainty_fields",
    "versions",
]
