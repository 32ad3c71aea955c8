"""Comparisons of samplers: curves against enumeration, tests against hand-made numbers, the command end to end."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import mannwhitneyu

from apq_tune import Constraint, FunctionMetric, NetworkEncoding, Objective, Problem, ProblemError
from apq_tune.cli import cli
from apq_tune.cli.compare import SAMPLERS
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.problem.lookup import load_lookup
from apq_tune.problem.pareto import Yardstick
from apq_tune.report.compare import medians_table, wins_table
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.studies.compare import (
    SAMPLER_NAMES,
    CompareTask,
    Contest,
    Watched,
    curves_frame,
    holm,
    medians_frame,
    pairwise_tests,
    recommended,
    run_entry,
    yardstick_of,
)

RIVALS = [name for name in SAMPLER_NAMES if name.startswith("optuna-")]


def trade_off(encoding: NetworkEncoding, share: float = 0.5) -> Problem:
    """Opposed objectives, and a limit."""
    cost, size = bit_ops(encoding), weight_bytes(encoding)
    low, high = cost.reachable()
    return Problem(
        encoding, [Objective(size, "maximize"), Objective(cost)], [Constraint(cost, low + share * (high - low))]
    )


class Counting(Problem):
    """Remembers what it was asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.encoding, problem.objectives, problem.constraints)
        self.asked: list[np.ndarray] = []

    def evaluate(self, genomes):
        self.asked += list(genomes)
        return super().evaluate(genomes)


@pytest.mark.parametrize("sampler", [name for name in SAMPLER_NAMES if name != "milp"])
def test_every_sampler_is_counted_by_distinct_canonical_candidates_and_repeats(
    tiny: NetworkEncoding, sampler: str
) -> None:
    from apq_tune.hosts.optuna_studies import run_study

    n = {"optuna-gp": 12, "ddpg": 24}.get(sampler, 40)  # they learn from the eleventh and the 21st on
    contest = Contest(trade_off(tiny), n)
    result = run_entry(CompareTask(sampler, 3), contest).metrics
    assert result == run_entry(CompareTask(sampler, 3), contest).metrics
    assert result != run_entry(CompareTask(sampler, 4), contest).metrics
    assert result["n_evaluations"] == n <= result["trials"]
    assert result["counts"] == sorted(result["counts"])
    assert 1 <= result["counts"][0] <= result["counts"][-1] <= n
    if sampler in RIVALS:
        problem = Counting(contest.problem)
        run_study(problem, sampler, n_evaluations=n, seed=3)
        genomes = np.array(problem.asked)
        assert len(np.unique(genomes, axis=0)) == len(genomes) == n
        assert (tiny.canonicalise(genomes) == genomes).all()
        assert tiny.is_allowed(genomes).all()
        first = tiny.uniform_policies()
        np.testing.assert_array_equal(genomes[: len(first)], first)


def test_the_integer_program_has_the_best_front_from_its_first_points_on(tiny: NetworkEncoding) -> None:
    contest = Contest(trade_off(tiny), 6)
    tasks = [CompareTask(sampler, 0) for sampler in ("milp", "random")]
    results = {task.key: run_entry(task, contest).metrics for task in tasks}
    assert results["milp-0"]["n_evaluations"] == 6
    scores = contest.problem.evaluate(tiny.enumerate())
    best = scores.F[scores.feasible][:, 0].min(), scores.F[scores.feasible][:, 1].min()
    assert results["milp-0"]["F"][0][0] == best[0] and results["milp-0"]["F"][1][1] == best[1]
    yardstick, exact = yardstick_of(contest.problem, list(results.values()))
    curves = curves_frame(tasks, results, yardstick, [6])
    shares = curves[curves["evaluations"] == 6].set_index("sampler")["share"]
    assert exact and shares["random"] < shares["milp"] <= 1


