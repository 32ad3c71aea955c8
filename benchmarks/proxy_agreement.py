"""Agreement with losses after QAT: sensitivities, statistics times bits, zero-cost proxies, predictors, the supernet.

Usage: ``apq-tune run ... --out RUN; python benchmarks/proxy_agreement.py RUN [RUN ...] --out FOLDER``, a run for each
data set and seed, such as ``--seed 1`` of ``digits`` and of ``mobilenet_fashion_mnist_14``. For each run, random bit
policies of its largest architecture (``bits``) and random networks of its whole space (``networks``) are trained like
its finalists, each result being kept at once in ``FOLDER/trained.jsonl``, so that the same command goes on after an
interruption; its own pairs after short QAT (``pairs``) are there already, and are all that is scored with
``--candidates 0``. Predictors, by form and training loss, and the mixer of statistics of layers, learn from the same
candidates and are judged on those that they have not seen (five folds, the same for all).

``FOLDER/agreement.csv`` has, for each run, set and ranking, Kendall's tau with the loss on the search split and the
share of pairs in the right order; ``FOLDER/table.md`` means and standard deviations over runs, the data sets side by
side. ``--tiny`` tries the script in the smallest way and writes to a folder of its own that is deleted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from apq_tune import (
    CandidateStatistics,
    LayerTable,
    MixerSettings,
    Pairs,
    SupernetLoss,
    ZeroCostProxy,
    layer_omegas,
    layer_statistics,
    measure_one_at_a_time,
)
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost.parameters import parameters
from apq_tune.pipeline.finished import load_supernets, open_run
from apq_tune.pipeline.learning import read_losses
from apq_tune.predict import Fit, MLPSettings, agreement, fit_gp, fit_mixer, fit_mlp, fit_ridge, held_out
from apq_tune.predict.losses import Loss
from apq_tune.problem.costs import Costs
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.batches import batches, first_images
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.zero_cost import PROXIES

Ranking = Callable[[Genomes], NDArray[np.float64]]
SETS = ("bits", "networks", "pairs")
TRAINED = ("bits", "networks")
"""Sets that are trained here; those of ``pairs`` were trained in the run."""

LOSSES: tuple[Loss, ...] = ("mse", "pairwise", "diffkendall")
FEWEST = 5
"""Candidates from which predictors are fitted."""


def first_batch(nets: Any, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first search images and their labels."""
    split = nets.fp32.data.search.first(n)
    ((images, labels),) = batches(split, np.arange(len(split.labels)), len(split.labels), "cpu")
    return images, labels


def drawn(encoding: GeneEncoding, name: str, n: int, seed: int) -> Genomes:
    """Random bit policies of the largest architecture, or random networks with random policies."""
    genomes = encoding.sample_policies(20 * n, np.random.default_rng(seed))
    if name == "bits":
        genomes = encoding.at_largest(genomes, ("depth", "kernel", "width", "resolution"))
        genomes = genomes[encoding.is_allowed(genomes)]
    _, first = np.unique(genomes, axis=0, return_index=True)
    return np.asarray(genomes[np.sort(first)][:n], np.int16)


def measured(path: Path, nets: Any, name: str, genomes: Genomes, arguments: argparse.Namespace) -> NDArray[np.float64]:
    """Losses after QAT, of which those that are in the file are not measured again."""
    file = arguments.out / "trained.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(line["run"], line["set"], line["candidate"], line["steps"]): line["loss"] for line in lines}
    losses = []
    for number, candidate in enumerate(encoding_of(nets.space).decode(genomes), start=1):
        key = (str(path), name, candidate.to_json(), arguments.steps)
        if key not in known:
            task = QATTask(candidate, nets.settings.final, (arguments.seed, 8), steps=arguments.steps)
            found = train_candidate(nets.quantized, task).scores["search"]
            known[key] = found.loss
            row = dict(zip(("run", "set", "candidate", "steps"), key, strict=True)) | found._asdict()
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
        losses.append(known[key])
        print(f"{path} {name} {number}: loss {losses[-1]:.3f}", flush=True)
    return np.array(losses)


def rankings_of(nets: Any, arguments: argparse.Namespace) -> dict[str, Ranking]:
    """What ranks candidates, lower values being better, by name."""
    encoding = encoding_of(nets.space)
    images, labels = first_batch(nets, arguments.images)
    largest = encoding.extremes()[1]
    subnet = subnet_from(
        nets.quantized.network, largest, first_images(nets.quantized.data.train, 256), quantize=True
    ).eval()
    statistics = layer_statistics(subnet, images[:64], labels[:64])
    few = nets.quantized.on_first(arguments.images)
    costs = Costs.of(encoding).metrics
    found: dict[str, Ranking] = {
        "quantized supernet": SupernetLoss(few),
        "omega (HAWQ-V2)": layer_omegas(subnet, images, labels, probes=arguments.probes).metric(encoding),
        "loss, one gene at a time": measure_one_at_a_time(SupernetLoss(few), encoding).metric(encoding),
    }
    ones = dict.fromkeys(statistics["snip"], 1.0)
    for name, own in [("sum of bits", ones), *((f"{name} x bits", own) for name, own in statistics.items())]:
        table = LayerTable.times_bits("bits", own, ("w_bits", "a_bits")).metric(encoding)
        found[name] = lambda genomes, table=table: -table(genomes)  # type: ignore[misc]
    for name, cost in [("weight_bytes", costs["weight_bytes"]), ("bit_ops", costs["bit_ops"])]:
        found[name] = lambda genomes, cost=cost: -cost(genomes)  # type: ignore[misc]
    for name, cost in [("macs", costs["macs"]), ("parameters", parameters(encoding))]:
        found[f"{name} (architecture)"] = lambda genomes, cost=cost: -cost(genomes)  # type: ignore[misc]
    for proxy in PROXIES:
        untrained = ZeroCostProxy.untrained(nets.space, proxy, images[:64], labels[:64], seed=arguments.seed)
        trained = ZeroCostProxy(nets.fp32.network, proxy, images[:64], labels[:64])
        for kind, metric in (("untrained", untrained), ("supernet", trained)):
            found[f"{proxy}, {kind} (architecture)"] = lambda genomes, own=metric: -own(genomes)  # type: ignore[misc]
    return found


