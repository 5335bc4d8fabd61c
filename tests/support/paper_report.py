"""The grid of "Playing Lottery Tickets with Vision and Language" (VLT) as a plan with records.

Scores of Tables 1 to 5 are the printed ones. The paper's figures have no printed values, so all
other scores are synthetic curves of a similar shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from orchestrator.plan.graph import DENSE
from tests.support.synthetic_sweep import SyntheticSweep, digest
from trainables.spec import ModelSpec, Recipe

UNITER = ("vqa", "gqa", "vcr", "nlvr2", "snli_ve", "refcoco", "retrieval")
COLUMNS = (*UNITER[:-1], "IR", "TR")
DENSE_SCORES = dict(
    zip(COLUMNS, (70.64, 59.64, 54.37, 76.75, 78.47, 74.73, 71.25, 84.63), strict=True)
)
DENSE_SD = dict(zip(COLUMNS, (0.06, 0.15, 0.31, 0.19, 0.10, 0.06, 0.11, 1.02), strict=True))
TICKET_LEVELS = dict(zip(COLUMNS, (7, 7, 5, 6, 6, 7, 6, 6), strict=True))
TICKET_SCORES = dict(
    zip(COLUMNS, (69.98, 59.26, 53.15, 76.32, 77.69, 74.06, 70.15, 83.77), strict=True)
)
TICKETS_SD = dict(zip(COLUMNS, (0.05, 0.09, 1.02, 0.41, 0.07, 0.27, 0.71, 0.76), strict=True))
RANDOM = dict(zip(COLUMNS, (60.45, 55.95, 25.35, 52.42, 71.30, 72.95, 61.44, 76.80), strict=True))
BERT = dict(zip(COLUMNS, (67.98, 58.45, 50.39, 54.15, 76.45, 71.09, 63.38, 79.30), strict=True))
SHUFFLED = dict(zip(COLUMNS, (60.46, 47.49, 6.25, 51.52, 69.32, 67.34, 38.94, 48.00), strict=True))
UNIVERSAL = {
    level: dict(zip(COLUMNS, scores, strict=True))
    for level, scores in {
        5: (70.52, 59.41, 52.01, 76.71, 78.08, 74.12, 70.62, 83.90),
        6: (70.41, 59.44, 50.37, 75.52, 77.79, 74.41, 70.18, 82.40),
        7: (69.45, 59.02, 47.52, 74.29, 77.34, 73.45, 68.36, 80.00),
        8: (68.38, 58.01, 42.99, 69.98, 76.32, 72.58, 65.82, 80.00),
    }.items()
}
ADVERSARIAL = {
    6: dict(zip(COLUMNS, (70.80, 59.85, 51.07, 76.70, 77.99, 74.74), strict=False)),
    7: dict(zip(COLUMNS, (69.79, 59.37, 48.50, 75.29, 77.51, 74.08), strict=False)),
}


def empty_grid() -> SyntheticSweep:
    """Return a sweep with the paper's models, tasks and recipes, without cells."""
    return SyntheticSweep(
        "vlt",
        models={
            "uniter": ModelSpec(architecture="uniter"),
            "lxmert": ModelSpec(architecture="lxmert"),
            "vilt": ModelSpec(architecture="vilt"),
        },
        tasks={name: name for name in (*UNITER, "pretraining")},
        recipes={"adversarial": Recipe(adversary="text")},
    )


def add_scores(
    grid: SyntheticSweep,
    task: str,
    source: str,
    level: int,
    seed: int,
    scores: dict[str, float] | None,
    *,
    model: str = "uniter",
    study: str = "uniter",
    recipe: str = "default",
    origin: str = "",
    rewind: int = 0,
) -> None:
    """Add a cell with `scores` by column (retrieval has two); None for a cell without a record."""
    retrieval_scores = (
        {} if scores is None or task != "retrieval" else {"ir1": scores["IR"], "tr1": scores["TR"]}
    )
    score = None if scores is None else sum(scores.values()) / len(scores)
    grid.add_cell(
        source, level, level / 10, seed, score, model=model, task=task, study=study, recipe=recipe,
        origin=origin, rewind=rewind, prior=30.0, history=1, scores=retrieval_scores,
    )  # fmt: skip


def columns_of(task: str) -> tuple[str, ...]:
    return ("IR", "TR") if task == "retrieval" else (task,)


def three_seeds(
    means: dict[str, float], sds: dict[str, float], task: str, seed: int
) -> dict[str, float]:
    """Return one of three seeds' scores that have exactly this mean and standard deviation."""
    return {name: means[name] + (0, -1, 1)[seed] * sds[name] for name in columns_of(task)}


def select(means: dict[str, float], task: str) -> dict[str, float]:
    return {name: means[name] for name in columns_of(task)}


def synthetic_scores(task: str, share: float, *labels: object) -> dict[str, float]:
    """Return scores around `share` of the dense ones."""
    noise = int(digest(task, *labels)[:6], 16) / 0xFFFFFF - 0.5
    return {name: DENSE_SCORES[name] * (share + 0.006 * noise) for name in columns_of(task)}


