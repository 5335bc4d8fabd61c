"""The report as one HTML page that needs nothing else: no script, no font, no outside request.

Its Content-Security-Policy forbids all of them, so a browser would refuse what slipped in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.report import style

_SWAPPED = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "grid",
    style.BAND: "band",
    style.PAPER: "paper",
    **{hue: f"hue-{i}" for i, hue in enumerate(style.HUES)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """How many leading columns hold words, aligned left; the rest are numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A figure on the page."""

    svg: Markup
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    name: str
    rule: str
    headline: Sequence[str]
    facts: Sequence[tuple[str, str]]
    """(number, what it counts), shown large under the title."""
    curves: Sequence[Shown]
    verdicts: Table
    tickets: Sequence[Shown]
    overlaps: Table
    costs: Table
    environment: Sequence[tuple[str, str]]
    cells: Table
    troubles: Sequence[tuple[str, str]] = field(default=())
    """(trial, what went wrong)."""
    command: str
    latest: str
    """When the latest record was made; empty if there is none."""


def render(page: Page) -> str:
    """The page as HTML text; everything but the figures is escaped."""
    folder = files("orchestrator.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bound"] = _bound
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = Markup((folder / "page.css").read_text("utf-8"))
    return template.render(page=page, css=css)


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


def words_first(header: Iterable[str], rows: Iterable[Sequence[str]], words: int) -> Table:
    return Table(header=tuple(header), rows=tuple(rows), words=words)
