"""Metrics of a search space by name: predictors, cost tables and built-in cost models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune.cost.given import check_macs
from apq_tune.cost.named_costs import NAMED, named_in
from apq_tune.errors import CandidateError, DeviceError, ProblemError, RunError
from apq_tune.inputs.sheets import numbers_in, read_sheet
from apq_tune.network.network import has_network
from apq_tune.predict import MLPPredictor, Pairs
from apq_tune.predict.files import is_of_whole, load_predictor, measured_in
from apq_tune.predict.pairs import Floats, n_networks
from apq_tune.problem.costs import with_built_in, with_tables
from apq_tune.problem.device import device_limits
from apq_tune.problem.limits import read_limits
from apq_tune.problem.metric import Metric, WidenedMetric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.measured import Mask, outside, within
from apq_tune.space.narrowing import Narrowing, candidates_run
from apq_tune.space.notation import candidate_from, entries_of
from apq_tune.space.parameters import Space

MAXIMISED = ("accuracy",)

FEWEST = 10
"""Minimum number of pairs of different candidates to fit a predictor to."""


def load_metrics(encoding: GeneEncoding, predictor: Path | None, tables: Sequence[Path]) -> dict[str, Metric]:
    """Metrics from files by name: first that of the predictor, then those of the cost tables.

    Raises:
        ApqError: If a file cannot be used, or two tables have a metric of the same name.
    """
    metrics: dict[str, Metric] = {}
    if predictor is not None:
        learned = _learned(predictor, encoding)
        metrics[learned.name] = learned
    return with_tables(metrics, encoding, tables)


def _learned(path: Path, encoding: GeneEncoding) -> Metric:
    """Predictor of a file, on a space that may have been narrowed for a device since.

    Raises:
        RunError: If the file cannot be used.
    """
    if not is_of_whole(path, encoding.space):
        return load_predictor(path, encoding)
    narrowing = Narrowing(encoding.space.whole, encoding.space)
    return WidenedMetric(load_predictor(path, narrowing.whole), narrowing)


def all_metrics(encoding: GeneEncoding, from_files: dict[str, Metric], asked: Sequence[str] = ()) -> dict[str, Metric]:
    """Metrics from files and, unless the space is one of named choices, the built-in costs.

    Args:
        encoding: Encoding of the search space.
        from_files: Metrics from files by name.
        asked: Limits, or names of metrics; the cost models of devices that they name are added.

    Raises:
        ProblemError: If there is no metric at all, or a space of named choices is asked for a device's.
        TableError: If such a cost model does not cover the space.
    """
    if has_network(encoding.space):
        return with_built_in(from_files, encoding, asked)
    if unknown := [name for name in named_in(asked) if name not in from_files]:
        raise ProblemError(f"{encoding.name}: named choices have no costs of their own; leave {unknown[0]} out")
    if not from_files:
        raise ProblemError(f"{encoding.name}: named choices have no costs of their own; give --predictor or --table")
    return from_files


def restrict_to_measured(encoding: Any, predictor: Path | None, *, extrapolate: bool) -> tuple[Any, str]:
    """Restrict a search space to the values that the pairs of a predictor cover.

    Args:
        encoding: Encoding of the search space.
        predictor: Predictor file; one that does not record its pairs leaves the space unrestricted.
        extrapolate: Whether to search the whole space anyway.

    Returns:
        Encoding to search, and a message about the restriction, empty if there is none.

    Raises:
        RunError: If the file is of another search space.
        DeviceError: If the device that the space was narrowed for runs no measured value of a gene.
    """
    mask = None if predictor is None else _measured(predictor, encoding)
    left_out = [] if mask is None else outside(encoding, mask)
    if not left_out or mask is None:
        return encoding, ""
    shown = "; ".join(left_out[:5]) + ("; ..." if len(left_out) > 5 else "")
    named = f"{len(left_out)} of {len(encoding.names)} choices have values that were never measured ({shown})"
    if extrapolate:
        return encoding, f"{named}; elsewhere the predictor extrapolates"
    return within(encoding, mask), f"{named}; the search keeps to measured ones, --extrapolate searches the whole space"


def _measured(predictor: Path, encoding: GeneEncoding) -> Mask | None:
    """Mask of the values that the pairs of a predictor cover, on a space that may have been narrowed since."""
    if not is_of_whole(predictor, encoding.space):
        return measured_in(predictor, encoding)
    narrowing = Narrowing(encoding.space.whole, encoding.space)
    mask = measured_in(predictor, narrowing.whole)
    if mask is None:
        return None
    inside = narrowing.mask(mask)
    if not (some := inside.any(axis=1)).all():
        name = encoding.names[int(np.argmin(some))]
        raise DeviceError(
            f"{encoding.space.device.name} runs no {name} that was measured for {predictor}; give --extrapolate, or "
            "another predictor"
        )
    return inside


def problem_of(
    encoding: GeneEncoding, metrics: dict[str, Metric], objectives: Sequence[str], limits: Sequence[str]
) -> Problem:
    """Build a problem from metric names: ``accuracy`` is maximised, everything else minimised.

    Args:
        encoding: Encoding of the search space.
        metrics: Metrics by name; all of them are reported with the front.
        objectives: Names of the objectives; by default the first metric.
        limits: Limits on metrics; see ``read_limits``.

    Raises:
        ProblemError: If a metric is unknown or a bound out of reach.
    """
    names = [name.strip() for name in objectives] or [next(iter(metrics))]
    for name in names:
        if name not in metrics:
            devices = f"; of devices: {', '.join(NAMED)}" if "bit_ops" in metrics else ""
            raise ProblemError(f"unknown metric {name!r}; known: {', '.join(metrics)}{devices}")
    wanted = [Objective(metrics[name], "maximize" if name in MAXIMISED else "minimize") for name in names]
    constraints = read_limits(encoding, metrics, limits)
    return Problem(encoding, wanted, constraints, also=list(metrics.values()))


def score_candidates(
    encoding: GeneEncoding, metrics: dict[str, Metric], entries: Sequence[Any], *, skip_invalid: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Evaluate all metrics of given candidates, in their order.

    In a space that was narrowed for a device, candidates of the whole space are taken, too, and the memory of the
    device is a limit.

    Args:
        encoding: Encoding of the search space.
        metrics: Metrics by name.
        entries: Candidates as plain data; see ``candidate_from``.
        skip_invalid: Whether to skip candidates that are not in the space.

    Returns:
        Table with ``position`` (from 0), ``candidate_json`` and one column per metric, and the reasons why candidates
        were skipped.

    Raises:
        CandidateError: If a candidate is invalid and not skipped; the message names its position and the reason.
        DeviceError: If the device does not run one or has no memory for it, and it is not skipped.
        ReachError: If the device has no memory for any network of the space.
    """
    limits = device_limits(encoding.space, metrics.values()) if has_network(encoding.space) else ()
    if not entries:
        raise CandidateError("there is no candidate to score; the file holds an empty list")
    genomes, positions, refused = [], [], []
    for position, entry in enumerate(entries):
        try:
            genomes.append(_genome(encoding, entry, limits))
            positions.append(position)
        except (CandidateError, DeviceError) as error:  # noqa: PERF203
            reason = f"candidate {position}: {str(error).removeprefix('candidate 0: ')}"
            if not skip_invalid:
                raise type(error)(f"{reason}; --skip-invalid goes on without it") from None
            refused.append(reason)
    found = np.array(genomes, np.int16).reshape(len(genomes), encoding.n_genes)
    columns = {"position": positions, "candidate_json": [c.to_json() for c in encoding.decode(found)]}
    return pd.DataFrame(columns | {name: metric(found) for name, metric in metrics.items()}), refused


