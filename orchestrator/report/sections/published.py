"""The paper's published numbers, and the scores of a sweep that they are compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from orchestrator.report.data import formatting
from orchestrator.report.data.tables import Labels
from orchestrator.report.page.page import RichText, Table, TableEntry
from orchestrator.sources.names import find_source

PAPER_TITLE = "Gan et al., “Playing Lottery Tickets with Vision and Language”, AAAI 2022"

_KEY = ["architecture", "size", "task_name", "metric", "kind", "sparsity", "adversarial"]
_BERT = re.compile(r"(?:^|[^a-z])bert(?:[^a-z]|$)")


@lru_cache(maxsize=1)
def published_scores() -> pd.DataFrame:
    """Return one row per published score, with sparsity in percent.

    The columns are table, architecture, size, `task_name` (a name in `TASKS`), metric, `kind`
    (source of the tickets), sparsity, adversarial training or not, mean and standard deviation.
    """
    return pd.DataFrame([row for table in _tables() for row in _numbers(table)])


@lru_cache(maxsize=1)
def published_drops() -> pd.DataFrame:
    """Return the averages of Table 2: sparsity, drop and drop without VCR, all in percent."""
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
                "task_name": name,
                "metric": metric,
                "kind": row["source"],
                "sparsity": float(sparsity[i] if isinstance(sparsity, list) else sparsity),
                "adversarial": row.get("adversarial", False),
                "published_mean": row["mean"][i],
                "published_sd": row["sd"][i] if "sd" in row else None,
            }


def source_kind(source: str, labels: Labels) -> str:
    """Replace a source's label by its task: `transfer:wiki` becomes `transfer:pretraining`.

    The label of a model becomes `bert` if it contains that word, as in `init:bert-base`.
    """
    named = find_source(source)
    parameter, label = named.entry.parameter, named.argument
    if parameter == "task" and label in labels.tasks:
        return f"{named.name}:{labels.tasks[label]}"
    return f"{named.name}:bert" if parameter == "model" and _BERT.search(label.lower()) else source


def add_published_scores(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return `table` with the columns `published_mean` and `published_sd`, in percent.

    They are set where the paper has the same cell: architecture, size, task, metric, source,
    sparsity, adversarial or not. `table` has the columns model, task, metric, source, sparsity (as
    planned, 0..1) and adversary.
    """
    keys = _paper_keys(table, labels)
    keys["task_name"] = [labels.tasks[task] for task in table.task]
    keys["metric"] = table.metric.astype("str")
    keys["adversarial"] = table.adversary != "none"
    published = published_scores().dropna(subset="published_mean").drop_duplicates(_KEY)
    merged = keys.merge(published, on=_KEY, how="left")
    names = ("published_mean", "published_sd")
    return table.assign(**{name: merged[name].to_numpy(float) for name in names})


def published_sparsity(row: Mapping[str, Any], labels: Labels) -> float | None:
    """Return the sparsity, 0..1, of the paper's tickets for the row's source, model and column."""
    spec, rows = labels.models[row["model"]], published_scores()
    matching = rows[
        (rows.kind == source_kind(row["source"], labels))
        & (rows.architecture == spec.architecture)
        & (rows["size"] == spec.size)
        & (rows.task_name == labels.tasks[row["task"]])
        & (rows.metric == row["metric"])
    ]
    return None if matching.empty else float(matching.sparsity.iloc[0]) / 100


def add_published_drops(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Do the same for average drops; `table` has the columns model, source and sparsity."""
    key = ["architecture", "size", "kind", "sparsity"]
    merged = _paper_keys(table, labels).merge(published_drops(), on=key, how="left")
    names = ("published_drop", "published_drop_without_vcr")
    return table.assign(**{name: merged[name].to_numpy(float) for name in names})


def tables(labels: Labels) -> list[Table]:
    """Return the paper's tables for the sweep's models, as printed; sparsities are below scores."""
    models = {(spec.architecture, spec.size) for spec in labels.models.values()}
    tasks = set(labels.tasks.values())
    formatted = []
    for (number, architecture, size), rows in published_scores().groupby(
        ["table", "architecture", "size"], sort=False
    ):
        if (architecture, size) not in models or not tasks & set(rows.task_name):
            continue
        columns = (rows.task_name + " " + rows.metric).str.rstrip()
        body: list[list[TableEntry]] = []
        for _, line in rows.groupby((columns == columns.iloc[0]).cumsum(), sort=False):
            suffix = ", adversarial" if line.adversarial.iloc[0] else ""
            body.append([f"{line.kind.iloc[0]}{suffix}", *map(_printed_score, line.itertuples())])
        caption = f"Table {number}: {architecture}-{size}"
        formatted.append(Table(header=["", *columns.unique()], rows=body, caption=caption))
    return formatted


def _printed_score(row: Any) -> TableEntry:
    text = formatting.mean_sd(row.published_mean, row.published_sd, 2)
    return RichText(text=text, note=f"at {row.sparsity:.4g} %") if row.sparsity else text


def _paper_keys(table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return model, source and sparsity of each row as the paper's tables write them."""
    return pd.DataFrame(
        {
            "architecture": [labels.models[model].architecture for model in table.model],
            "size": [labels.models[model].size for model in table.model],
            "kind": [source_kind(source, labels) for source in table.source],
            "sparsity": (100 * table.sparsity).round(1).astype(float),
        },
        index=table.index,
    )
