"""What is handed to people and programs: the record, the figures and the page."""

from thoraxseg.report.figures import draw
from thoraxseg.report.page import render_page
from thoraxseg.report.record import case_record, provenance, uncertainty_fields, versions
from thoraxseg.report.words import format_volume, printable

__all__ = [
    "case_record",
    "draw",
    "format_volume",
    "printable",
    "provenance",
    "render_page",
    "uncertainty_fields",
    "versions",
]
