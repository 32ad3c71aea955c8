"""The table of all evaluated candidates, and its CSV file."""

from __future__ import annotations

import base64
import math
import shlex
from typing import Any, NamedTuple

import pandas as pd

from apq_tune.report.limits import amount
from apq_tune.report.page.facts import ReportFacts

MOST_LETTERS = 900_000
"""Letters that rows and their CSV may have in a page, which must stay under 2 MB; further rows are in the file only."""

ROW_MARKUP = 420
"""Letters of a row besides its texts, on the safe side."""


class ListedColumn(NamedTuple):
    """Column of the table: its heading, and whether it holds numbers."""

    title: str
    numeric: bool


class ListedCell(NamedTuple):
    """Cell: what is shown, and the value to sort by."""

    text: str
    key: str


class Listing(NamedTuple):
    """Table of candidates.

    Attributes:
        columns: Columns.
        rows: Cells of each row.
        stages: Kinds of evaluation, for the filter.
        n: Number of all evaluations, which may be more than rows.
        csv: The rows as CSV, base64.
        file: Name of the file that has all of them.
        dashboard: Command that shows them as Optuna studies.
    """

    columns: tuple[ListedColumn, ...]
    rows: tuple[tuple[ListedCell, ...], ...]
    stages: tuple[str, ...]
    n: int
    csv: str
    file: str
    dashboard: str


FILE, STUDY = "candidates.csv", "study.log"
"""Files beside the page: all evaluations as a table, and as a journal of Optuna."""


def listing_of(facts: ReportFacts) -> Listing:
    """Table of all candidates, as many as fit into the page."""
    table = facts.evaluated
    costs = {c.metric.name: c.metric.unit for c in facts.constraints}
    costs = costs | {facts.cost.name: facts.cost.unit} | {name: m.unit for name, m in facts.costs.metrics.items()}
    shown = table.head(_fitting(table))
    columns = [ListedColumn("evaluated by", False), ListedColumn("name", False), ListedColumn("fits", False)]
    columns += [ListedColumn(title, True) for title in ("loss", "accuracy", "test acc.", "predicted loss")]
    columns += [ListedColumn(name, True) for name in costs] + [ListedColumn("candidate", False)]
    rows = tuple(_row(row, costs) for row in shown.to_dict(orient="records"))
    text = shown.drop(columns="candidate_json").to_csv(index=False)
    return Listing(
        tuple(columns),
        rows,
        tuple(dict.fromkeys(shown["stage"])),
        len(table),
        base64.b64encode(text.encode("utf-8")).decode("ascii"),
        FILE,
        shlex.join(["optuna-dashboard", f"{facts.path}/{STUDY}"]),
    )


def _fitting(table: pd.DataFrame) -> int:
    """Number of rows whose texts fit into the page."""
    csv = table.drop(columns="candidate_json").to_csv(index=False, header=False).splitlines()
    letters = 0
    for number, line in enumerate(csv):
        letters += ROW_MARKUP + math.ceil(7 / 3 * len(line.encode("utf-8")))  # as text, and in base64
        if letters > MOST_LETTERS:
            return number
    return len(csv)


def _row(row: dict[Any, Any], costs: dict[str, str]) -> tuple[ListedCell, ...]:
    def number(value: float, text: str) -> ListedCell:
        return ListedCell("", "") if math.isnan(value) else ListedCell(text, f"{value:.6g}")

    cells = [ListedCell(str(row["stage"]), ""), ListedCell(str(row["name"]), "")]
    cells.append(ListedCell("yes" if row["feasible"] else "no", ""))
    cells.append(number(row["loss"], f"{row['loss']:.4f}"))
    cells.append(number(row["accuracy"], f"{100 * row['accuracy']:.1f}%"))
    cells.append(number(row["test_accuracy"], f"{100 * row['test_accuracy']:.1f}%"))
    cells.append(number(row["predicted_loss"], f"{row['predicted_loss']:.4f}"))
    cells += [
        number(row[name], amount(float(row[name]), unit if unit == "bytes" else "")) for name, unit in costs.items()
    ]
    return (*cells, ListedCell(str(row["candidate"]), ""))