def _genome(encoding: GeneEncoding, entry: Any, limits: Sequence[Constraint]) -> Genomes:
    """Genome of a candidate that a device runs and has memory for, shape ``(n_genes,)``.

    Args:
        encoding: Encoding of the search space.
        entry: Candidate as plain data.
        limits: Memory of the device that the space was narrowed for, if it was.

    Raises:
        CandidateError: If the candidate is not in the space.
        DeviceError: If the device does not run it or has no memory for it.
    """
    space = encoding.space
    try:
        genomes = encoding.encode([candidate_from(entry, space)])
    except CandidateError:
        if getattr(space, "device", None) is None:
            raise
        given = candidate_from(entry, space.whole)  # which the device may run, or not for a reason that can be told
        genomes = encoding.encode(candidates_run(space.device, space, [given]))
    for limit in limits:
        if (value := float(limit.metric(genomes)[0])) > limit.bound:
            raise DeviceError(
                f"{limit.metric.name} is {value:.0f}, but {space.device.name} has {limit.bound:.0f} bytes; take a "
                "smaller network, or another device"
            )
    return np.asarray(genomes[0], np.int16)


def load_start(path: Path, space: Space | None) -> MLPPredictor:
    """Load a predictor as the starting point of transfer learning.

    Raises:
        RunError: If the file is not an MLP predictor.
    """
    predictor = load_predictor(path, space)
    if not isinstance(predictor, MLPPredictor):
        raise RunError(f"{path}: is a {type(predictor).__name__}; transfer needs an MLP: APQ's, once-for-all's or ours")
    return predictor


