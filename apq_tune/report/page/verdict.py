"""The first lines of a report: whether the network fits, how accurate it is, and whether searching jointly paid off."""

from __future__ import annotations

import json
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from apq_tune.report.limits import amount, breaks, share
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.intervals import Interval, accuracy_interval, difference_interval

State = Literal["good", "bad", "open"]
"""Whether a statement is in favour, against, or undecided."""

WHAT = {
    "uniform": "best searched network with one bit-width",
    "staged": "architecture first, then its bits",
    "largest": "largest network, one bit-width",
    "joint": "found by joint search",
    "raised": "the best of the others, with more bits",
    "other": "found by the method",
}
"""Descriptions of networks by their role, those to compare with first."""


EQUAL = 1e-9
"""Difference of accuracies up to which they are equal."""

UNDECIDED = "Whether searching jointly was worth it here is undecided"


class Statement(NamedTuple):
    """One sentence of the verdict."""

    state: State
    text: str


class Comparison(NamedTuple):
    """The chosen network against another one.

    Attributes:
        name: Name of the other network.
        what: How it was found.
        fits: Whether it keeps all limits.
        accuracy: Its accuracy on test images, and its interval.
        difference: Accuracy of the chosen network minus that of the other one, and its interval.
        costs: Its constrained costs, and their shares of the limits.
    """

    name: str
    what: str
    fits: bool
    accuracy: tuple[str, str]
    difference: tuple[str, str]
    costs: tuple[tuple[str, str], ...]


