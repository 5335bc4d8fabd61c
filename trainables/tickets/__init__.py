"""Kinds of tickets by name: what a ticket keeps, and how a network trains under it.

A ticket is one boolean array or more over the units of its kind, True where a unit is kept. To add
a kind, write a module with the functions of `trainables.tickets.base.TicketModule` and add an entry
to `TICKET_KINDS`. This module imports nothing heavy, because planning reads it too. The package's
other modules may import `errors`, `models` and `distributed`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import PluginError
from trainables.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketKind:
    """What planning and messages have to know of a kind of ticket."""

    module: str
    units: str
    """What a ticket keeps or removes, in the plural, such as `weights`."""
    violation: str
    """What a run reports with the number of units that should be off and are not."""


TICKET_KINDS: Registry[TicketKind] = Registry(
    TicketKind,
    group="sweepstakes.ticket_kinds",
    attribute="TICKET_KIND",
    builtin={
        "weights": TicketKind(
            module="trainables.tickets.weights",
            units="weights",
            violation="pruned weights are not zero after training",
        ),
    },
)


def units(kind: str) -> str:
    """Return what a ticket of this kind keeps or removes, in the plural. The kind may be one that
    is not known here, or whose package is broken."""
    try:
        return TICKET_KINDS[kind].units
    except (KeyError, PluginError):
        return "units"