def test_watching_keeps_what_each_prefix_had_as_its_front(tiny: NetworkEncoding, rng: np.random.Generator) -> None:
    problem = trade_off(tiny)
    watched, genomes = Watched(problem), tiny.sample(300, rng)
    for batch in np.array_split(genomes, [1, 50, 130]):
        watched.evaluate(batch)
    scores = problem.evaluate(genomes)
    assert watched.n_evaluations == 300
    assert watched.worst.tolist() == scores.F[scores.feasible].max(axis=0).tolist()
    for n in range(1, 301):
        F = scores.F[:n][scores.feasible[:n]]
        front = {tuple(f) for f in F if not ((f >= F).all(axis=1) & (f > F).any(axis=1)).any()}
        kept = {tuple(F) for count, F in watched.history if count <= n}
        assert front <= kept <= set(map(tuple, F))


def test_constraints_reach_optuna(tiny: NetworkEncoding) -> None:
    """With a tight limit that random sampling rarely meets, NSGA-II finds more feasible candidates than it would."""
    cost = bit_ops(tiny)
    bound = float(np.quantile(cost(tiny.enumerate()), 0.1))

    def feasible(*constraints: Constraint) -> list[int]:
        from apq_tune.hosts.optuna_studies import run_study

        counts = []
        for seed in range(10):
            problem = Counting(Problem(tiny, [Objective(weight_bytes(tiny), "maximize")], constraints))
            run_study(problem, "optuna-nsga2", n_evaluations=150, seed=seed)
            counts.append(int((cost(np.array(problem.asked)) <= bound).sum()))
        return counts

    assert min(feasible(Constraint(cost, bound))) > max(feasible())


def test_a_study_that_finds_nothing_new_ends(tiny: NetworkEncoding) -> None:
    from apq_tune.hosts.optuna_studies import run_study
    from apq_tune.space.search_space import SearchSpace

    space = SearchSpace.from_choices({"a": range(3), "b": range(3)})
    total = FunctionMetric("sum", "", lambda genomes: genomes.sum(axis=1).astype(float))
    problem = Counting(Problem(space, [Objective(total)]))
    trials = run_study(problem, "optuna-random", n_evaluations=500, seed=0)
    assert len(problem.asked) == 9 <= trials < 200  # the whole space, then no more

    class Collapsed(FlatEncoding):
        def canonicalise(self, genomes):
            return np.zeros_like(genomes)

    large = SearchSpace.from_choices({str(i): range(9) for i in range(9)})
    for n, expected in ((20, 2 * 20), (500, 1 + 100)):
        problem = Counting(Problem(Collapsed(large), [Objective(total)]))
        assert run_study(problem, "optuna-random", n_evaluations=n, seed=0) == expected
        assert len(problem.asked) == 1


def test_curves_end_at_the_exact_front_where_a_space_is_enumerated(tiny: NetworkEncoding) -> None:
    problem = trade_off(tiny)
    entries = [CompareTask("random", seed) for seed in range(2)]
    contest = Contest(problem, tiny.size())
    results = {entry.key: run_entry(entry, contest).metrics for entry in entries}
    yardstick, exact = yardstick_of(problem, list(results.values()))
    assert exact
    curves = curves_frame(entries, results, yardstick, [100, tiny.size()])
    for _, own in curves.groupby("seed"):
        assert own["share"].is_monotonic_increasing
        assert own["share"].iloc[-1] == pytest.approx(1, abs=1e-12)
        assert {100, tiny.size()} <= set(own["evaluations"])


