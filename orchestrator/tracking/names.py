"""Names of a sweep's MLflow runs: the UI's lists show about 20 characters of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from orchestrator.plan.graph import DENSE, Curve
from orchestrator.sources.colors import HUES, INK, MUTED
from orchestrator.sources.names import PRIOR_LABEL, find_source

PRIOR = "prior"
"""`source` of the run that shows the score without the image."""
SHOWN = 20
"""Characters of a name that the UI shows."""
_SHORTEST = 3
"""Letters that are left of a shortened word."""


def curve_label(curve: Curve) -> str:
    """Return the name that a curve has in the report's figures, such as `IMP θ₁₀₀`."""
    if curve.source == PRIOR:
        return PRIOR_LABEL
    return find_source(curve.source).curve_label(curve.rewind)


_PARTS: Mapping[str, Callable[[Curve], str]] = {
    "task": lambda curve: curve.task,
    "curve": curve_label,
    "seed": lambda curve: "" if curve.source == PRIOR else f"s{curve.seed}",
    "model": lambda curve: curve.model,
    "recipe": lambda curve: curve.recipe,
    "schedule": lambda curve: curve.schedule,
    "study": lambda curve: curve.study,
}
"""The parts of a name in their order."""


class CurveNames:
    """Names the curves of a sweep by what differs between them.

    A part that is not needed to tell them apart is left out: with one task, no name has it. Words
    are shortened in names that would be longer than what is shown, and names that are then the same
    are numbered.
    """

    def __init__(self, curves: Iterable[Curve]) -> None:
        known = list(dict.fromkeys(curves))
        self._parts = _distinguishing({replace(curve, seed=0) for curve in known})
        labels = dict.fromkeys(curve_label(curve) for curve in known if _has_hue(curve))
        self._hues = {label: HUES[i % len(HUES)] for i, label in enumerate(labels)}
        self._numbers: dict[Curve, int] = {}
        self._numbers = _number_duplicates({curve: self.name(curve) for curve in known})

    @property
    def grouping(self) -> list[str]:
        """The params by which MLflow groups the seeds of a curve."""
        return [part for part in self._parts if part != "seed"]

    def color(self, curve: Curve) -> str:
        """Return the colour of a curve as `#rrggbb`: its seeds share one, and so do tasks."""
        if _has_hue(curve):
            return self._hues[curve_label(curve)]
        return MUTED if curve.source == PRIOR else INK

    def name(self, curve: Curve, prefix: str = "") -> str:
        """Return the name of a curve after `prefix`, of `SHOWN` characters if it can be made so
        short."""
        if curve in self._numbers:
            prefix = f"{prefix}{self._numbers[curve]}) "
        parts = [text for part in self._parts if (text := _PARTS[part](curve))]
        words = [word for part in parts for word in part.split()]
        letters = max(map(len, words))
        name = prefix + " ".join(words)
        while len(name) > SHOWN and letters > _SHORTEST:
            letters -= 1
            name = prefix + " ".join(_shortened(word, letters) for word in words)
        return name


def _distinguishing(curves: Collection[Curve]) -> list[str]:
    """Return the parts that tell curves apart whatever their seeds: the last ones are left out
    first. The label and the seed always belong to a name."""
    parts = list(_PARTS)
    for part in reversed(list(_PARTS)):
        kept = [name for name in parts if name not in (part, "seed")]
        texts = {tuple(_PARTS[name](curve) for name in kept) for curve in curves}
        if part not in ("curve", "seed") and len(texts) == len(curves):
            parts.remove(part)
    return parts


def _has_hue(curve: Curve) -> bool:
    return curve.source not in (DENSE, PRIOR)


def _shortened(word: str, letters: int) -> str:
    """Cut a word. Numbers, such as those of rewind points and seeds, stay whole."""
    return word if word[1:].isdigit() or not word[0].isalpha() else word[:letters]


def _number_duplicates(names: Mapping[Curve, str]) -> dict[Curve, int]:
    """Return a number for each curve whose shown name another curve has too."""
    total = Counter(name[:SHOWN] for name in names.values())
    seen: Counter[str] = Counter()
    numbers = {}
    for curve, name in names.items():
        if total[name[:SHOWN]] > 1:
            seen[name[:SHOWN]] += 1
            numbers[curve] = seen[name[:SHOWN]]
    return numbers
