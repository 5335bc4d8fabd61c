"""NLVR2: sentences about two scenes, each true of some pairs and false of as many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import Balance, random_kind
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import Scene


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    holds: bool
    pair: int
    """It is about the scenes 2 * pair and 2 * pair + 1."""


def claims(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Claim]:
    """About `each` sentences per pair of scenes, in the pairs' order."""
    dice, balance, found = Dice(*seed, "nlvr2"), Balance(slack=1), []
    for pair, (left, right) in enumerate(zip(scenes[::2], scenes[1::2], strict=True)):
        texts: set[str] = set()
        for _ in range(8 * each):
            text, holds = _claim(left, right, dice)
            if text in texts or not text:
                continue
            if balance.admits(text, str(holds), ("True", "False")):
                texts.add(text)
                found.append(Claim(text, holds, pair))
            if len(texts) == each:
                break
    return found


def _claim(left: Scene, right: Scene, dice: Dice) -> tuple[str, bool]:
    """Nothing where it would be true, or false, for the wrong reason."""
    wanted = random_kind(dice)
    here, there = wanted.count(left), wanted.count(right)
    form = dice.below(4)
    if form == 0:
        return f"the left image shows {wanted.a()}.", here > 0
    if form == 1:
        return f"the right image shows {wanted.a()}.", there > 0
    if form == 2 and (here or there):
        return f"both images show {wanted.a()}.", here > 0 and there > 0
    if form == 3 and here != there:
        where = dice.pick(("left", "right"))
        more = (here > there) == (where == "left")
        return f"there are more {wanted.noun(many=True)} in the {where} image.", more
    return "", False
