"""The report as one HTML page that needs nothing else: no script, no font, no outside request.

Its Content-Security-Policy forbids all of them, so a browser would refuse what slipped in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from tabulate import tabulate

from orchestrator.report.page import style

_SWAPPED = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "grid",
    style.BAND: "band",
    style.PAPER: "paper",
    **{hue: f"hue-{i}" for i, hue in enumerate(style.HUES)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A cell of a table that says more than one thing."""

    text: str
    note: str = ""
    """A second line, small."""
    strong: bool = False


Entry: TypeAlias = str | Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    words: int = 1
    """How many leading columns hold words, aligned left; the rest are numbers."""
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A figure and the name of its files."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    title: str
    note: str = ""
    """Escaped unless it is Markup."""
    figures: Sequence[Drawn] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[tuple[str, Table]] = ()
    """(summary, table): tables that are opened by a click."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    name: str
    headline: Sequence[str]
    details: Sequence[str]
    """The headline at length, folded; empty where it is short."""
    facts: Sequence[tuple[str, str]]
    """(number, what it counts), shown large under the title."""
    sections: Sequence[Section]
    environment: Sequence[tuple[str, str]]
    troubles: Sequence[tuple[str, str]]
    """(trial, what went wrong)."""
    command: str
    latest: str
    """When the latest record was made; empty if there is none."""


def render(page: Page, svgs: Mapping[str, bytes]) -> str:
    """The page as HTML text; everything but the figures is escaped. `svgs` are the figures by
    name."""
    folder = files("orchestrator.report.page")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bound": _bound, "anchor": _anchor}
    environment.tests |= {"value": lambda entry: isinstance(entry, Value), "wide": _is_wide}
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = Markup((folder / "page.css").read_text("utf-8"))
    shown = {name: inline(svg, name) for name, svg in svgs.items()}
    return template.render(page=page, css=css, svgs=shown)


_WIDE = 6.5
"""Inches; a wider figure gets the page's whole width."""


def _is_wide(drawn: Drawn) -> bool:
    return bool(drawn.figure.get_figwidth() > _WIDE)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _bound(text: str) -> str:
    """Keeps `90 %` and `93.6 ± 0.9` on one line."""
    return text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def svg_bytes(figure: Figure) -> bytes:
    """A figure as SVG: the same bytes for the same figure, without date and tool."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(style.RC):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()


def inline(svg: bytes, name: str) -> Markup:
    """A figure's SVG for use inside the page: its inks follow the page's light or dark, and its
    ids are its own (`name`), so that two figures do not share clip paths."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?) height="[^"]*"', r'<svg \1 role="img"', text, count=1)
    for color, variable in _SWAPPED.items():
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return Markup(text)  # matplotlib escapes the labels that it writes


def words_first(header: Iterable[str], rows: Iterable[Sequence[Entry]], words: int) -> Table:
    return Table(header=tuple(header), rows=tuple(rows), words=words)


def markdown(tables: Sequence[Table]) -> str:
    """The tables in Markdown, under their captions; a cell's second line stands in brackets."""
    parts = []
    for table in tables:
        rows = [[_plain(entry) for entry in row] for row in table.rows]
        align = ["left"] * table.words + ["right"] * (len(table.header) - table.words)
        text = tabulate(
            rows, list(table.header), tablefmt="pipe", disable_numparse=True, colalign=align
        )
        parts.append(f"**{table.caption}**\n\n{text}\n" if table.caption else f"{text}\n")
    return "\n".join(parts)


def _plain(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry.replace("|", "\\|")
    text = f"**{entry.text}**" if entry.strong else entry.text
    return (f"{text} [{entry.note}]" if entry.note else text).replace("|", "\\|")
