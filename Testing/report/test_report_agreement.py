"""The page of a comparison: well-formed, self-contained, readable on paper, and deaf to what names say."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from thoraxseg.report.agreement import DataTable, Section, render_report
from thoraxseg.report.plots import Picture, box_plots

VOID = {"meta", "br", "img", "hr", "link", "input"}
EVIL = "<script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7*7 }}{% raw %}\x1b\x00\udcff"
SHOWN = "<script>alert('1')</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7*7 }}{% raw %}\\x1b\\x00\\udcff"


class Page(HTMLParser):
    """Tags, attributes and words of a page; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.cells: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append((tag, dict(attrs).get("class", ""), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data
        if self.open and self.open[-1] in ("td", "th"):
            tag, kind, text = self.cells[-1]
            self.cells[-1] = (tag, kind, text + data)


@pytest.fixture(scope="module")
def picture():
    return box_plots({"Heart": {"2d": [0.9, 0.91, 0.92, 0.93, 0.94]}}, "DSC", "")


def table(columns, *rows, footnotes=()):
    return DataTable("Table", columns, rows, footnotes)


def page_of(**changes) -> str:
    given = {
        "title": "Two models on five scans",
        "subtitle": "thoraxseg evaluate",
        "facts": [("0.950", "median DSC"), ("5", "scans")],
        "sections": [],
        "warnings": [],
        "notes": [],
        "definitions": {"dsc": "Dice similarity."},
        "provenance": {"Manifest": "manifest.csv"},
    }
    return render_report(**{**given, **changes})


def test_the_page_is_well_formed_needs_no_other_file_and_runs_nothing(picture):
    rows = [["Heart", "0.95 ± 0.01", "0.950*"], ["Heart", "0.94 ± 0.02", "–"]]
    section = Section("Results", ["Words."], [table(["Organ", "DSC", "median"], *rows)], [picture])
    page = page_of(sections=[section, section], warnings=["One scan failed."], notes=["A note."])
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert ("meta", {"charset": "utf-8"}) in parsed.tags
    assert [tag for tag, _ in parsed.tags].count("h1") == 1
    allowed = {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    assert not {tag for tag, _ in parsed.tags} & allowed
    for tag, attrs in parsed.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "srcset", "action", "data", "poster"}:
                assert value.startswith("data:image/png;base64,"), (tag, name)
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|file:|@import|url\(|//[a-z]", without_pictures, re.IGNORECASE)
    (policy,) = [attrs["content"] for _, attrs in parsed.tags if "http-equiv" in attrs]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "Research use only. Not for diagnosis" in parsed.words


def test_the_figures_are_whole_have_words_for_the_blind_and_stand_on_white(picture):
    page = page_of(sections=[Section("Boxes", pictures=[picture])])
    (image,) = [attrs for tag, attrs in Page(page).tags if tag == "img"]
    assert base64.b64decode(image["src"].split(",")[1], validate=True) == picture.png
    assert image["alt"] == picture.title == "DSC per structure"
    assert image["style"] == f"width: {picture.width_px}px"
    assert picture.caption in Page(page).words
    assert re.search(r"\.plates img \{[^}]*background: #fff", page)


@pytest.mark.parametrize(
    "place",
    [
        "title",
        "subtitle",
        "facts",
        "warnings",
        "notes",
        "definitions",
        "provenance",
        "sections",
        "tables",
        "pictures",
    ],
)
def test_text_from_outside_is_only_text(place):
    evil = Picture("x", EVIL, b"", b"", EVIL)
    section = {
        "sections": Section(EVIL, [EVIL]),
        "tables": Section("s", (), [DataTable(EVIL, [EVIL], [[EVIL]], [EVIL])]),
        "pictures": Section("s", (), (), [evil]),
    }
    values = {
        "title": EVIL,
        "subtitle": EVIL,
        "facts": [(EVIL, EVIL)],
        "warnings": [EVIL],
        "notes": [EVIL],
        "definitions": {EVIL: EVIL},
        "provenance": {EVIL: EVIL},
    }
    change = {"sections": [section[place]]} if place in section else {place: values[place]}
    page = page_of(**change)
    parsed = Page(page)
    assert "<script" not in page
    assert not [tag for tag, attrs in parsed.tags if tag == "script" or "onerror" in attrs]
    assert parsed.words.count(SHOWN) >= (1 if place in ("subtitle", "warnings", "notes") else 2)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    page.encode("utf-8")


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("0.950", "number"),
        ("0.950*", "number"),
        ("−0.03", "number"),
        ("0.95 ± 0.01", "number"),
        ("0.60±0.84 (0.04±0.01)", "number"),
        ("0.0041 (0.001 to 0.011)", "number"),
        ("0.95±0.01 / 0.950*", "number"),
        ("< 0.001", "number"),
        ("98 %", "number"),
        ("1.2e-05", "number"),
        ("12,345", "number"),
        (".5", "number"),
        ("", "word"),
        ("–", "word"),
        ("2d", "word"),
        ("3d_fullres", "word"),
        ("mouse 1", "word"),
        ("5 of 7", "word"),
        ("no prediction was found for this scan", "text"),
    ],
)
def test_only_numbers_are_set_to_the_right(cell, kind):
    assert table(["x"], [cell]).kinds == (kind,)


def test_one_word_makes_a_column_of_words_and_a_dash_does_not():
    mixed = table(["a", "b"], ["0.9", "0.9"], ["–", "2d"], ["", "0.8"])
    assert mixed.kinds == ("number", "word")
    parsed = Page(page_of(sections=[Section("s", (), [mixed])]))
    assert ("td", "number", "–") in parsed.cells and ("td", "word", "2d") in parsed.cells
    assert ("th", "number", "a") in parsed.cells


def test_groups_of_rows_are_told_apart_only_where_there_are_groups():
    assert table(["x"], ["a"], ["a"], ["b"], ["b"]).starts_group == (False, False, True, False)
    assert table(["x"], ["a"], ["b"], ["c"]).starts_group == (False, False, False)
    assert table(["x"]).starts_group == () and table(["x"]).kinds == ("word",)


def test_footnotes_follow_their_table_and_warnings_come_before_all():
    section = Section("Results", (), [table(["x"], ["0.9*"], footnotes=["* p < 0.05."])])
    page = page_of(sections=[section], warnings=["Right is a guess."], notes=["Rounded."])
    order = [
        "Please check",
        "Right is a guess.",
        "Results",
        "0.9*",
        "* p &lt; 0.05.",
        "Rounded.",
        "Definitions",
    ]
    places = [page.index(one) for one in [*order, "Provenance"]]
    assert places == sorted(places)


def test_what_is_empty_leaves_no_heading():
    page = page_of(definitions={}, provenance={}, facts=[], subtitle="")
    words = Page(page).words
    for heading in ("Please check", "Notes", "Definitions", "Provenance"):
        assert heading not in words
    assert "<ul>" not in page and "<table" not in page and 'class="facts"' not in page


def test_definitions_and_provenance_are_lists_of_terms():
    parsed = Page(page_of())
    assert [tag for tag, _ in parsed.tags if tag in ("dl", "dt", "dd")] == ["dl", "dt", "dd"] * 2
    assert "Dice similarity." in parsed.words and "manifest.csv" in parsed.words


def test_a_printed_page_is_white_and_cuts_no_table():
    wide = table([f"c{n}" for n in range(20)], ["0.9"] * 20)
    page = page_of(sections=[Section("s", (), [wide, table(["x"], ["1"])])])
    printed = page[page.index("@media print") : page.index("</style>")]
    assert "--page: #fff" in printed and "overflow: visible" in printed
    assert "table-header-group" in printed and "break-inside: avoid" in printed
    classes = [attrs.get("class") for tag, attrs in Page(page).tags if tag == "div"]
    assert classes.count("sideways") == 1 and classes.count("table") == 1
    assert page.index("prefers-color-scheme: dark") < page.index("@media print")  # print wins


def test_the_same_input_gives_the_same_page(picture):
    section = Section("Boxes", pictures=[picture])
    assert page_of(sections=[section]) == page_of(sections=[section])