def test_shares_by_hand_and_without_any_feasible_candidate(encoding: NetworkEncoding) -> None:
    problem = trade_off(encoding)  # too large to enumerate
    found = {"counts": [2, 5], "F": [[0.0, 10.0], [4.0, 2.0]], "worst": [8.0, 12.0], "n_evaluations": 9, "trials": 9}
    nothing = {"counts": [], "F": [], "worst": None, "n_evaluations": 9, "trials": 9}
    yardstick, exact = yardstick_of(problem, [found, nothing])
    assert not exact
    assert (yardstick.low.tolist(), yardstick.high.tolist()) == ([0, 2], [8, 12])
    curves = curves_frame(
        [CompareTask("a", 0), CompareTask("b", 0)], {"a-0": found, "b-0": nothing}, yardstick, [1, 2, 5]
    )
    whole = 8 * 2 + 4 * 8  # of the box of 8 by 10
    expected = {("a", 1): 0, ("a", 2): 16 / whole, ("a", 5): 1, ("b", 1): 0, ("b", 2): 0, ("b", 5): 0}
    at = curves[curves["evaluations"].isin([1, 2, 5])].set_index(["sampler", "evaluations"])["share"]
    assert at.to_dict() == pytest.approx(expected)
    with pytest.raises(ProblemError, match=r"no sampler found a candidate with bit_ops <= .*; relax a bound"):
        yardstick_of(problem, [nothing])


def test_yardsticks_ignore_what_never_varies() -> None:
    F = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 0.0]])
    assert Yardstick.of(F, margin=0.5).share(F[:1]) == pytest.approx(1.5 * 0.5 / (1.5 * 0.5 + 0.5 * 1.5 - 0.5 * 0.5))
    assert Yardstick.of(F[:1]).share(F[:1]) == 1
    assert Yardstick.of(F[:1]).share(F[:0]) == 0


