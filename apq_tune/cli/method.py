"""``apq-tune run --method``: a run that searches with one of the methods that ``joint-vs-staged`` compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apq_tune.cli.versus import NAMES, OWN, basis_of, fleet_of, screen, search_all

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind
    from apq_tune.pipeline.run import PipelineRun

DEFAULT = "predictor"
"""Default method of a run, whose stages can be reused with other constraints."""

METHOD_NAMES = (DEFAULT, *(name for name in NAMES if name != DEFAULT))
"""Names of ``--method``, the default first."""

TRAINED = {"seed", "strategy", "supernet", "quantized", "n_calibration", "final"}
"""Settings that the result of a method depends on, beside its spend and its constraints."""


def check_possible(pipeline: PipelineRun, method: str) -> None:
    """Refuse a method that searches a part of the space in which no network keeps the limits, before any training.

    Raises:
        ProblemError: If there is no such network.
    """
    from apq_tune.errors import ProblemError
    from apq_tune.methods.registry import why_impossible

    limits = pipeline.costs.limits(pipeline.settings.constraints)
    if (why := why_impossible(method, pipeline.encoding, limits)) is not None:
        raise ProblemError(f"--method {method}: {why}")


def search_with(
    pipeline: PipelineRun,
    method: str,
    out: Path,
    *,
    gpus: float | None,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Search with a method on the supernets of a run, and train its finalists and the baselines.

    Files and tables are those of a run.

    Args:
        pipeline: Run whose supernets are trained.
        method: Name of the method.
        out: Directory of the run; the results go to a folder of it that has the name of the method.
        gpus: GPUs of the trial.
        num_cpus: Most trials at once.
        executor: Kind of executor.
        address: Ray cluster to join.

    Raises:
        RunError: If the folder holds results of other settings or limits, or the search failed.
    """
    from apq_tune.pipeline.own_model import ONLY_MODELS
    from apq_tune.problem.limits import as_texts
    from apq_tune.report.html import add_page
    from apq_tune.report.searched import write_searched
    from apq_tune.store.directory import kept_tables
    from apq_tune.studies.versus import Spend, VersusTask

    settings, costs, folder = pipeline.settings, pipeline.costs, out / method
    limits = tuple(costs.limits(settings.constraints))
    spend = Spend.of_run(settings, pipeline.data)
    task = VersusTask(method, OWN, settings.seed)
    targets = {OWN: as_texts(limits)}
    trained = TRAINED if pipeline.model is None else {*TRAINED, *ONLY_MODELS}
    basis = basis_of(costs, kept_tables(out), spend, targets, settings.model_dump(mode="json", include=trained))
    fleet = fleet_of(folder, f"search with {method}", basis, executor=executor, address=address, num_cpus=num_cpus)
    runs = {task.seed: out.absolute()}
    results = search_all(fleet, [task], runs, targets, spend, costs, pipeline.device, gpus=gpus, keep=True)
    weights = fleet.weights(task.key)
    write_searched(task, results[task.key], costs, limits, weights, spend, folder, screen())
    add_page(folder, screen())
