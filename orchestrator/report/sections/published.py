"""The numbers that the paper printed, and which of a sweep's own they stand beside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import Labels
from orchestrator.report.page.page import Entry, Table, Value

TITLE = "Gan et al., “Playing Lottery Tickets with Vision and Language”, AAAI 2022"

_KEY = ["architecture", "size", "trainable", "metric", "kind", "sparsity", "adversarial"]
_BERT = re.compile(r"(?:^|[^a-z])bert(?:[^a-z]|$)")


@lru_cache(maxsize=1)
def numbers() -> pd.DataFrame:
    """One row per printed score: table, architecture, size, `trainable` (a name in `TASKS`),
    metric, `kind` (source of the tickets), sparsity in percent, adversarial training or not."""
    return pd.DataFrame([row for table in _tables() for row in _numbers(table)])


@lru_cache(maxsize=1)
def drops() -> pd.DataFrame:
    """Table 2's averages: sparsity, `drop` and `drop_without_vcr`, all in percent."""
    rows = [
        {
            **{name: table[name] for name in ("architecture", "size")},
            "kind": row["source"],
            "sparsity": float(row["sparsity"]),
            "published_drop": row["drop"][0],
            "published_drop_without_vcr": row["drop"][1],
        }
        for table in _tables()
        for row in table["rows"]
        if "drop" in row
    ]
    return pd.DataFrame(rows)


@lru_cache(maxsize=1)
def _tables() -> list[dict[str, Any]]:
    text = (files("orchestrator.report.sections") / "published_vlt.yaml").read_text("utf-8")
    tables: list[dict[str, Any]] = yaml.safe_load(text)
    return tables


def _numbers(table: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    for row in table["rows"]:
        for i, column in enumerate(table["columns"]):
            name, _, metric = column.partition(" ")
            sparsity = row["sparsity"]
            yield {
                **{key: table[key] for key in ("table", "architecture", "size")},
                "trainable": name,
                "metric": metric,
                "kind": row["source"],
                "sparsity": float(sparsity[i] if isinstance(sparsity, list) else sparsity),
                "adversarial": row.get("adversarial", False),
                "published_mean": row["mean"][i],
                "published_sd": row["sd"][i] if "sd" in row else None,
            }


def kind(source: str, labels: Labels) -> str:
    """A source of tickets by what its label stands for: `transfer:wiki` -> `transfer:pretraining`.

    The weights behind `init:LABEL` are told by the label: one that has the word `bert` in it.
    """
    word, _, label = source.partition(":")
    if word == "transfer" and label in labels.tasks:
        return f"transfer:{labels.tasks[label]}"
    return "init:bert" if word == "init" and _BERT.search(label.lower()) else source


def beside(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """`table` with the columns `published_mean` and `published_sd`, in percent, where the paper
    has the same cell: architecture, size, task, metric, source, sparsity, adversarial or not.

    `table` has the columns model, task, metric, source, sparsity (as planned, 0..1), adversary.
    """
    ours = _keyed(table, labels)
    ours["trainable"] = [labels.tasks[task] for task in table.task]
    ours["metric"] = table.metric.astype("str")
    ours["adversarial"] = table.adversary != "none"
    printed = numbers().dropna(subset="published_mean").drop_duplicates(_KEY)
    found = ours.merge(printed, on=_KEY, how="left")
    wanted = {name: found[name].to_numpy(float) for name in ("published_mean", "published_sd")}
    return table.assign(**wanted)


def sparsity(row: Mapping[str, Any], labels: Labels) -> float | None:
    """The sparsity, 0..1, at which the paper prints IMP tickets of the row's model and column."""
    spec, rows = labels.models[row["model"]], numbers()
    found = rows[
        (rows.kind == "imp")
        & (rows.architecture == spec.architecture)
        & (rows["size"] == spec.size)
        & (rows.trainable == labels.tasks[row["task"]])
        & (rows.metric == row["metric"])
    ]
    return None if found.empty else float(found.sparsity.iloc[0]) / 100


def drops_beside(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """The same for average drops; `table` has the columns model, source and sparsity."""
    key = ["architecture", "size", "kind", "sparsity"]
    found = _keyed(table, labels).merge(drops(), on=key, how="left")
    names = ("published_drop", "published_drop_without_vcr")
    return table.assign(**{name: found[name].to_numpy(float) for name in names})


def tables(labels: Labels) -> list[Table]:
    """The paper's tables of the models that a sweep has, as printed; sparsities stand beneath."""
    ours = {(spec.architecture, spec.size) for spec in labels.models.values()}
    names = set(labels.tasks.values())
    found = []
    for (number, architecture, size), rows in numbers().groupby(
        ["table", "architecture", "size"], sort=False
    ):
        if (architecture, size) not in ours or not names & set(rows.trainable):
            continue
        columns = (rows.trainable + " " + rows.metric).str.rstrip()
        body: list[list[Entry]] = []
        for _, line in rows.groupby((columns == columns.iloc[0]).cumsum(), sort=False):
            told = ", adversarial" if line.adversarial.iloc[0] else ""
            body.append([f"{line.kind.iloc[0]}{told}", *map(_printed, line.itertuples())])
        caption = f"Table {number}: {architecture}-{size}"
        found.append(Table(header=["", *columns.unique()], rows=body, caption=caption))
    return found


def _printed(row: Any) -> Entry:
    text = words.spread(row.published_mean, row.published_sd, 2)
    return Value(text=text, note=f"at {row.sparsity:.4g} %") if row.sparsity else text


def _keyed(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "architecture": [labels.models[model].architecture for model in table.model],
            "size": [labels.models[model].size for model in table.model],
            "kind": [kind(source, labels) for source in table.source],
            "sparsity": (100 * table.sparsity).round(1).astype(float),
        },
        index=table.index,
    )
