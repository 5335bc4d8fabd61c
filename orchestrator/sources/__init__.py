"""Sources of tickets by name: what a study's `tickets` and `controls` may list.

A source says where the tickets of a curve come from. Its entry here is all that planning, the
report, the progress table and tracking know of it: none of them tests a name. To add a source,
write `orchestrator/expand/NAME.py` with

    generate(builder: PlanBuilder, point: GridPoint) -> Iterator[tuple[int, tuple[str, str]]]

which adds trials to the plan and yields (level, (key of the training run, key of the ticket)) for
the levels of `point.scored_levels()`, and add an entry to `SOURCES`. A source with a `parameter`
takes the related point as a third argument: `point` on the other task, or on the weights of the
other model. `orchestrator/expand/builder.py` has the parts that sources share, such as
`PlanBuilder.imp_ticket`.

A package adds sources as entry points of the group `sweepstakes.sources`; a single file that a
sweep names binds its entry to `SOURCE`, with `module=__name__`. The trials that a source plans say
all that their results depend on, so its own code is not part of their keys.

This module imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.pruning import Needs
from trainables.registry import Registry

Role: TypeAlias = Literal["dense", "ticket", "baseline", "control"]
Figure: TypeAlias = Literal["score", "weights", "transfer"]
Parameter: TypeAlias = Literal["", "task", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a curve is drawn."""

    dash: tuple[float, ...] = (5, 1.5, 1, 1.5)
    """Lengths of strokes and gaps in points, alternating; empty for a solid line."""
    marker: str = "D"
    """Marker as in matplotlib: `o`, `s`, `^` …"""
    color: str = ""
    """Color as `#rrggbb`; empty for the next one of the report's palette."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketSource:
    """What the orchestrator has to know of a source of tickets."""

    module: str
    """Module with the function that plans its trials; empty for a source that cannot be planned."""
    function: str = "generate"
    """Name of that function."""
    label: str
    """Its name in figures and tables. `{task}` or `{model}` stands for the parameter's value."""
    noun: str = ""
    """What sentences call its tickets; by default the label, followed by `tickets`."""
    parameter: Parameter = ""
    """What follows the name after a colon: the label of a task or of a model of the sweep."""
    optional: bool = False
    """Whether the parameter may be left out. The source then means every other task of the
    study."""
    role: Role = "ticket"
    """What its curves stand for. `ticket`: the tickets that the study is about; the headline says
    what they reach. `baseline`: a simpler way to find tickets; the headline speaks of it only if
    the sweep has no other. `control`: tickets that lack one property of those; tables show them
    beside a winning ticket. `dense`: the network without a ticket."""
    figure: Figure = "score"
    """Figure that its curves belong to. `score`: tickets on the task and weights that they are
    found on, and controls of the same size. `weights`: tickets on other weights. `transfer`:
    tickets of other tasks. The last two need `applies`."""
    applies: str = ""
    """Source whose tickets it applies to other weights or another task; figures show the two side
    by side. Empty if it has tickets of its own."""
    pruner_needs: tuple[Needs, ...] = ()
    """What the study's pruning method may need (`PruneMethod.needs`), if this source uses it; empty
    if it does not."""
    chained: bool = False
    """Whether its tickets form a chain, each found by training under the one before. Progress is
    shown level by level for chains, and as a count for other sources."""
    data_free: bool = False
    """Whether a ticket depends on nothing but the pool, the sparsity and a seed. Such a control has
    one row in a matrix of transfers, since it belongs to no task."""
    rank: int = 60
    """Position in tables; built-in sources have 0 to 59. The first `ticket` of a table is the one
    that the others are compared with."""
    warning: str = ""
    """What the headline says if this control reaches the line of a winning ticket too; by default
    that it does not distinguish winning tickets."""
    style: Style = Style()

    def __post_init__(self) -> None:
        if self.figure != "score" and not self.applies:
            raise ValueError(f"figure = {self.figure!r} needs `applies`: whose tickets they are")
        if self.figure == "transfer" and self.parameter != "task":
            raise ValueError("figure = 'transfer' needs parameter = 'task'")

    @property
    def is_main(self) -> bool:
        """Whether the tickets are found and scored on one task: a report is about these."""
        return self.role == "ticket" and self.figure == "score"

    @property
    def is_comparison(self) -> bool:
        """Whether tables and the headline show its score beside that of a winning ticket."""
        return self.role == "control" and self.figure == "score"


_RANDOM_WINS = (
    "Random tickets also reach the line, so it does not distinguish winning tickets here."
)

BUILTIN: dict[str, TicketSource] = {
    "imp": TicketSource(
        module="orchestrator.expand.magnitude",
        function="imp",
        label="IMP",
        pruner_needs=("nothing", "weights", "trained"),
        chained=True,
        rank=10,
        style=Style(dash=(), marker="o"),
    ),
    "search": TicketSource(
        module="orchestrator.expand.search",
        function="search",
        label="search",
        noun="searched tickets",
        pruner_needs=("search",),
        rank=11,
        style=Style(dash=(), marker="v"),
    ),
    "omp": TicketSource(
        module="orchestrator.expand.magnitude",
        function="omp",
        label="OMP",
        role="baseline",
        pruner_needs=("nothing", "weights"),
        rank=30,
    ),
    "random": TicketSource(
        module="orchestrator.expand.controls",
        function="random",
        label="random",
        role="control",
        data_free=True,
        rank=20,
        warning=_RANDOM_WINS,
        style=Style(dash=(4, 2), marker="s"),
    ),
    "random_layerwise": TicketSource(
        module="orchestrator.expand.controls",
        function="random_layerwise",
        label="layer-matched",
        noun="layer-matched random tickets",
        role="control",
        rank=21,
        warning=_RANDOM_WINS,
        style=Style(dash=(1, 1.6), marker="^"),
    ),
    "reinit": TicketSource(
        module="orchestrator.expand.controls",
        function="reinit",
        label="IMP, new init",
        role="control",
        figure="weights",
        applies="imp",
        rank=41,
    ),
    "shuffle_within": TicketSource(
        module="orchestrator.expand.controls",
        function="shuffle_within",
        label="IMP, shuffled within",
        role="control",
        figure="weights",
        applies="imp",
        rank=42,
    ),
    "shuffle_across": TicketSource(
        module="orchestrator.expand.controls",
        function="shuffle_across",
        label="IMP, shuffled across",
        role="control",
        figure="weights",
        applies="imp",
        rank=43,
    ),
    "init": TicketSource(
        module="orchestrator.expand.controls",
        function="other_init",
        label="IMP, {model} init",
        parameter="model",
        role="control",
        figure="weights",
        applies="imp",
        rank=40,
    ),
    "transfer": TicketSource(
        module="orchestrator.expand.transfer",
        function="transfer_tickets",
        label="from {task}",
        noun="tickets from {task}",
        parameter="task",
        optional=True,
        figure="transfer",
        applies="imp",
        rank=50,
    ),
}

SOURCES: Registry[TicketSource] = Registry(
    TicketSource, group="sweepstakes.sources", attribute="SOURCE", builtin=BUILTIN
)

DENSE_NETWORK = TicketSource(module="", label="dense", role="dense", rank=0)
"""The network without a ticket, where every curve starts. A study's key `dense` asks for it, so it
is no entry of `SOURCES`."""