def predictors_of(nets: Any, arguments: argparse.Namespace) -> dict[str, Fit]:
    """Forms of predictors that learn from the candidates themselves, by name."""
    images, labels = first_batch(nets, arguments.images)
    statistics = CandidateStatistics(nets.fp32.network, images[:64], labels[:64])
    found: dict[str, Fit] = {"ridge": fit_ridge, "gp": fit_gp}
    for loss in LOSSES:
        settings = MLPSettings(steps=arguments.fit_steps, loss=loss)
        found[f"mlp, {loss}"] = partial(fit_mlp, bits=True, settings=settings)
    for loss in LOSSES:
        of_layers = MixerSettings(steps=arguments.fit_steps, loss=loss)
        found[f"mixer of layer statistics, {loss}"] = partial(fit_mixer, statistics=statistics, settings=of_layers)
    return {f"{name} (held out)": fit for name, fit in found.items()}


def candidates_of(path: Path, nets: Any, name: str, arguments: argparse.Namespace) -> Pairs:
    """Candidates of a set with their losses after QAT."""
    encoding = encoding_of(nets.space)
    if name == "pairs":
        pairs, _ = read_losses(open_run(path, ("qat_pairs",)).stages["qat_pairs"], encoding)
        return pairs.rows(np.arange(len(pairs.target))[: arguments.pairs])
    genomes = drawn(encoding, name, arguments.candidates, arguments.seed)
    return Pairs(genomes, measured(path, nets, name, genomes, arguments))


def rows_of(path: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Agreement of all rankings on one run."""
    nets = load_supernets(path)
    encoding, rankings = encoding_of(nets.space), rankings_of(nets, arguments)
    predictors, rows = predictors_of(nets, arguments), []
    for name in SETS:
        if name in TRAINED and not arguments.candidates:
            continue
        pairs = candidates_of(path, nets, name, arguments)
        values = {
            proxy: np.asarray(ranking(pairs.genomes), np.float64)
            for proxy, ranking in rankings.items()
            if not (name == "bits" and proxy.endswith("(architecture)"))
        }
        if len(pairs.target) >= FEWEST:
            values |= {form: held_out(fit, encoding, pairs, arguments.seed) for form, fit in predictors.items()}
        for ranking, own in values.items():
            scores = agreement(own, pairs.target, log=False)
            row = {"run": str(path), "space": encoding.name, "set": name, "ranking": ranking, "n": len(own)}
            rows.append(row | {"tau": scores.kendall_tau, "pairs": scores.pairwise_accuracy})
        print(f"{path} {name}: {len(values)} rankings of {len(pairs.target)} networks", flush=True)
    return rows


def one_table(table: pd.DataFrame) -> str:
    """Means and standard deviations over runs as Markdown: a row for each ranking, columns by data set and set."""
    columns = [(space, name) for space in table["space"].unique() for name in SETS]
    columns = [(space, name) for space, name in columns if ((table["space"] == space) & (table["set"] == name)).any()]
    heads = []
    for space, name in columns:
        own = table[(table["space"] == space) & (table["set"] == name)]
        heads.append(f"{space}, {name}: tau / pairs ({own['run'].nunique()} runs of {own['n'].iloc[0]})")
    lines = ["| ranking | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for ranking in table["ranking"].unique():
        cells = []
        for space, name in columns:
            own = table[(table["space"] == space) & (table["set"] == name) & (table["ranking"] == ranking)]
            cells.append(" / ".join(spread_of(own[column]) for column in ("tau", "pairs")) if len(own) else "")
        lines.append(f"| {ranking} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread_of(values: pd.Series) -> str:
    """Mean and, of several runs, standard deviation."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def main() -> None:
    """Train, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/proxy_agreement"))
    parser.add_argument("--candidates", type=int, default=24, help="networks of each set that is trained here")
    parser.add_argument("--pairs", type=int, default=60, help="most pairs of the run's own that are scored")
    parser.add_argument("--fit-steps", type=int, default=300, help="steps of the predictors' trainings")
    parser.add_argument("--steps", type=int, help="steps of QAT; by default the epochs of the run's finalists")
    parser.add_argument("--images", type=int, default=500, help="search images that proxies see")
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="the smallest spend, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.tiny:
            arguments.candidates, arguments.steps, arguments.images, arguments.probes = 5, 1, 64, 1
            arguments.pairs, arguments.fit_steps = 5, 2
            arguments.out = Path(temporary)
        arguments.out.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame([row for path in arguments.runs for row in rows_of(path, arguments)])
        table.to_csv(arguments.out / "agreement.csv", index=False, float_format="%.4f")
        (arguments.out / "table.md").write_text(one_table(table), encoding="utf-8")
        print(one_table(table))


if __name__ == "__main__":
    with one_line_errors():
        main()