def test_holm_by_hand() -> None:
    # 0.01 * 4; 0.02 * 3; then 0.03 * 2 and 0.9, and none below the one before
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.9, 0.02])), [0.06, 0.04, 0.9, 0.06])
    np.testing.assert_allclose(holm(np.array([0.04, 0.03])), [0.06, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]


def test_pairs_of_samplers_by_hand_and_by_scipy() -> None:
    shares = {"a": [0.5, 0.6, 0.7, 0.8], "b": [0.1, 0.6, 0.3, 0.4], "c": [0.9, 0.9, 0.9, 0.2]}
    rows = [(name, seed, 10, share) for name, own in shares.items() for seed, share in enumerate(own)]
    rows += [(name, seed, 20, 1.0) for name in shares for seed in range(4)]
    curves = pd.DataFrame(rows, columns=["sampler", "seed", "evaluations", "share"])
    tests = pairwise_tests(curves, [10, 20])
    first = tests[tests["evaluations"] == 10].set_index(["sampler", "other"])
    counts = {pair: tuple(row) for pair, row in first[["wins", "ties", "losses"]].iterrows()}
    assert counts == {("a", "b"): (3, 1, 0), ("a", "c"): (1, 0, 3), ("b", "c"): (1, 0, 3)}
    assert first.loc[("a", "b"), "difference"] == pytest.approx(0.65 - 0.35)
    p = [float(mannwhitneyu(shares[one], shares[other]).pvalue) for one, other in itertools.combinations("abc", 2)]
    np.testing.assert_allclose(first["p"], p)
    np.testing.assert_allclose(first["p_holm"], holm(np.array(p)))
    equal = tests[tests["evaluations"] == 20]
    assert (equal["ties"] == 4).all()
    assert (equal[["p", "p_holm"]] == 1).all(axis=None)
    clear = curves.assign(share=lambda f: f["seed"] / 100 + f["sampler"].map({"a": 0, "b": 1, "c": 2}))
    many = pd.concat([clear, clear.assign(seed=clear["seed"] + 4)])
    table = wins_table(pairwise_tests(many, [10]), 10)
    assert [list(column.cells) for column in table.columns][1:] == [["0-0-8*", ""], ["0-0-8*", "0-0-8*"]]
    best = medians_table(medians_frame(many, [10]), "exact front", 8)
    assert list(best.columns[0].cells) == ["c", "b", "a"]


def test_a_lookup_table_is_a_problem(tmp_path: Path) -> None:
    combinations = list(itertools.product([8, 4, 16], ["relu", "elu"], [1, 2]))
    frame = pd.DataFrame(combinations, columns=["width", "activation", "depth"])
    frame["merit"], frame["cost"] = np.arange(12) ** 2 % 7, np.arange(12) * 1.5
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "t.csv", index=False)
    problem = load_lookup(tmp_path / "t.csv", ["merit"], ["cost"])
    genomes = problem.encoding.enumerate()
    assert len(genomes) == 12
    scores = problem.evaluate(genomes)
    for candidate, F in zip(problem.encoding.decode(genomes), scores.F, strict=True):
        values = dict(candidate.values)
        (place,) = [i for i, c in enumerate(combinations) if c == tuple(values[n] for n in frame.columns[:3])]
        assert F.tolist() == [-frame["merit"][place], frame["cost"][place]]
    assert problem.encoding.space.choices["width"] == (4, 8, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(index=5), "has no row for a=1, b=y, c=1 (7 of 8 combinations are there); add it"),
        (lambda f: f.drop(index=7), "has no row for a=1, b=y, c=3"),
        (lambda f: pd.concat([f, f[2:3]]), "rows 3 and 9 are the same candidate; keep one"),
        (lambda f: f.assign(m=["x", *range(7)]), "row 1: m is 'x'; give a finite number"),
        (lambda f: f.assign(b=[None, *f["b"][1:]]), "row 1: b is empty"),
        (lambda f: f.rename(columns={"m": "merit"}), "has no column 'm'; it has a, b, c, merit"),
        (lambda f: f[["m"]], "needs objectives and choices"),
    ],
)
def test_a_lookup_table_with_a_fault_is_refused_naming_it(change, said: str, tmp_path: Path) -> None:
    # c has only the values 1 and 3 at most; rows in the order a, b, c
    frame = pd.DataFrame(itertools.product([0, 1], ["x", "y"], [1, 3]), columns=["a", "b", "c"])
    frame = frame.assign(m=np.arange(8.0))
    frame = frame.iloc[[0, 1, 2, 3, 4, 6, 5, 7]].reset_index(drop=True) if "c=1 (" in said else frame
    frame = frame.assign(b=frame["b"].astype(object))
    change(frame).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(Exception) as error:
        load_lookup(tmp_path / "t.csv", ["m"], [])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sampler_with_an_end_of_its_own_is_compared_up_to_there_and_not_beyond(tiny: NetworkEncoding) -> None:
    contest = Contest(trade_off(tiny), 30, {"random": 12})
    entries = [CompareTask(sampler, seed) for sampler in ("nsga2", "random") for seed in range(3)]
    results = {entry.key: run_entry(entry, contest).metrics for entry in entries}
    assert [results[entry.key]["n_evaluations"] for entry in entries] == [30] * 3 + [12] * 3
    yardstick = yardstick_of(contest.problem, list(results.values()))[0]
    curves = curves_frame(entries, results, yardstick, [10, 30], contest.caps)
    assert curves.groupby("sampler")["evaluations"].max().to_dict() == {"nsga2": 30, "random": 12}
    medians, tests = medians_frame(curves, [10, 30]), pairwise_tests(curves, [10, 30])
    assert set(zip(medians["sampler"], medians["evaluations"], strict=True)) == {
        ("nsga2", 10),
        ("nsga2", 30),
        ("random", 10),
    }
    assert tests["evaluations"].tolist() == [10]
    assert recommended(medians, tests, 0.05)["best"].tolist()[1] == "nsga2"


def test_the_advice_is_the_best_median_and_those_not_behind_it() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for sampler, level in (("bad", 0.2), ("good", 0.8), ("as good", 0.79)):
        rows += [(sampler, seed, 50, level + 0.05 * rng.random()) for seed in range(20)]
    curves = pd.DataFrame(rows, columns=["sampler", "seed", "evaluations", "share"])
    advice = recommended(medians_frame(curves, [50]), pairwise_tests(curves, [50]), 0.001)
    assert advice.to_dict("records") == [{"evaluations": 50, "best": "good", "level_with_it": "as good"}]


