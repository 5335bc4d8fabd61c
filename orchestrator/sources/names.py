"""The names of sources as a sweep file and a plan write them, such as `imp` or `transfer:vqa`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import ConfigError, suggest
from orchestrator.plan.graph import DENSE
from orchestrator.sources import BUILTIN, DENSE_NETWORK, SOURCES, TicketSource
from trainables.errors import PluginError

PRIOR_LABEL = "without image"
"""Name in figures of the score that needs no image (`Task.prior`)."""
_LAST = 1000
"""Rank of a source that is not installed."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def theta(rewind: int) -> str:
    """Return `θ₀`, `θ₁₂₀`: the weights that every level restarts from."""
    return f"θ{str(rewind).translate(_SUBSCRIPTS)}"


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A source, with the value of its parameter."""

    name: str
    entry: TicketSource
    argument: str = ""
    """Label of a task or a model; empty without a parameter."""
    where: str = field(default="", compare=False)
    """Key of the sweep file that names it, for messages: `studies.a.controls`."""

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name

    @property
    def reference(self) -> tuple[Literal["task", "model"], str] | None:
        """What the sweep must contain for this source: the kind and the label of an entry."""
        if not self.argument or not self.entry.parameter:
            return None
        return self.entry.parameter, self.argument

    @property
    def label(self) -> str:
        """Its name in figures and tables, such as `IMP` or `from vqa`."""
        return self._filled(self.entry.label)

    @property
    def noun(self) -> str:
        """What sentences call its tickets, such as `IMP tickets`."""
        return self._filled(self.entry.noun) or f"{self.label} tickets"

    def curve_label(self, rewind: int) -> str:
        """Return the name of its curve, such as `IMP θ₀`. Tickets on other weights, and the dense
        network, have no rewind point."""
        rewound = self.entry.figure != "weights" and self.entry.role != "dense"
        return f"{self.label} {theta(rewind)}" if rewound else self.label

    def _filled(self, text: str) -> str:
        parameter = self.entry.parameter
        return text.replace(f"{{{parameter}}}", self.argument) if parameter else text


def parse_sources(tickets: Iterable[str], controls: Iterable[str], study: str) -> list[NamedSource]:
    """Return the sources that a study names, each once.

    `tickets` and `controls` are the study's lists, `study` its key, such as `studies.a`.

    Raises:
        ConfigError: a name is unknown, or its parameter is missing.
    """
    keys = dict.fromkeys(controls, f"{study}.controls")
    keys |= dict.fromkeys(tickets, f"{study}.tickets")
    return [parse_source(name, keys[name]) for name in dict.fromkeys([*tickets, *controls])]


def parse_source(text: str, where: str) -> NamedSource:
    """Return the source that a sweep file names. `where` is the key that it stands under.

    Raises:
        ConfigError: the name is unknown, or the parameter is missing.
    """
    name, _, argument = text.partition(":")
    if name in SOURCES:
        try:
            entry = SOURCES[name]
        except PluginError as error:
            raise ConfigError(f"{where} = {text!r}: {error}") from None
        fits = bool(argument or entry.optional) if entry.parameter else text == name
        if fits:
            return NamedSource(name, entry, argument, where)
        raise ConfigError(f"{where} = {text!r}: use {' or '.join(_spellings(name))}")
    allowed = [spelling for known in SOURCES for spelling in _spellings(known)]
    raise ConfigError(f"{where} = {text!r} is not known; {suggest(text, allowed)}")


def find_source(text: str) -> NamedSource:
    """Return the source of a curve, for display.

    A source that is not installed any more, or whose package is broken, is shown by its name, as a
    baseline.
    """
    if text == DENSE:
        return NamedSource(DENSE, DENSE_NETWORK)
    name, _, argument = text.partition(":")
    try:
        if name in SOURCES:
            entry = SOURCES[name]
            if entry.parameter or text == name:
                return NamedSource(name, entry, argument)
    except PluginError:
        pass
    return NamedSource(text, TicketSource(module="", label=text, role="baseline", rank=_LAST))


def main_sources(names: Iterable[str]) -> list[str]:
    """Return which of the sources a report is about, by rank: those that find tickets. Without
    any, the baselines."""
    sources = {name: find_source(name).entry for name in dict.fromkeys(names)}
    main = [name for name, entry in sources.items() if entry.is_main]
    baselines = [name for name, entry in sources.items() if entry.role == "baseline"]
    return sorted(main or baselines, key=lambda name: (sources[name].rank, name))


def comparison_sources(names: Iterable[str]) -> list[str]:
    """Return the controls whose scores stand beside that of a winning ticket, by rank.

    These are the built-in ones, and those among `names` that come from outside the package.
    """
    sources = {name: find_source(name).entry for name in dict.fromkeys([*BUILTIN, *names])}
    controls = [name for name, entry in sources.items() if entry.is_comparison]
    return sorted(controls, key=lambda name: (sources[name].rank, name))


def _spellings(name: str) -> Iterator[str]:
    """Yield how a sweep file may write a source, such as `transfer` and `transfer:TASK`."""
    entry = find_source(name).entry
    if not entry.parameter or entry.optional:
        yield name
    if entry.parameter:
        yield f"{name}:{entry.parameter.upper()}"