def read_pairs(path: Path, space: Space, *, column: str | None = None, percent: bool = False) -> tuple[Pairs, bool]:
    """Read pairs of candidates and measurements; a candidate may occur several times.

    Args:
        path: Path of a CSV file; see ``entries_of`` for its columns.
        space: Search space of the candidates.
        column: Column with the measurements, by default ``accuracy`` or ``loss``. It holds losses in nats if its name
            contains "loss" in any case, otherwise accuracies.
        percent: Whether accuracies are percentages rather than fractions.

    Returns:
        Pairs, and whether their target is a loss.

    Raises:
        RunError: If the column is missing, a value is out of range (the message names the row), or there are too few
            pairs.
        CandidateError: If a candidate is not in the space; the message names the row.
    """
    if path.suffix.lower() != ".csv":
        raise RunError(f"{path}: pairs are read from a .csv; give one with a column 'accuracy' or 'loss'")
    frame = read_sheet(path, RunError)
    names = [column] if column is not None else [name for name in ("accuracy", "loss") if name in frame]
    if len(names) != 1 or names[0] not in frame:
        wanted = repr(column) if column is not None else "'accuracy' or 'loss'"
        raise RunError(f"{path}: needs one column {wanted}, has {list(frame.columns)}; --column NAME takes another one")
    (name,) = names
    is_loss = "loss" in name.lower()
    if is_loss and percent:
        raise RunError(f"{path}: {name} is a loss in nats, --percent is for accuracies; leave it out")
    target = numbers_in(frame, name, path, RunError) / (100 if percent else 1)
    _check_target(path, frame, name, target, is_loss=is_loss, percent=percent)
    if len(target) < FEWEST:
        raise RunError(f"{path}: has {len(target)} pairs; give at least {FEWEST}")
    encoding, genomes = encoding_of(space), []
    entries = entries_of(frame, path, space)
    for row, entry in zip(frame.index, entries, strict=True):
        try:
            genomes.append(encoding.encode([candidate_from(entry, space)])[0])
        except CandidateError as error:  # noqa: PERF203
            raise CandidateError(f"{path}: row {row}: {str(error).removeprefix('candidate 0: ')}") from None
    pairs = Pairs(np.array(genomes), target)
    if has_network(encoding.space):
        check_macs(path, frame, encoding, entries, pairs.genomes)
    if (n := n_networks(pairs)) < FEWEST:
        raise RunError(f"{path}: its {len(target)} pairs are of {n} candidates; give at least {FEWEST} different ones")
    return pairs, is_loss


def _check_target(path: Path, frame: pd.DataFrame, name: str, target: Floats, *, is_loss: bool, percent: bool) -> None:
    """Refuse measurements outside of the range of losses or accuracies."""
    good = (target > 0) if is_loss else (target > 0) & (target <= 1)
    if good.all():
        return
    place = int(np.argmin(good))
    said = f"{path}: row {frame.index[place]}: {name} is {frame[name].iloc[place]}"
    if is_loss:
        raise RunError(f"{said}; a loss is above 0")
    if not percent and (target > 0).all() and (target <= 100).all():
        raise RunError(f"{said}; an accuracy is a fraction of 1, these look like percentages: give --percent")
    raise RunError(f"{said}; an accuracy is above 0 and at most {100 if percent else 1}")


def describe_constant(encoding: Any, genomes: Genomes, n: int = 5) -> str:
    """Warning that names the choices that never vary among measured candidates; empty if all vary.

    Args:
        encoding: Encoding of the search space.
        genomes: Genomes of the measured candidates, shape ``(k, n_genes)``.
        n: Maximum number of choices to name.
    """
    active = encoding.active_genes(genomes)
    alone = []
    for gene, name in enumerate(encoding.names):
        seen = np.unique(genomes[active[:, gene], gene])
        if encoding.n_choices[gene] > 1 and len(seen) <= 1:
            alone.append(f"{name} ({encoding.choices[gene][seen[0]] if len(seen) else 'always off'})")
    if not alone:
        return ""
    shown = ", ".join(alone[:n]) + (", ..." if len(alone) > n else "")
    told = f"{len(alone)} of {len(encoding.names)} choices never vary in the pairs"
    return f"{told}, so nothing is learned about them: {shown}"
