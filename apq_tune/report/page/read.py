"""Facts of a report, read from the directory of a run, of a refinement or of one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune.cost import CostTable, load_cost_table
from apq_tune.cost.additive_file import is_additive_table
from apq_tune.errors import RunError, TableError
from apq_tune.inputs.sheets import read_sheet
from apq_tune.pipeline.choice import kept
from apq_tune.pipeline.learning import read_losses
from apq_tune.pipeline.outcome import networks_table
from apq_tune.pipeline.reading import read_run
from apq_tune.pipeline.upgrade import RAISED, Upgrade
from apq_tune.problem.costs import Costs
from apq_tune.problem.limits import as_texts
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.refine.reading import read_refinement
from apq_tune.report.page.facts import Beside, ReportFacts, Role
from apq_tune.report.page.neighbours import beside, other_seeds
from apq_tune.report.raised import raised_lines
from apq_tune.report.refined import against_run
from apq_tune.space.candidate import candidate_in, read_candidate
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.digests import Digests, read_record
from apq_tune.store.directory import kept_digests, kept_tables
from apq_tune.store.files import read_json
from apq_tune.store.items import Items
from apq_tune.studies.fleet import FORMAT as FLEET_FORMAT
from apq_tune.studies.versus import Spend

SEARCH_WITH = "search with "
"""Beginning of the kind of a folder that ``run --method`` makes."""

MEASURED = {
    "qat_pairs": "short QAT",
    "proxy_losses": "quantized supernet",
    "fp32_losses": "full-precision supernet",
}
"""Measuring stages of a run, and how they evaluate candidates."""

PREDICTED = {"best": "best predicted", "front": "predicted front", "random": "random search, predicted"}
"""Searches of a run, and how their results are listed."""

MOST_SOURCES = 4
"""Largest number of different sources of a table that are listed."""

SCORES = ("stage", "name", "loss", "accuracy", "test_accuracy", "predicted_loss", "predicted_accuracy")
"""Columns of the table of all evaluations, before its costs."""


def read_facts(path: Path) -> ReportFacts:
    """Read the results of a directory.

    Args:
        path: Directory of a finished run, refinement or method.

    Raises:
        RunError: If it is none of these, is not finished, or is damaged; the message names the command that goes on.
    """
    if (path / "refine.json").exists():
        return _of_refinement(path)
    if (path / "fleet.json").exists():
        return _of_method(path)
    return _of_run(path)


def _tables(*folders: Path) -> dict[str, CostTable]:
    """Cost tables of operations by the names that they had before they were copied."""
    files = _table_files(*folders).items()
    return {name: load_cost_table(path) for name, path in files if not is_additive_table(path)}


def _table_files(*folders: Path) -> dict[str, Path]:
    return {table.name.partition("_")[2]: table for folder in folders for table in kept_tables(folder)}


def _measured(*folders: Path) -> dict[str, str]:
    """What the column ``source`` of cost tables says, where they have one, by name of the table."""
    found = {}
    for name, path in _table_files(*folders).items():
        if path.suffix.lower() != ".csv":
            continue
        table = read_sheet(path, TableError, comments=True)
        if "source" not in table:
            continue
        counts = table["source"].astype(str).str.strip().replace("", "without a source").value_counts()
        shown = [f"{n} rows {text[:60]}" for text, n in counts.head(MOST_SOURCES).items()]
        found[name] = ", ".join(shown) + (", ..." if len(counts) > MOST_SOURCES else "")
    return found


def _role(name: str) -> Role:
    for role in ("uniform", "staged", "largest"):
        if name.startswith(role):
            return role
    return "raised" if name == RAISED else "joint"  # it was trained once more than any search was allowed


def _of_run(path: Path) -> ReportFacts:
    run = read_run(path)
    outcome = run.outcome()
    fidelity = f"QAT, {outcome.settings.final.epochs} epochs"
    networks = outcome.table.assign(role=[_role(name) for name in outcome.table["name"]])
    parts = [_trained(networks, f"trained in full ({fidelity})")]
    for stage, words in MEASURED.items():
        _, table = read_losses(run.directory(stage), run.encoding)
        listed = pd.DataFrame({"loss": table["loss"], "accuracy": table["accuracy"]})
        listed["name"] = [f"{stage.partition('_')[0]} {number}" for number in range(1, len(table) + 1)]
        parts.append(_priced(listed.assign(stage=words), list(table["candidate"]), run.encoding, run.costs.metrics))
    slope, intercept = outcome.predictors["error_law"]
    for name, words in PREDICTED.items():
        front = outcome.fronts[name]
        loss = front.metrics[front.objectives[0].name].to_numpy(np.float64)
        accuracy = np.clip(1 - np.exp(intercept) * np.maximum(loss, 0) ** slope, 0, 1)
        listed = pd.DataFrame({"predicted_loss": loss, "predicted_accuracy": accuracy, "stage": words})
        listed["name"] = [f"{name} {number}" for number in range(1, len(front) + 1)]
        parts.append(_priced(listed, [c.to_json() for c in front.candidates], run.encoding, run.costs.metrics))
    rivals = read_json(run.directory("search").checked("rivals.json"))
    cost = next((c.metric for c in outcome.constraints if c.sense == "<="), run.costs.metrics["bit_ops"])
    return ReportFacts(
        kind="run",
        path=str(path),
        run=str(path),
        command=run.record["command"],
        data=str(run.record["data"]),
        versions=run.record["versions"],
        space=run.encoding.space,
        costs=run.costs,
        tables=_tables(path),
        table_sources=_measured(path),
        constraints=outcome.constraints,
        cost=cost,
        networks=networks,
        evaluated=_evaluated(parts, run.costs, outcome.constraints),
        fidelity=fidelity,
        images=run.record.get("images", {}),
        seeds={"run": outcome.settings.seed},
        seconds=outcome.seconds,
        predictors=outcome.predictors,
        evaluations={name: int(front.provenance["n_evaluations"]) for name, front in outcome.fronts.items()},
        rivals={name: None if c is None else read_candidate(c).to_json() for name, c in rivals.items()},
        beside=beside(path, outcome.constraints),
        other_seeds=other_seeds(path, run.record),
        training=outcome.settings.final.__dict__,
        lines=tuple(run.record.get("taken", ())),
        upgrades=() if outcome.upgrade is None else tuple(raised_lines(outcome.upgrade, outcome.table)),
    )


def _of_refinement(path: Path) -> ReportFacts:
    read = read_refinement(path)
    run, refined = read.run, read.refined
    table = refined.table.assign(
        role=["raised" if f == RAISED else "uniform" if u else "staged" if f == "staged" else "joint"
              for u, f in zip(refined.table["uniform"], refined.table["found"], strict=True)],
        predicted_accuracy=np.nan,
    )  # fmt: skip
    final = table[table["epochs"] == read.settings.final_epochs].reset_index(drop=True)
    fidelity = f"QAT, {read.settings.final_epochs} epochs"
    earlier = table[table["epochs"] != read.settings.final_epochs]
    parts = [_trained(final, f"trained in full ({fidelity})")]
    parts += [
        _trained(rows, f"{stage} ({rows['fidelity'].iloc[0]})") for stage, rows in earlier.groupby("stage", sort=False)
    ]
    of_run: tuple[Beside, ...] = ()
    remark = ""
    if (own := refined.of_run) is not None:
        best = refined.table.loc[refined.best]
        remark = f"{best['name']} is {against_run(best, own)}."
        costs = {c.metric.name: float(own[c.metric.name]) for c in refined.constraints}
        what = f"choice of the run within these limits, after {own['fidelity']}"
        of_run = (Beside(str(own["name"]), what, float(own["test_accuracy"]), True, costs),)
    return ReportFacts(
        kind="refinement",
        path=str(path),
        run=str(run.path),
        command=read.record["command"],
        data=str(run.record["data"]),
        versions=read.record["versions"],
        space=run.encoding.space,
        costs=read.costs,
        tables=_tables(run.path, path),
        table_sources=_measured(run.path, path),
        constraints=refined.constraints,
        cost=read.costs.metrics[refined.front.objectives[1].name],
        networks=final,
        evaluated=_evaluated(parts, read.costs, refined.constraints),
        fidelity=fidelity,
        images=run.record.get("images", {}),
        seeds={"run": run.settings.seed, "refinement": read.settings.seed},
        seconds=read.seconds,
        beside=of_run,
        training={"epochs": read.settings.final_epochs},
        lines=tuple(run.record.get("taken", ())),
        remark=remark,
        limits_of_run=as_texts(refined.constraints) == as_texts(run.costs.limits(run.settings.constraints)),
    )


def _of_method(path: Path) -> ReportFacts:
    remedy = f"delete the folder {path} and repeat the command"
    record = read_record(path / "fleet.json", remedy, current=FLEET_FORMAT)
    kind, command = str(record.get("kind")), record["command"] or "the program that began it"
    if not kind.startswith(SEARCH_WITH):
        raise RunError(f"{path}: holds a {kind}, which has no report; give the folder of a run, refinement or method")
    finished = Items(Digests(path), f"{remedy}: {command}", "items/").finished()
    if not finished:
        raise RunError(f"{path}: its search is not done; go on with: {command}")
    run_path = path.parent if (path.parent / "run.json").exists() else path.absolute().parent
    method = kind.removeprefix(SEARCH_WITH)
    run = read_run(run_path, "quantized_supernet")
    costs = run.costs
    basis, (key, found) = record["basis"], next(iter(finished.items()))
    if kept_digests(run_path) != basis.get("tables", []):
        raise RunError(f"{path}: was searched with other cost tables than {run_path} now has; {remedy}: {command}")
    spend = Spend(**basis["spend"])
    limits = tuple(costs.limits(next(iter(basis["limits"].values()), [])))
    final, fidelity = spend.final_steps, f"QAT, {spend.final_steps} steps"
    networks = networks_table(found["networks"], costs, limits)
    networks["role"] = ["largest" if name.startswith("largest") else "other" for name in networks["name"]]
    networks = networks.assign(predicted_loss=np.nan, predicted_accuracy=np.nan)
    parts = [_trained(networks, f"trained in full ({fidelity})")]
    for steps in sorted({row["steps"] for row in found["finalists"]} - {final}, reverse=True):
        shorter = _scored([row for row in found["finalists"] if row["steps"] == steps], run.encoding, costs.metrics)
        shorter["name"] = [f"{method} {steps} {number}" for number in range(1, len(shorter) + 1)]
        parts.append(_trained(shorter, f"QAT, {steps} steps"))
    cost = next((c.metric for c in limits if c.sense == "<="), costs.metrics["bit_ops"])
    return ReportFacts(
        kind="method",
        path=str(path),
        run=str(run_path),
        command=record["command"],
        data=str(run.record["data"]),
        versions=record["versions"],
        space=run.encoding.space,
        costs=costs,
        tables=_tables(run_path),
        table_sources=_measured(run_path),
        constraints=limits,
        cost=cost,
        networks=networks,
        evaluated=_evaluated(parts, costs, limits),
        fidelity=fidelity,
        images=run.record.get("images", {}),
        seeds={"run": run.settings.seed, "search": int(key.split("-")[0])},
        seconds={f"{name} (processor)": float(value) for name, value in found["seconds"].items() if name != "all"},
        beside=beside(run_path, limits, without=path.name),
        spend={name: int(count) for name, count in found["counts"].items()},
        budget=spend.counts._asdict(),
        training={"steps": final},
        lines=tuple(run.record.get("taken", ())),
        upgrades=tuple(raised_lines(Upgrade.from_dict(found["upgrade"]), networks)) if found.get("upgrade") else (),
    )


def _scored(rows: Sequence[Mapping[str, Any]], encoding: GeneEncoding, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Table of trainings of a method, with the scores of both splits and all costs."""
    nothing = {"loss": np.nan, "accuracy": np.nan}
    columns = {
        f"{split}_{kind}": [row["scores"].get(split, nothing)[kind] for row in rows]
        for split in ("search", "test")
        for kind in ("loss", "accuracy")
    }
    scores = pd.DataFrame(columns | {"predicted_loss": np.nan, "predicted_accuracy": np.nan})
    return _priced(scores, [read_candidate(row["candidate"]).to_json() for row in rows], encoding, metrics)