def table_1(grid: SyntheticSweep, *, study: str = "uniter") -> SyntheticSweep:
    """Add Table 1: three seeds of dense networks and of tickets at the printed sparsities."""
    for task, seed in itertools.product(UNITER, range(3)):
        add_scores(
            grid, task, DENSE, 0, seed, three_seeds(DENSE_SCORES, DENSE_SD, task, seed), study=study
        )
    for task in UNITER:
        level = TICKET_LEVELS[columns_of(task)[0]]
        imp = f"{task}/default/imp"
        for seed in range(3):
            scores = three_seeds(TICKET_SCORES, TICKETS_SD, task, seed)
            add_scores(grid, task, "imp", level, seed, scores, study=study)
        for source, means in (
            ("random", RANDOM),
            ("init:bert-base", BERT),
            ("shuffle_within", SHUFFLED),
        ):
            origin = "" if source == "random" else imp
            add_scores(
                grid, task, source, level, 0, select(means, task), study=study, origin=origin
            )
    return grid


def table_2(grid: SyntheticSweep) -> SyntheticSweep:
    """Add Table 2: the ticket of pre-training on every task, at the four printed sparsities."""
    grid.add_pretraining_run("uniter", "pretraining")
    for (level, scores), task in itertools.product(UNIVERSAL.items(), UNITER):
        add_scores(
            grid, task, "transfer:pretraining", level, 0, select(scores, task),
            study="universal", origin="pretraining/default/imp",
        )  # fmt: skip
    return grid


def table_5(grid: SyntheticSweep) -> SyntheticSweep:
    """Add Table 5: adversarial training of the same tickets, without dense networks of its own."""
    for level, scores in ADVERSARIAL.items():
        for task in UNITER[:-1]:
            add_scores(
                grid, task, "transfer:pretraining", level, 0, select(scores, task),
                study="adversarial", recipe="adversarial", origin="pretraining/default/imp",
            )  # fmt: skip
    return grid


def full_grid(*, missing: int = 0) -> SyntheticSweep:
    """Return about 950 cells: every curve of the paper, for three models."""
    grid = table_5(table_2(table_1(empty_grid())))
    cells = list(_rest())
    for i, cell in enumerate(cells):
        if i >= len(cells) - missing:
            cell["scores"] = None
        add_scores(grid, **cell)  # type: ignore[arg-type]
    return grid


def _rest() -> Iterator[dict[str, object]]:
    for task, level in itertools.product(UNITER, range(1, 10)):
        fall = {"imp": 0.035, "random": 0.35, "random_layerwise": 0.25}
        for source, seed in itertools.product(fall, range(2)):
            if source != "random_layerwise" and level == TICKET_LEVELS[columns_of(task)[0]]:
                continue
            share = 1 - fall[source] * (level / 9) ** 2
            yield {
                "task": task, "source": source, "level": level, "seed": seed,
                "scores": synthetic_scores(task, share, source, level, seed),
            }  # fmt: skip
        for other in (*UNITER, "pretraining"):
            printed = other == "pretraining" and level in UNIVERSAL
            if other == task or printed:
                continue
            share = 1 - (0.05 if other == "pretraining" else 0.09) * (level / 9) ** 2
            yield {
                "task": task, "source": f"transfer:{other}", "level": level, "seed": 0,
                "study": "transfer", "origin": f"{other}/default/imp",
                "scores": synthetic_scores(task, share, other, level),
            }  # fmt: skip
    for rewind, level in itertools.product((600, 1200, 3000), range(1, 10)):
        yield {
            "task": "vqa", "source": "imp", "level": level, "seed": 0, "study": "rewinding",
            "scores": synthetic_scores("vqa", 1 - 0.03 * (level / 9) ** 2, rewind, level),
            "rewind": rewind,
        }  # fmt: skip
    for task, level in itertools.product(("vqa", "vcr", "refcoco"), range(10)):
        yield {
            "task": task, "source": "imp" if level else DENSE, "level": level, "seed": 0,
            "study": "adversarial", "recipe": "adversarial",
            "scores": synthetic_scores(task, 1.01 - 0.03 * (level / 9) ** 2, "adversarial", level),
        }  # fmt: skip
    for model, tasks in {"lxmert": ("vqa", "gqa", "nlvr2"), "vilt": ("vqa", "nlvr2")}.items():
        fall = {"imp": 0.04 if model == "lxmert" else 0.2, "random": 0.4}
        for task, seed in itertools.product(tasks, range(3)):
            cell = {"model": model, "study": model, "task": task, "seed": seed}
            yield {
                **cell,
                "source": DENSE,
                "level": 0,
                "scores": synthetic_scores(task, 1, model, seed),
            }
            for source, level in itertools.product(fall, range(1, 10)):
                scores = synthetic_scores(
                    task, 1 - fall[source] * (level / 9) ** 2, model, source, level, seed
                )
                yield {**cell, "source": source, "level": level, "scores": scores}
