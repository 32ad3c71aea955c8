"""The end of a run: tables on the terminal; ``results.csv``, ``summary.json`` and ``front.png`` in the directory."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table

from apq_tune.front import Front
from apq_tune.pipeline.files import to_json, write_atomically
from apq_tune.pipeline.rivals import RIVALS
from apq_tune.pipeline.run import Outcome
from apq_tune.report.tables import STYLE


def write_report(outcome: Outcome, path: Path, console: Console) -> None:
    """Write the files and print the tables."""
    write_atomically(path / "results.csv", outcome.table.to_csv(index=False))
    write_atomically(path / "front.png", front_picture(outcome))
    for name, front in outcome.fronts.items():
        write_atomically(path / f"{name}.json", front.to_json())
    hypervolumes = search_hypervolumes(outcome.fronts)
    summary = {"predictors": outcome.predictors, "hypervolume": hypervolumes, "seconds": outcome.seconds}
    write_atomically(path / "summary.json", to_json(summary))
    console.print()
    console.print(predictor_table(outcome))
    console.print(results_table(outcome.table))
    evaluations = outcome.fronts["front"].provenance["n_evaluations"]
    console.print(
        f"{evaluations} candidates scored in each search; NSGA-II covers {hypervolumes['front']:.3f} of the "
        f"predicted loss x BitOps plane, random search {hypervolumes['random']:.3f}."
    )
    console.print("train fits weights, search makes every choice, test only reports; accuracies are after equal QAT.")
    console.print(
        f"Files in {path}: results.csv, front.png, front.json, summary.json, 9_finalists/*.pt", soft_wrap=True
    )


def search_hypervolumes(fronts: dict[str, Front]) -> dict[str, float]:
    """Share of the box from 0 to the worst values of both fronts that each of ``front`` and ``random`` dominates."""
    both = [fronts["front"], fronts["random"]]
    names = [axis.name for axis in both[0].objectives]
    reference = {name: max(float(front.metrics[name].max()) for front in both) for name in names}
    box = 1.0
    for value in reference.values():
        box *= value
    return {name: fronts[name].hypervolume(reference) / box for name in ("front", "random")}


def predictor_table(outcome: Outcome) -> Table:
    """How well the forms predict QAT losses they have not seen."""
    report = outcome.predictors
    n = report["held_out"]["scratch"]["n"]
    table = Table(title=f"Predictors of QAT loss on {n} held-out pairs (cross-validated)", **STYLE)
    table.add_column("form")
    for column in ("Kendall tau", "pairwise accuracy", "RMSE of log loss"):
        table.add_column(column, justify="right")
    rows = {name + (" (used)" if name == report["chosen"] else ""): s for name, s in report["held_out"].items()}
    rows["noise floor (even against odd images)"] = report["noise_floor"]["qat pairs"]
    for name, scores in rows.items():
        values = (f"{scores[key]:.3f}" for key in ("kendall_tau", "pairwise_accuracy", "rmse_log"))
        table.add_row(name, *values)
    return table


def results_table(results: pd.DataFrame) -> Table:
    """The front and the baselines, real accuracies beside predicted ones."""
    table = Table(
        title="Found together, beside separate searches with the same limits and the largest network", **STYLE
    )
    table.caption = "k kernel, c channels, w weight bits pw/dw, a activation bits pw/dw"
    for column in ("", "predicted\nacc. %", "test\nacc. %", "BitOps", "weight\nbytes"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_column("blocks, each stage\non a new line")
    largest = results["bit_ops"].max()
    for row in results.itertuples():
        table.add_row(
            row.name,
            f"{100 * row.predicted_accuracy:.1f}",
            f"{100 * row.test_accuracy:.1f}",
            f"{row.bit_ops / 1e6:.2f} M\n({100 * row.bit_ops / largest:.0f}%)",
            f"{row.weight_bytes:.0f}",
            row.candidate.replace(" | ", "\n"),
            style="dim" if row.name.startswith("largest") else "italic" if row.name in RIVALS else "",
        )
    return table


def front_picture(outcome: Outcome) -> bytes:
    """PNG: predicted front, random front, and what real QAT confirmed."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    predicted, real = figure.subplots(1, 2)
    outcome.fronts["random"].plot(predicted, marker=".", linestyle="", color="0.7", label="random search")
    outcome.fronts["front"].plot(predicted, marker=".", color="C0", label="NSGA-II")
    predicted.set(title="predicted by the search", yscale="log", xscale="log")
    predicted.legend()
    _engineering(predicted)
    baseline = outcome.table["name"].str.startswith("largest")
    rival = outcome.table["name"].isin(RIVALS)
    for rows, marker, label, place in (
        (outcome.table[~baseline & ~rival], "o", "found together", (4, 4)),
        (outcome.table[rival], "^", "searched apart, same limits", (4, -10)),
        (outcome.table[baseline], "s", "largest network, uniform bits", (4, 4)),
    ):
        real.scatter(rows["bit_ops"], 100 * rows["test_accuracy"], label=label, marker=marker)
        for row in rows.itertuples():
            real.annotate(row.name, (row.bit_ops, 100 * row.test_accuracy), place, textcoords="offset points", size=7)
    real.set(
        title="after real QAT, on test images", xlabel="bit_ops (BitOps)", ylabel="test accuracy (%)", xscale="log"
    )
    real.margins(x=0.2, y=0.15)
    real.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False, fontsize=8)
    _engineering(real)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _engineering(ax: Axes) -> None:
    """Label a logarithmic x axis at 1, 2 and 5 times powers of ten, as ``5 M``."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter())
