"""Drawings of networks as points: accuracy against each cost, and predicted against measured scores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from apq_tune.problem.metric import Metric
from apq_tune.report.limits import amount, breaks
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.intervals import Interval, accuracy_interval
from apq_tune.report.page.scales import PixelScale, Tick, scale_of
from apq_tune.report.page.verdict import percent, with_interval

SIZES = {"wide": (760, 430), "narrow": (360, 360)}
"""Width and height of drawings in pixels, for wide screens and for telephones."""

SHAPES = {
    "joint": "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0-6 0Z",
    "uniform": "M0-7L6.5 5H-6.5Z",
    "staged": "M0-7.5L7.5 0L0 7.5L-7.5 0Z",
    "largest": "M-5.5-5.5H5.5V5.5H-5.5Z",
    "raised": "M0-8L2.4-2.6L8 0L2.4 2.6L0 8L-2.4 2.6L-8 0L-2.4-2.6Z",
    "other": "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0-6 0Z",
    "beside": "M-2-6.5H2V-2H6.5V2H2V6.5H-2V2H-6.5V-2H-2Z",
}
"""Outlines of marks around the origin by role, as SVG paths, so that roles differ without colour."""

LEGEND = {
    "joint": "joint search",
    "uniform": "uniform bits",
    "staged": "staged search",
    "largest": "largest network",
    "raised": "more bits at no cost",
    "other": "the method",
    "beside": "chosen by another command",
}

PLACES = (
    *((9, -7, "start"), (-9, -7, "end"), (9, 15, "start"), (-9, 15, "end"), (0, -14, "middle"), (0, 24, "middle")),
    *((12, 4, "start"), (-12, 4, "end"), (10, -22, "start"), (-10, -22, "end"), (10, 30, "start"), (-10, 30, "end")),
)
"""Places of a label around its mark: offsets in pixels, and which end of the text is there."""

BELOW = 0.5
"""How far predicted points may lie below the intervals of trained networks to be drawn, as a share of their range."""

MOST_PREDICTED = 60
"""Largest number of predicted points of a drawing."""

LETTER = 6.3
"""Width of a letter of a label in pixels, on average."""

LONGEST_LABEL = 24


class Mark(NamedTuple):
    """Point of a drawing."""

    x: float
    y: float
    name: str
    role: str
    shape: str
    fits: bool
    chosen: bool
    tip: str
    low: float | None = None  # ends of the error bar in pixels
    high: float | None = None
    label: tuple[float, float, str] | None = None  # place of the name; ``None`` hides it


class Hollow(NamedTuple):
    """Predicted point of a drawing."""

    x: float
    y: float
    tip: str


class Line(NamedTuple):
    """Limit of a drawing: its position, the side beyond it, and its label."""

    x: float
    left: float
    width: float
    label: str
    anchor: str


class Drawing(NamedTuple):
    """Points on two axes."""

    key: str  # size for which it is drawn
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    marks: tuple[Mark, ...]
    hollow: tuple[Hollow, ...] = ()
    limits: tuple[Line, ...] = ()
    diagonal: tuple[float, float, float, float] | None = None
    title: str = ""


class Panel(NamedTuple):
    """Drawings of one cost in all sizes."""

    cost: str
    title: str
    drawings: tuple[Drawing, ...]
    predicted: tuple[int, int]  # numbers of predicted points that are drawn, and of all
    roles: tuple[str, ...]


def panels(facts: ReportFacts) -> tuple[Panel, ...]:
    """Accuracy on test images against each cost, constrained ones first."""
    if facts.networks.empty:
        return ()
    limited = [c.metric for c in facts.constraints]
    order = {metric.name: metric for metric in (*limited, facts.cost, *facts.costs.metrics.values())}
    return tuple(_panel(facts, metric) for metric in order.values())


def _panel(facts: ReportFacts, metric: Metric) -> Panel:
    rows = facts.networks.to_dict(orient="records")
    beside = [one for one in facts.beside if metric.name in one.costs]
    predicted = facts.evaluated[facts.evaluated["stage"] == "predicted front"]
    bounds = [c for c in facts.constraints if c.metric.name == metric.name]
    spans = [_span(float(row["test_accuracy"]), facts.n_test) for row in rows]
    spans += [_span(one.accuracy, facts.n_test) for one in beside]
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    shown = predicted[predicted["predicted_accuracy"] >= low - BELOW * (high - low)]
    shown = shown.iloc[np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MOST_PREDICTED)).round().astype(int))]
    xs = [float(row[metric.name]) for row in rows] + [one.costs[metric.name] for one in beside]
    xs += [c.bound for c in bounds] + shown[metric.name].tolist()
    ys = [low, high, *shown["predicted_accuracy"].tolist()]
    drawings = []
    for key, (width, height) in SIZES.items():
        left, right, top, bottom = 70.0, width - 14.0, 26.0, height - 46.0
        x = scale_of(xs, left, right)
        y = scale_of(ys, bottom, top, log=False)
        y = y._replace(high=min(y.high, 1.0 + 0.02 * (y.high - y.low)))
        marks = [_mark(facts, row, metric, x, y, span) for row, span in zip(rows, spans, strict=False)]
        for one, span in zip(beside, spans[len(rows) :], strict=True):
            tip = f"{one.name}/\n{one.what}\ntest accuracy {with_interval(one.accuracy, facts.n_test)}"
            at = x(one.costs[metric.name]), y(one.accuracy)
            low_high = (y(span.low), y(span.high)) if facts.n_test else (None, None)
            marks.append(Mark(*at, f"{one.name}/", "beside", SHAPES["beside"], one.feasible, False, tip, *low_high))
        unit = f" ({metric.unit})" if metric.unit else ""
        drawings.append(
            Drawing(
                key,
                width,
                height,
                left,
                right,
                top,
                bottom,
                x.ticks(9 if key == "wide" else 4),
                y.ticks(7, lambda value: f"{100 * value:.4g}%"),
                f"{metric.name}{unit}, {facts.source(metric.name).label}",
                "accuracy",
                _labelled(sorted(marks, key=lambda mark: mark.chosen), left, right, top, bottom),
                tuple(
                    Hollow(x(float(row[metric.name])), y(float(row["predicted_accuracy"])), _predicted_tip(row, metric))
                    for row in shown.to_dict(orient="records")
                ),
                tuple(_line(c, x, left, right) for c in bounds),
                title=f"Accuracy on test images against {metric.name}: "
                + "; ".join(m.tip.replace("\n", ", ") for m in marks if m.chosen),
            )
        )
    roles = [row["role"] for row in rows] + ["beside" for _ in beside]
    return Panel(
        metric.name, f"{metric.name}{unit}", tuple(drawings), (len(shown), len(predicted)), tuple(dict.fromkeys(roles))
    )


def _span(accuracy: float, n: int) -> Interval:
    return accuracy_interval(accuracy, n) if n else Interval(accuracy, accuracy)


def _mark(
    facts: ReportFacts, row: dict[Any, Any], metric: Metric, x: PixelScale, y: PixelScale, span: Interval
) -> Mark:
    accuracy = float(row["test_accuracy"])
    tips = [f"{row['name']}{' (chosen)' if row['chosen'] else ''}"]
    tips.append(f"test accuracy {with_interval(accuracy, facts.n_test)}")
    tips.append(f"search accuracy {percent(float(row['search_accuracy']))}, loss {float(row['search_loss']):.4f}")
    if math.isfinite(float(row.get("predicted_accuracy", math.nan))):
        tips.append(f"predicted accuracy {percent(float(row['predicted_accuracy']))}")
    named = {c.metric.name: c.metric for c in facts.constraints} | {metric.name: metric}
    tips += [f"{name} {amount(float(row[name]), one.unit)}" for name, one in named.items()]
    tips += [f"over the limit {c}" for c in facts.constraints if breaks(c, float(row[c.metric.name]))]
    tips.append(str(row["candidate"]))
    ends = (y(span.low), y(span.high)) if facts.n_test else (None, None)
    return Mark(
        x(float(row[metric.name])),
        y(accuracy),
        str(row["name"]),
        str(row["role"]),
        SHAPES[str(row["role"])],
        bool(row["feasible"]),
        bool(row["chosen"]),
        "\n".join(tips),
        *ends,
    )


def _predicted_tip(row: dict[Any, Any], metric: Metric) -> str:
    cost = amount(float(row[metric.name]), metric.unit)
    return (
        f"{row['name']}, not trained\npredicted accuracy {percent(float(row['predicted_accuracy']))}, loss "
        f"{float(row['predicted_loss']):.4f}\n{metric.name} {cost}"
    )


def _line(constraint: Any, x: PixelScale, left: float, right: float) -> Line:
    at = x(constraint.bound)
    beyond = (at, right - at) if constraint.sense == "<=" else (left, at - left)
    anchor = "end" if at > (left + right) / 2 else "start"
    label = f"limit {constraint.sense} {amount(constraint.bound, constraint.metric.unit)}"
    return Line(at, beyond[0], round(beyond[1], 1), label, anchor)


def _labelled(marks: list[Mark], left: float, right: float, top: float, bottom: float) -> tuple[Mark, ...]:
    """Place names where they overlap neither other names nor marks; the chosen network comes first."""
    taken = [(m.x - r, m.y - r, m.x + r, m.y + r) for m in marks for r in [11 if m.chosen else 6]]
    places: dict[int, tuple[float, float, str]] = {}
    for number in sorted(range(len(marks)), key=lambda i: not marks[i].chosen):
        mark = marks[number]
        length = min(len(mark.name) + (9 if mark.chosen else 0), LONGEST_LABEL + 9) * LETTER
        for dx, dy, anchor in PLACES:
            x, y = mark.x + dx, mark.y + dy
            start = {"start": x, "end": x - length, "middle": x - length / 2}[anchor]
            box = (start, y - 10, start + length, y + 3)
            inside = left < box[0] and box[2] < right and top < box[1] and box[3] < bottom
            others = [other for place, other in enumerate(taken) if place != number]
            if inside and not any(_overlap(box, other) for other in others):
                places[number] = (round(x, 1), round(y, 1), anchor)
                taken.append(box)
                break
    return tuple(mark._replace(label=places.get(number)) for number, mark in enumerate(marks))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def agreement(facts: ReportFacts) -> tuple[Drawing, ...]:
    """Predicted against measured scores of trained networks, for the section on trust; empty without predictions."""
    table, losses = facts.networks, False
    if not np.isfinite(table["predicted_accuracy"].to_numpy(np.float64)).any():
        table, losses = (
            facts.evaluated[facts.evaluated["predicted_loss"].notna() & facts.evaluated["loss"].notna()],
            True,
        )
    if table.empty:
        return ()
    names = ("predicted_loss", "loss") if losses else ("predicted_accuracy", "search_accuracy")
    predicted, measured = (table[name].to_numpy(np.float64) for name in names)

    def shown(value: float) -> str:
        return f"{value:.3g}" if losses else f"{100 * value:.4g}%"

    drawings = []
    for key, size in SIZES.items():
        width, height = min(460, size[0]), 330
        left, right, top, bottom = 74.0, width - 14.0, 14.0, height - 46.0
        x = scale_of([*predicted, *measured], left, right, log=losses)
        y = x._replace(start=bottom, stop=top)
        marks = []
        for row, p, m in zip(table.to_dict(orient="records"), predicted, measured, strict=True):
            role = str(row.get("role", "joint"))
            tip = f"{row['name']}\npredicted {shown(p)}, measured {shown(m)}"
            own = bool(row.get("chosen", False))
            marks.append(Mark(x(p), y(m), str(row["name"]), role, SHAPES[role], True, own, tip))
        what = "loss on search images" if losses else "accuracy on search images"
        ends = (x(x.low), y(x.low), x(x.high), y(x.high))
        titles = f"predicted {what}", f"measured {what}"
        named = tuple(marks) if losses else _labelled(marks, left, right, top, bottom)
        ticks = x.ticks(6 if key == "wide" else 4, shown), y.ticks(6, shown)
        alt = f"Predicted against measured {what} of {len(table)} trainings"
        drawings.append(
            Drawing(key, width, height, left, right, top, bottom, *ticks, *titles, named, diagonal=ends, title=alt)
        )
    return tuple(drawings)
