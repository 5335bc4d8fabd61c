"""The report as one self-contained HTML page, without scripts, fonts or outside requests.

Its Content-Security-Policy forbids all of them, so a browser would block any that slipped in.
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

_CSS_VARIABLES = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID_COLOR: "grid",
    style.BAND: "band",
    style.BACKGROUND: "paper",
    **{hue: f"hue-{i}" for i, hue in enumerate(style.HUES)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RichText:
    """A table entry with emphasis or a second line."""

    text: str
    note: str = ""
    """Second line, in small type."""
    strong: bool = False


TableEntry: TypeAlias = str | RichText


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[TableEntry]]
    text_columns: int = 1
    """Number of leading columns of text, aligned left; the rest are numbers."""
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """A figure, the name of its files and its caption."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    title: str
    note: str = ""
    """Escaped unless it is Markup."""
    figures: Sequence[PageFigure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[tuple[str, Table]] = ()
    """(summary, table): tables that open on a click."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    name: str
    headline: Sequence[str]
    details: Sequence[str]
    """The headline in full, folded; empty if it is short."""
    facts: Sequence[tuple[str, str]]
    """(number, description), shown under the title, the number large."""
    sections: Sequence[Section]
    environment: Sequence[tuple[str, str]]
    failures: Sequence[tuple[str, str]]
    """(trial, error)."""
    command: str
    mlflow: str
    """Link to the curves in MLflow; empty without one."""
    latest_record: str
    """Creation time of the latest record; empty if there is none."""


def render_page(page: Page, svgs: Mapping[str, bytes]) -> str:
    """Return the page as HTML. `svgs` maps figure names to SVG; all other text is escaped."""
    folder = files("orchestrator.report.page")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"keep_together": _keep_together, "anchor": _anchor}
    environment.tests |= {"rich": lambda entry: isinstance(entry, RichText), "wide": _is_wide}
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = Markup((folder / "page.css").read_text("utf-8"))
    inlined = {name: inline_svg(svg, name) for name, svg in svgs.items()}
    return template.render(page=page, css=css, svgs=inlined)


_WIDE = 6.5
"""Inches; a wider figure gets the full width of the page."""


def _is_wide(figure: PageFigure) -> bool:
    return bool(figure.figure.get_figwidth() > _WIDE)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _keep_together(text: str) -> str:
    """Keep `90 %` and `93.6 ± 0.9` on one line."""
    return text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as SVG without date or tool: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(style.RC):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    return buffer.getvalue()


def inline_svg(svg: bytes, name: str) -> Markup:
    """Prepare a figure's SVG for use inside the page.

    Its colours become the page's variables, which follow light and dark mode. Its ids get the
    prefix `name`, so that two figures do not share clip paths.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?) height="[^"]*"', r'<svg \1 role="img"', text, count=1)
    for color, variable in _CSS_VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return Markup(text)  # matplotlib escapes the labels it writes


def make_table(
    header: Iterable[str], rows: Iterable[Sequence[TableEntry]], text_columns: int
) -> Table:
    return Table(header=tuple(header), rows=tuple(rows), text_columns=text_columns)


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown with their captions; second lines are in brackets."""
    parts = []
    for table in tables:
        rows = [[_plain(entry) for entry in row] for row in table.rows]
        align = ["left"] * table.text_columns + ["right"] * (len(table.header) - table.text_columns)
        text = tabulate(
            rows, list(table.header), tablefmt="pipe", disable_numparse=True, colalign=align
        )
        parts.append(f"**{table.caption}**\n\n{text}\n" if table.caption else f"{text}\n")
    return "\n".join(parts)


def _plain(entry: TableEntry) -> str:
    if isinstance(entry, str):
        return entry.replace("|", "\\|")
    text = f"**{entry.text}**" if entry.strong else entry.text
    return (f"{text} [{entry.note}]" if entry.note else text).replace("|", "\\|")