def test_the_command_knows_the_samplers_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    assert sorted(SAMPLERS) == sorted(SAMPLER_NAMES)
    out = f"--out={tmp_path / 'out'}"
    for arguments, said in (
        ([], "give SPACE, with --front, or --lookup"),
        (["digits"], "SPACE needs --front"),
        (["digits", "--front=macs", "--maximize=a"], "--lookup goes with --maximize"),
        (["--lookup=t.csv", "--front=a"], "--lookup goes with --maximize"),
        (["digits", "--front=macs", "--at=10,x"], "--at '10,x': give a whole number"),
        (["digits", "--front=macs", "--cap=optuna-gp"], "--cap 'optuna-gp': give SAMPLER=NUMBER"),
        (["digits", "--front=macs", "--cap=tpe=20"], "--cap 'tpe=20': give SAMPLER=NUMBER"),
        (["digits", "--front=macs", "--cap=model=0"], "--cap 'model=0': give SAMPLER=NUMBER"),
        (["digits", "--front=macs", "--seeds=1"], "--seeds 1: a comparison needs 2 or more"),
        (["digits", "--front=macs", "--sampler=tpe"], "'tpe' is not one of 'model', "),
    ):
        result = CliRunner().invoke(cli, ["compare", out, *arguments])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_leaves_curves_tests_and_medians_and_is_not_repeated(tmp_path: Path) -> None:
    frame = pd.DataFrame(itertools.product(range(4), repeat=4), columns=list("abcd"))
    frame = frame.assign(merit=np.sin(frame @ [1, 2, 3, 4.0]) + frame.sum(axis=1), cost=frame @ [3.0, 1, 2, 1])
    frame.to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("apq-tune")), "compare", f"--lookup={tmp_path / 't.csv'}"]
    command += [
        "--maximize=merit",
        "--minimize=cost",
        "--sampler=nsga2",
        "--sampler=optuna-random",
        "--seeds=4",
        "--at=20,60",
    ]
    command += [f"--out={out}", "--num-cpus=2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "share of the exact front" in result.stdout
    assert "Wins, ties and losses at 60" in " ".join(result.stdout.split())
    problem = load_lookup(tmp_path / "t.csv", ["merit"], ["cost"])
    entries = [CompareTask(sampler, seed) for sampler in ("nsga2", "optuna-random") for seed in range(4)]
    results = {entry.key: run_entry(entry, Contest(problem, 60)).metrics for entry in entries}
    curves = curves_frame(entries, results, yardstick_of(problem, [])[0], [20, 60])
    assert (out / "curves.csv").read_text() == curves.to_csv(index=False)
    assert (out / "tests.csv").read_text() == pairwise_tests(curves, [20, 60]).to_csv(index=False)
    assert (out / "medians.csv").read_text() == medians_frame(curves, [20, 60]).to_csv(index=False)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.stdout == result.stdout
    assert again.returncode == 0


def test_nas_bench_macro_and_ours_against_random_search(shared_data, tmp_path: Path) -> None:
    import importlib.util

    script = Path(__file__).parents[2] / "benchmarks/compare_samplers.py"
    spec = importlib.util.spec_from_file_location("compare_samplers", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.as_table(shared_data("nas_bench_macro/nas-bench-macro_cifar10.json")).to_csv(tmp_path / "m.csv", index=False)
    problem = load_lookup(tmp_path / "m.csv", ["accuracy"], ["flops"])
    assert problem.encoding.size() == 3**8
    entries = [CompareTask(sampler, seed) for sampler in ("nsga2", "random") for seed in range(10)]
    results = {entry.key: run_entry(entry, Contest(problem, 200)).metrics for entry in entries}
    curves = curves_frame(entries, results, yardstick_of(problem, [])[0], [200])
    (row,) = pairwise_tests(curves, [200]).to_dict("records")
    assert (row["wins"], row["ties"], row["losses"]) == (10, 0, 0)
    assert row["p_holm"] < 0.001
