"""Rules of a fair search, and of comparisons (Blalock 2020), that results kept or not, checked against the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.verdict import State
from apq_tune.studies.rules import CONTROLS, MANY_CLASSES, SEEDS

SPREAD = "The spread over seeds is given"


class Rule(NamedTuple):
    """A rule, whether it was kept, and the facts that show it."""

    state: State
    title: str
    facts: str


def rules_of(facts: ReportFacts) -> tuple[Rule, ...]:
    """Rules with the facts of these results."""
    checks = (
        *(_test_images, _choice, _training, _evaluations, _budget, _tickets, _limits),
        *(_ratios, _seeds, _controls, _top5, _digests),
    )
    return tuple(rule for check in checks if (rule := check(facts)) is not None)


def _digests(facts: ReportFacts) -> Rule:  # noqa: ARG001 - a file with another digest has been refused
    said = "every file that this page was read from had its recorded SHA-256 digest"
    return Rule("good", "Results are what was written", said)


def _test_images(facts: ReportFacts) -> Rule:
    table = facts.evaluated
    in_full = table["stage"].str.startswith("trained in full")
    early = int(table.loc[~in_full, "test_accuracy"].notna().sum())
    scored = int(table.loc[in_full, "test_accuracy"].notna().sum())
    repeated = int(table.loc[in_full, "candidate_json"].duplicated().sum())
    others = int((~in_full).sum())
    said = (
        f"{scored} networks were scored on test images, after their training in full; of the other {others:,} "
        f"evaluations {early or 'none'} has a test score"
    )
    if repeated:
        said += f"; {repeated} networks were scored more than once"
    return Rule("good" if not early and not repeated else "bad", "Test images were used once, at the end", said)


def _choice(facts: ReportFacts) -> Rule | None:
    chosen = facts.chosen
    if chosen is None:
        return None
    table = facts.networks[facts.networks["feasible"]]
    least = float(table["search_loss"].min())
    kept = float(chosen["search_loss"]) <= least
    by_test = table.loc[table["test_accuracy"].idxmax()]
    said = f"{chosen['name']} has the least loss on search images of the {len(table)} networks that fit"
    if float(by_test["test_accuracy"]) > float(chosen["test_accuracy"]):
        said += f"; by accuracy on test images it would have been {by_test['name']}"
    return Rule(
        "good" if kept else "bad",
        "Search images alone decided",
        said if kept else f"{chosen['name']} does not have the least loss on search images of those that fit",
    )


def _training(facts: ReportFacts) -> Rule:
    training = {name: value for name, value in facts.training.items() if value not in (None, False, 0.0, "none")}
    settings = ", ".join(f"{name} {value}" for name, value in training.items())
    return Rule(
        "good",
        "All networks were trained alike",
        f"{len(facts.networks)} networks have the training {facts.fidelity} of one stage ({settings}), with the same "
        "batches",
    )


def _evaluations(facts: ReportFacts) -> Rule | None:
    if not facts.evaluations:
        return None
    counts = facts.evaluations
    equal = len(set(counts.values())) == 1
    said = "searches " + ", ".join(f"{name} {n:,}" for name, n in counts.items())
    return Rule("good" if equal else "open", "Searches scored equally many candidates", said)


def _budget(facts: ReportFacts) -> Rule | None:
    if not facts.budget:
        return None
    made = {"proxy": facts.spend.get("fp32", 0) + facts.spend.get("proxy", 0)}
    made |= {name: facts.spend.get(name, 0) for name in ("short", "fine")}
    words = {"proxy": "evaluations in the supernets", "short": "short trainings", "fine": "evaluations on all images"}
    kept = all(made[name] <= most for name, most in facts.budget.items())
    said = ", ".join(f"{made[name]:,} of {most:,} {words[name]}" for name, most in facts.budget.items())
    return Rule("good" if kept else "bad", "The method stayed within the budget that every method has", said)


def _tickets(facts: ReportFacts) -> Rule | None:
    counts = facts.networks["role"].value_counts()
    shares = {role: int(counts[role]) for role in ("joint", "uniform", "staged") if counts.get(role)}
    if len(shares) < 2:
        return None
    equal = len(set(shares.values())) == 1
    said = ", ".join(f"{role} {n}" for role, n in shares.items())
    return Rule(
        "good" if equal else "open",
        "Equally many trained networks for each way of searching",
        said if equal else f"{said}: not equal, which favours the way with the most",
    )


def _limits(facts: ReportFacts) -> Rule | None:
    if not facts.constraints:
        return None
    chosen: dict[str, Any] | None = facts.chosen
    if chosen is None:
        return Rule("bad", "The chosen network keeps all limits", "none was chosen")
    kept = all(float(c.violation(np.array([float(chosen[c.metric.name])]))[0]) <= 0 for c in facts.constraints)
    sources = ", ".join(f"{c.metric.name} {facts.source(c.metric.name).label}" for c in facts.constraints)
    return Rule(
        "good" if kept else "bad", "The chosen network keeps all limits", f"by the costs of this page: {sources}"
    )


def _ratios(facts: ReportFacts) -> Rule | None:
    if facts.chosen is None:
        return None
    title, largest = "Compression and theoretical speed-up are both given", facts.costs.at_largest()
    absent = [name for name in ("weight_bytes", "macs") if name not in largest or name not in facts.networks]
    if absent:
        return Rule("open", title, f"the networks of this search space have no {' and no '.join(absent)}")
    (n_bytes, macs), own = (largest["weight_bytes"], largest["macs"]), facts.chosen
    said = (
        f"{own['name']} has {own['weight_bytes']:,.0f} bytes of weights, {n_bytes / own['weight_bytes']:.1f} times "
        f"fewer than the largest network at its most bits, and {own['macs']:,.0f} MACs, {macs / own['macs']:.1f} times "
        "fewer"
    )
    return Rule("good", title, said)


def _seeds(facts: ReportFacts) -> Rule | None:
    if facts.kind != "run":
        return None
    n = 1 + len(facts.other_seeds)
    if n >= SEEDS:
        return Rule("good", SPREAD, f"{n} seeds, see the verdict")
    said = (
        f"{n} seed{'s' * (n > 1)} in this folder and those beside it, {SEEDS} are needed; repeat it with other --seed"
    )
    return Rule("open", SPREAD, said)


def _controls(facts: ReportFacts) -> Rule | None:
    if facts.kind == "refinement":
        return None
    title, given = f"The controls {' and '.join(CONTROLS)} are compared, too", {one.name for one in facts.beside}
    absent = [name for name in CONTROLS if name not in given | {Path(facts.path).name}]
    if not absent:
        return Rule("good", title, "both have results in folders of the run")
    said = (
        f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there; repeat the command of the run with "
    )
    return Rule("open", title, said + " and with ".join(f"--method {name}" for name in absent))


def _top5(facts: ReportFacts) -> Rule | None:
    if facts.space.classes < MANY_CLASSES or facts.chosen is None:
        return None
    title, value = (
        "Accuracies are given of the likeliest class and of the five likeliest",
        facts.chosen.get("test_top5"),
    )
    if value is None or np.isnan(value):
        return Rule("open", title, "the results are older than test_top5")
    own = f"{100 * facts.chosen['test_accuracy']:.2f}% and {100 * value:.2f}% of the test images"
    return Rule("good", title, f"{facts.chosen['name']} has {own}")