def _priced(
    table: pd.DataFrame, texts: Sequence[str], encoding: GeneEncoding, metrics: Mapping[str, Metric]
) -> pd.DataFrame:
    """Add all costs and both notations of candidates to a table.

    Args:
        table: One row for each candidate.
        texts: Candidates as JSON.
        encoding: Encoding of the search space.
        metrics: Costs by name.
    """
    candidates = [candidate_in(text) for text in texts]
    genomes = encoding.encode(candidates, check=False).reshape(-1, encoding.n_genes)
    costs = {name: metric(genomes) for name, metric in metrics.items()}
    return table.assign(**costs, candidate=list(map(str, candidates)), candidate_json=list(texts))


def _trained(networks: pd.DataFrame, stage: str) -> pd.DataFrame:
    return networks.assign(stage=stage, loss=networks["search_loss"], accuracy=networks["search_accuracy"])


def _evaluated(parts: Sequence[pd.DataFrame], costs: Costs, constraints: Sequence[Constraint]) -> pd.DataFrame:
    """All evaluations in one table, those of the most faithful kind first."""
    columns = [*SCORES, *costs.metrics, "candidate", "candidate_json"]
    filled = [part.reindex(columns=columns) for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True)
    table.insert(2, "feasible", kept(table, constraints))
    return table
