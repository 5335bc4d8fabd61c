"""NLVR2: sentences about two scenes. Each is true for as many pairs as it is false for, or for one
pair more or fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import AnswerBalance, random_description
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import Scene


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    is_true: bool
    pair: int
    """The scenes are 2 * pair and 2 * pair + 1."""


def claims(scenes: Sequence[Scene], per_pair: int, *seed: str | int) -> list[Claim]:
    """Return about `per_pair` claims for each pair of scenes, in the order of the pairs."""
    rng, balance, drawn = SceneRng(*seed, "nlvr2"), AnswerBalance(slack=1), []
    for pair, (left, right) in enumerate(zip(scenes[::2], scenes[1::2], strict=True)):
        texts: set[str] = set()
        for _ in range(8 * per_pair):
            text, is_true = _claim(left, right, rng)
            if text in texts or not text:
                continue
            if balance.count_if_balanced(text, str(is_true), ("True", "False")):
                texts.add(text)
                drawn.append(Claim(text, is_true, pair))
            if len(texts) == per_pair:
                break
    return drawn


def _claim(left: Scene, right: Scene, rng: SceneRng) -> tuple[str, bool]:
    """Return a claim, or an empty text if it would be true or false for a trivial reason."""
    description = random_description(rng)
    left_count, right_count = description.count(left), description.count(right)
    template = rng.below(4)
    if template == 0:
        return f"the left image shows {description.with_article()}.", left_count > 0
    if template == 1:
        return f"the right image shows {description.with_article()}.", right_count > 0
    if template == 2 and (left_count or right_count):
        return f"both images show {description.with_article()}.", left_count > 0 and right_count > 0
    if template == 3 and left_count != right_count:
        side = rng.pick(("left", "right"))
        more = (left_count > right_count) == (side == "left")
        return f"there are more {description.noun(plural=True)} in the {side} image.", more
    return "", False