class Verdict(NamedTuple):
    """First section of a report.

    Attributes:
        fits: Statement on the limits.
        accuracy: Statement on the accuracy of the chosen network; ``None`` without one.
        joint: Statement on joint search.
        notes: What limits these statements.
        comparisons: The chosen network against the others.
    """

    fits: Statement
    accuracy: Statement | None
    joint: Statement
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage, as ``99.6%``."""
    return f"{100 * value:.{digits}f}%"


def points(value: float) -> str:
    """A difference of accuracies in points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def range_of(interval: Interval) -> str:
    """An interval of differences in points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def with_interval(accuracy: float, n: int) -> str:
    """An accuracy with its 95% interval, as far as the number of images is known."""
    if not n:
        return percent(accuracy)
    low, high = accuracy_interval(accuracy, n)
    return f"{percent(accuracy)} ({percent(low)} to {percent(high)})"


def verdict_of(facts: ReportFacts) -> Verdict:
    """What the results come to."""
    chosen = facts.chosen
    return Verdict(
        _fits(facts, chosen),
        None if chosen is None else _accuracy(facts, chosen),
        joint_statement(facts),
        _notes(facts),
        () if chosen is None else _comparisons(facts, chosen),
    )


def _fits(facts: ReportFacts, chosen: dict[str, Any] | None) -> Statement:
    n = len(facts.networks)
    limits = " and ".join(map(str, facts.constraints))
    if chosen is None:
        return Statement("bad", f"Does not fit: none of the {n} trained networks keeps {limits}. Relax a limit.")
    if not facts.constraints:
        return Statement("open", f"{chosen['name']} was chosen without any limit.")
    said = []
    for constraint in facts.constraints:
        value = float(chosen[constraint.metric.name])
        used = f"{share(constraint, value)} of the limit" if constraint.bound else "the limit is 0"
        said.append(f"{constraint.metric.name} {amount(value, constraint.metric.unit)}, {used}")
    broken = any(breaks(c, float(chosen[c.metric.name])) for c in facts.constraints)
    return Statement("bad" if broken else "good", f"{chosen['name']} fits: {'; '.join(said)}.")


def _accuracy(facts: ReportFacts, chosen: dict[str, Any]) -> Statement:
    accuracy = float(chosen["test_accuracy"])
    if not facts.n_test:
        return Statement("open", f"{percent(accuracy)} of the test images, whose number the run has not recorded.")
    low, high = accuracy_interval(accuracy, facts.n_test)
    right = round(accuracy * facts.n_test)
    return Statement(
        "open",
        f"{percent(accuracy)} of the test images ({right:,} of {facts.n_test:,}; 95% interval {percent(low)} to "
        f"{percent(high)}), after {facts.fidelity}.{_over_seeds(facts, accuracy)}",
    )


def _over_seeds(facts: ReportFacts, accuracy: float) -> str:
    """Spread over the runs beside that differ by their seeds alone; empty without any."""
    if not facts.other_seeds:
        return ""
    every = [accuracy, *(other.accuracy for other in facts.other_seeds)]
    names = ", ".join(f"{other.name} (seed {other.seed})" for other in facts.other_seeds)
    return (
        f" Over {len(every)} seeds, with {names}: {percent(min(every))} to {percent(max(every))}, mean "
        f"{percent(fmean(every))}, standard deviation {100 * stdev(every):.1f} points."
    )


def joint_statement(facts: ReportFacts) -> Statement:
    """Whether searching jointly was worth it here.

    It was if the best jointly found network that fits is more accurate on test images than each baseline within the
    same limits, by more than the 95% interval of the difference. It was not if a baseline is more accurate by more than
    that, or is at least as accurate and needs no more of any limit. All else is undecided. The jointly found network is
    the one with the least loss on search images.
    """
    table = facts.networks[facts.networks["feasible"]]
    joint = table[table["role"] == "joint"].sort_values("search_loss", kind="stable").to_dict(orient="records")
    rivals = table[table["role"].isin(["uniform", "staged"])].to_dict(orient="records")
    if facts.kind == "method":
        return Statement("open", "Whether searching jointly is worth it is not a question of one method alone.")
    if not joint:
        return Statement("bad", "Searching jointly was not worth it here: none of its trained networks fits.")
    best = joint[0]
    twins = [n for n, c in facts.rivals.items() if c == best["candidate_json"] and n not in {r["name"] for r in rivals}]
    if twins:
        return Statement(
            "bad", f"Searching jointly was not worth it here: the {twins[0]} search found the same network."
        )
    if not rivals:
        none = [name for name, candidate in facts.rivals.items() if candidate is None]
        if none:
            return Statement("good", f"Searching jointly was worth it here: no {' or '.join(none)} network fits.")
        return Statement("open", f"{UNDECIDED}: no baseline that fits was trained.")
    if not facts.n_test:
        return Statement("open", f"{UNDECIDED}: the number of test images is unknown.")
    gains = [float(best["test_accuracy"]) - float(row["test_accuracy"]) for row in rivals]
    intervals = [_interval(best, row, facts.n_test) for row in rivals]
    said = [_against(best, row, facts.n_test) for row in rivals]
    hardest = min(range(len(rivals)), key=lambda i: gains[i])
    if all(interval.low > 0 for interval in intervals):
        return Statement("good", f"Searching jointly was worth it here: {said[hardest]}.")
    for i in sorted(range(len(rivals)), key=lambda i: gains[i]):
        saved = _saved(facts, best, rivals[i])
        if intervals[i].high < 0 or (gains[i] <= EQUAL and not saved):
            price = "" if saved else ", and costs no less"
            return Statement("bad", f"Searching jointly was not worth it here: {said[i]}{price}.")
    if gains[hardest] <= EQUAL:
        saved = _saved(facts, best, rivals[hardest])
        return Statement("open", f"{UNDECIDED}: {said[hardest]}, but costs less ({saved}).")
    unclear = min(range(len(rivals)), key=lambda i: intervals[i].low)
    return Statement("open", f"{UNDECIDED}: {said[unclear]}, which includes no difference.")


def _saved(facts: ReportFacts, one: dict[str, Any], other: dict[str, Any]) -> str:
    """Limited costs in which one network has more room than the other, in words; empty if there are none."""
    parts = []
    for c in facts.constraints:
        mine, theirs = float(one[c.metric.name]), float(other[c.metric.name])
        if mine < theirs if c.sense == "<=" else mine > theirs:
            parts.append(f"{c.metric.name} {amount(mine, c.metric.unit)} against {amount(theirs, c.metric.unit)}")
    return ", ".join(parts)


def _interval(one: dict[str, Any], other: dict[str, Any], n: int) -> Interval:
    return difference_interval(float(one["test_accuracy"]), float(other["test_accuracy"]), n)


def _against(best: dict[str, Any], rival: dict[str, Any], n: int) -> str:
    gain = float(best["test_accuracy"]) - float(rival["test_accuracy"])
    how = "as accurate as" if abs(gain) < 1e-9 else "more accurate than" if gain > 0 else "less accurate than"
    return (
        f"{best['name']} is {how} {_called(rival)} within the same limits ({percent(best['test_accuracy'])} and "
        f"{percent(rival['test_accuracy'])} of the test images; difference {points(gain)} points, 95% interval "
        f"{range_of(_interval(best, rival, n))})"
    )


def _called(row: dict[str, Any]) -> str:
    """Name of a network, with its role if the name does not tell."""
    return str(row["name"]) if str(row["name"]).startswith(row["role"]) else f"{row['name']} ({row['role']})"


def _notes(facts: ReportFacts) -> tuple[str, ...]:
    notes = []
    if facts.n_test:
        notes.append(
            "Intervals of accuracies are binomial (Wilson). Those of differences are conservative: answers to single "
            "images are not kept, so they hold even if the two networks miss as few images in common as possible "
            "(Newcombe's paired interval at the least correlation)."
        )
    counts = facts.networks[facts.networks["feasible"]]["role"].value_counts()
    rivals = [f"{role} {counts[role]}" for role in ("uniform", "staged") if counts.get(role)]
    if counts.get("joint") and rivals:
        notes.append(
            f"Joint search has {counts['joint']} trained networks that fit, {', '.join(rivals)}; the best of more "
            "networks has better chances."
        )
    if facts.kind == "run" and not any(one.name == "uniform-8" for one in facts.beside):
        notes.append(
            "The largest network at 8 bits was not searched for. The best searched one is not here: the command of "
            "this run with --method uniform-8 adds it to this folder, if any network of 8 bits keeps the limits."
        )
    if len(facts.networks) and not facts.other_seeds:
        notes.append(
            "Every network was trained once, with one seed: how much accuracies vary over seeds is not known from this "
            "folder. apq-tune joint-vs-staged compares methods at equal spend over several seeds."
        )
    return tuple(notes)


def _comparisons(facts: ReportFacts, chosen: dict[str, Any]) -> tuple[Comparison, ...]:
    """The chosen network against its rivals, those that other commands have chosen, and all other networks."""
    found = []
    order = list(WHAT)
    rows = sorted(facts.networks.to_dict(orient="records"), key=lambda row: order.index(row["role"]))
    for row in rows:
        if row["name"] == chosen["name"] or row["role"] == "other":
            continue
        bits = bits_of(str(row["candidate_json"]))
        what = WHAT[row["role"]] + (f" ({bits} bits)" if bits and row["role"] in ("uniform", "largest") else "")
        found.append(_comparison(facts, chosen, str(row["name"]), what, bool(row["feasible"]), row))
    beside = [
        _comparison(
            facts,
            chosen,
            f"{other.name}/",
            other.what,
            other.feasible,
            {"test_accuracy": other.accuracy, **other.costs},
        )
        for other in facts.beside
    ]
    rivals = sum(row["role"] in ("uniform", "staged") and row["name"] != chosen["name"] for row in rows)
    return (*found[:rivals], *beside, *found[rivals:])


def bits_of(candidate: str) -> int | None:
    """The bit-width of all searched layers of a candidate in JSON; ``None`` if they differ or none is searched."""
    lists = [values for name, values in json.loads(candidate).items() if name.endswith("_bits")]
    found = {bits for values in lists for bits in values}
    return found.pop() if len(found) == 1 else None


def _comparison(
    facts: ReportFacts, chosen: dict[str, Any], name: str, what: str, fits: bool, row: dict[Any, Any]
) -> Comparison:
    accuracy, n = float(row["test_accuracy"]), facts.n_test
    gain = float(chosen["test_accuracy"]) - accuracy
    low, high = accuracy_interval(accuracy, n) if n else (accuracy, accuracy)
    costs = tuple(
        (amount(float(row[c.metric.name]), c.metric.unit), share(c, float(row[c.metric.name])))
        for c in facts.constraints
    )
    return Comparison(
        name,
        what,
        fits,
        (percent(accuracy), f"{percent(low)} to {percent(high)}" if n else ""),
        (points(gain), range_of(_interval(chosen, row, n)) if n else ""),
        costs,
    )
