"""Measured cost tables: latency of every operation of a search space, measured or predicted, corrected by networks.

Runtimes have no kernels below 8 bits: weights of fewer bits are unpacked when a file is loaded, so that every bit-width
has the latency of 8 bits, and activations of fewer bits are limited to their levels after the operation, which adds
the time of a ``clip``, or of a ``requantize`` where the tensor is stored at other bits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.cost.rows import CONV, CONV_KEY, FIXED, FREE, KEYS
from apq_tune.deploy.calibration import Correction, calibrate
from apq_tune.deploy.op_models import PRECISIONS, has_model
from apq_tune.deploy.op_regression import RegressionError, fill_in
from apq_tune.deploy.profile_folder import Collected
from apq_tune.deploy.profile_ops import FULL_BITS, RUN, PlacedLayer, ProfileOp, placed_layers
from apq_tune.deploy.profile_plan import all_ops
from apq_tune.network.layer import Layer
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.files import to_json, write_atomically

METRICS = {"int8": "latency_ms", "fp32": "fp32_latency_ms"}
"""Column of each precision; networks of a search space are integer networks."""

MILLISECONDS = 1e3

COLUMNS = ("op", "name", *CONV_KEY, "resolution", *METRICS.values(), "source")

MEASURED, PREDICTED = "measured", "predicted"

DRIFT = 0.05
"""Relative change of the speed of a machine during a profile from which it is told."""


class ProfiledPrecision(NamedTuple):
    """Latency of all operations at one precision.

    Attributes:
        latency: Latency of every operation, alone, in seconds.
        measured: Operations that were measured; the others are predicted.
        error: Cross-validated error of the regression; ``None`` if nothing is predicted.
        correction: Correction by whole networks; ``None`` if too few were measured.
    """

    latency: dict[ProfileOp, float]
    measured: frozenset[ProfileOp]
    error: RegressionError | None
    correction: Correction | None

    def in_network(self, op: ProfileOp) -> float:
        """Latency of an operation as part of a network, in seconds."""
        alone = self.latency[op]
        return alone if self.correction is None else self.correction.apply(op, alone)


def latencies(collected: Collected, precision: str) -> ProfiledPrecision:
    """Latency of all operations of a search space.

    Raises:
        TableError: If too little was measured to predict what is missing.
    """
    timings = collected.timings
    own = [item for item in collected.items if item.precision == precision]
    known = {
        item.target: timings[item.key].median
        for item in own
        if isinstance(item.target, ProfileOp) and item.key in timings
    }
    overhead = known.get(RUN, 0.0)
    for item in own:  # a model runs once and holds several instances
        if isinstance(item.target, ProfileOp) and item.target != RUN and item.target in known:
            known[item.target] = max(known[item.target] - overhead / item.n_instances, 0.05 * known[item.target])
    wanted = [op for op in all_ops(collected.space) if has_model(op, precision)]
    missing = [op for op in wanted if op not in known]
    filled, error = fill_in(known, missing, precision) if missing else ({}, None)
    latency = {**known, **filled}
    networks = [item for item in own if not isinstance(item.target, ProfileOp) and item.key in timings]
    parts = [
        [op for op in item.target.ops if op in latency] for item in networks if not isinstance(item.target, ProfileOp)
    ]
    correction = calibrate(parts, [timings[item.key].median for item in networks], latency)
    return ProfiledPrecision(latency, frozenset(known), error, correction)


def write_table(collected: Collected, out: Path) -> list[str]:
    """Write the cost table, and beside it a JSON file with all statistics.

    Returns:
        Lines for people: what was measured, how well the rest is predicted, and how well sums agree with networks.

    Raises:
        TableError: If too little was measured.
        RunError: If a file cannot be written.
    """
    found = {precision: latencies(collected, precision) for precision in PRECISIONS}
    lines = summary(collected, found)
    text = io.StringIO()
    for line in lines:
        text.write(f"# {line}\n")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table_rows(collected.space, found))
    write_atomically(out.with_suffix(".profile.json"), to_json(statistics(collected, found)))
    write_atomically(out, text.getvalue())
    return lines


def table_rows(space: NetworkSpace, found: Mapping[str, ProfiledPrecision]) -> list[dict[str, Any]]:
    """Rows of the table by column.

    If layers of equal shape and bits differ otherwise, as by their activation function, the slowest counts.
    """
    overhead = _row(found, (RUN,), FULL_BITS) | {"op": FIXED, "name": RUN.kind}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {
        (FIXED, RUN.kind, size): overhead | {"resolution": size} for size in space.network.sizes
    }
    for placed in placed_layers(space.network):
        layer = placed.layer
        if layer.kind in FREE:
            continue
        bits = FULL_BITS if layer.op is None else min(int(layer.op.w_bits), int(layer.op.a_bits))
        row = _row(found, placed.ops, bits) | _place(placed)
        key = tuple(row.get(name, "") for name in COLUMNS[: COLUMNS.index("resolution") + 1])
        before = rows.setdefault(key, row)
        rows[key] = before | {name: max(before[name], row[name]) for name in METRICS.values()}
    return [_in_milliseconds(row) for row in rows.values()]


def _place(placed: PlacedLayer) -> dict[str, Any]:
    """Key columns of the row of a layer."""
    layer: Layer = placed.layer
    shape = {} if layer.op is None else {column: int(getattr(layer.op, column)) for column in CONV_KEY}
    if placed.fixed:
        return {"op": FIXED, "name": layer.name, **shape, "resolution": placed.resolution}
    if layer.op is None:
        (op,) = placed.ops
        return {"op": layer.kind, **{column: getattr(op, column) for column in KEYS[layer.kind]}}
    return {"op": CONV, **shape}


def _row(found: Mapping[str, ProfiledPrecision], ops: tuple[ProfileOp, ...], bits: int) -> dict[str, Any]:
    """Metrics and source of a row, in seconds."""
    row: dict[str, Any] = {}
    for precision, own in found.items():
        row[METRICS[precision]] = sum(own.in_network(op) for op in ops if op in own.latency)
    measured = all(op in found["int8"].measured for op in ops)
    row["source"] = (MEASURED if measured else PREDICTED) + ("" if bits >= FULL_BITS else f" at {FULL_BITS} bits")
    return row


def _in_milliseconds(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: f"{MILLISECONDS * row[name]:.6g}" for name in METRICS.values()}


def summary(collected: Collected, found: Mapping[str, ProfiledPrecision]) -> list[str]:
    """Lines for people, which the table begins with."""
    where, n_threads = collected.where, collected.options["threads"]
    lines = [
        f"{collected.space.name} on {where.get('processor', 'an unknown processor')}, onnxruntime "
        f"{where.get('runtime', '?')}, {n_threads} thread{'s' if n_threads > 1 else ''}; "
        f"apq-tune {metadata.version('apq-tune')}"
    ]
    for precision, own in found.items():
        lines += _of_precision(collected, precision, own)
    spreads = list(collected.timings.values())
    noise = sorted(spread.iqr / spread.median for spread in spreads)[len(spreads) // 2]
    outliers, total = sum(spread.n_outliers for spread in spreads), sum(spread.n for spread in spreads)
    lines.append(
        f"spread: interquartile range {noise:.1%} of the median in the median op; {outliers} of {total} timings were "
        "outliers, which do not change the medians"
    )
    if abs(collected.drift - 1) > DRIFT:
        became = "slower" if collected.drift > 1 else "faster"
        lines.append(
            f"the machine became {abs(collected.drift - 1):.0%} {became} while it was measured; measure again when "
            "nothing else runs on it"
        )
    both = found["int8"].measured & found["fp32"].measured - {RUN}
    slower = sum(found["int8"].latency[op] > found["fp32"].latency[op] for op in both)
    lines.append(f"int8 is slower than fp32 in {slower} of {len(both)} ops")
    return lines + collected.notes


def _of_precision(collected: Collected, precision: str, own: ProfiledPrecision) -> list[str]:
    n_ops, n_measured = len(own.latency), len(own.measured)
    said = f"{precision}: {n_measured} of {n_ops} ops measured"
    if own.error is not None:
        said += (
            f", {n_ops - n_measured} predicted with a relative error of {own.error.median:.1%} in the median and "
            f"{own.error.p90:.1%} in the worst tenth (cross-validated)"
        )
    lines = [said]
    if own.correction is None:
        n = sum(key.startswith(f"{precision}-network") for key in collected.timings)
        lines.append(f"{precision}: {n} whole networks measured, too few to correct the sums of ops")
    else:
        fix = own.correction
        lines.append(
            f"{precision}: sums of ops against {fix.n_networks} measured networks: Spearman {fix.before.spearman:.3f}, "
            f"median error {fix.before.error:.1%}; corrected, on networks held out: Spearman {fix.after.spearman:.3f}, "
            f"median error {fix.after.error:.1%}" + ("" if fix.used else "; the correction is not used")
        )
    return lines


def statistics(collected: Collected, found: Mapping[str, ProfiledPrecision]) -> dict[str, Any]:
    """All statistics as plain data; times are in seconds."""
    ops = [
        {
            "precision": precision,
            **op._asdict(),
            "seconds": own.latency[op],
            "in_network": own.in_network(op),
            "source": MEASURED if op in own.measured else PREDICTED,
        }
        for precision, own in found.items()
        for op in own.latency
    ]
    return {
        "apq_tune": metadata.version("apq-tune"),
        "space": collected.space.name,
        "options": collected.options,
        "where": collected.where,
        "seconds": collected.seconds,
        "drift": collected.drift,
        "summary": summary(collected, found),
        "regression": {p: None if own.error is None else own.error._asdict() for p, own in found.items()},
        "correction": {p: _plain(own.correction) for p, own in found.items()},
        "timings": {key: spread._asdict() for key, spread in collected.timings.items()},
        "ops": ops,
    }


def _plain(correction: Correction | None) -> dict[str, Any] | None:
    if correction is None:
        return None
    agreements = {name: getattr(correction, name)._asdict() for name in ("before", "after")}
    return correction._asdict() | agreements
