"""Methods on a tiny trained run: equal budgets, the same bytes after a kill; verdicts by hand and by scipy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import ttest_rel, wilcoxon

from apq_tune import ApqError, Candidate, Constraint, Front, NetworkEncoding, ProblemError, RunError, SearchSpace
from apq_tune.cli import cli
from apq_tune.cli import costs as options
from apq_tune.cli.run import PAPER
from apq_tune.cli.versus import NAMES, possible_methods
from apq_tune.cost import bit_ops, cost_models
from apq_tune.methods import METHODS, explore, paper
from apq_tune.methods.bit_program import best_bits, open_bits
from apq_tune.pipeline.finished import load_supernets
from apq_tune.pipeline.measuring import measure_pairs
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.sensitivity_table import measure_sensitivity
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stages import STAGES
from apq_tune.problem.costs import BUDGETS, Costs
from apq_tune.problem.limits import as_texts
from apq_tune.refine.halving import Rung
from apq_tune.space.candidate import read_candidate
from apq_tune.space.device import DevicePreset
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.narrowing import Narrowing
from apq_tune.studies import verdict, versus
from apq_tune.studies.compare import holm
from apq_tune.studies.curvature import curvature_of
from apq_tune.studies.halving import rungs
from apq_tune.studies.versus import Spend, VersusShared, VersusTask, run_task
from apq_tune.supernet import evaluate
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.sensitivity import divergences
from apq_tune.supernet.train import Training
from apq_tune.tracing.trace import weights_of
from tests.tracing.zoo import ResNet

SPEND = {"proxy": 60, "short": 6, "short_steps": 2, "final_steps": 9, "repeats": 2, "images": 100}
FEW = {"n_fp32": 20, "n_proxy": 40, "n_pairs": 10, "pair.images": 128, "final.epochs": 2, "final.images": 256}
CHANGES = {"supernet.epochs": 1, "quantized.epochs": 1, "n_calibration": 32}


@pytest.fixture(scope="module", autouse=True)
def short_inner_searches() -> Iterator[None]:
    """By which methods propose; how well they do so is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (explore, paper):
            patch.setattr(module, "EVALUATIONS", 200)
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> VersusShared:
    folder, space = tmp_path_factory.mktemp("versus"), SearchSpace.load("digits")
    versus.train_run(7, versus.SupernetTrainings(space, CHANGES, folder / "runs", None))
    costs = Costs.of(NetworkEncoding(space))
    limits = {name: as_texts(costs.budget(name)) for name in BUDGETS}
    runs = {7: versus.run_path(folder / "runs", 7)}
    return VersusShared(runs, limits, Spend.checked(**SPEND), folder / "checkpoints", costs)


@pytest.mark.slow
def test_bits_by_the_table_of_a_trained_network_change_less_than_uniform_ones_of_the_same_size(
    shared: VersusShared,
) -> None:
    nets = versus.supernets(shared.runs[7])
    encoding = NetworkEncoding(nets.space)
    largest = encoding.extremes()[1]
    subnet = nets.quantized.subnet(largest).eval()
    table = measure_sensitivity(subnet, first_images(nets.quantized.data.train, 128))
    genome = encoding.encode([largest])
    uniform = encoding.at_bits(genome, 4)
    costs = shared.costs.metrics
    limit = Constraint(costs["weight_bytes"], float(costs["weight_bytes"](uniform)[0]))
    chosen = best_bits(encoding, genome[0], table.losses, [limit])
    assert limit.metric(chosen)[0] <= limit.bound
    images = first_images(nets.quantized.data.search, 300)
    with torch.no_grad():
        full = subnet(images, quantize=False)
        mixed, same = (
            divergences(full, subnet(images, bits=candidate)).mean()
            for candidate in encoding.decode(np.concatenate([chosen, uniform]))
        )
    assert mixed < same


@pytest.mark.slow
@pytest.mark.parametrize("bits", [([4, 8], [8]), ([2, 4, 8], [4, 8])], ids=["weights", "both"])
def test_sensitivities_by_hessians_in_the_part_of_a_device_are_those_of_the_whole_space(
    shared: VersusShared, bits: tuple[list[int], list[int]]
) -> None:
    supernet = versus.supernets(shared.runs[7]).quantized
    rule = dict(zip(("w_bits", "a_bits"), bits, strict=True))
    preset = DevicePreset.from_dict({"format": 1, "name": "some", "title": "some", "ops": {"conv": rule}})
    space = supernet.space.narrowed(preset)
    part = Narrowing(supernet.space, space)
    here, whole = curvature_of(supernet, 100, 0, part), curvature_of(supernet, 100, 0)
    genome = part.part.sample(9, np.random.default_rng(0))[-1]
    table, of_whole = here.measure(genome), whole.measure(part.widen(genome[None])[0])
    rows = {
        part.whole.names[gene]: dict(zip(part.whole.choices[gene], row, strict=True)) for gene, row in of_whole.items()
    }
    for gene in open_bits(part.part, genome):
        expected = [rows[part.part.names[gene]][value] for value in part.part.choices[gene]]
        np.testing.assert_allclose(table[int(gene)], expected, rtol=1e-4)
    assert here.price <= whole.price
    assert (here.price < whole.price) == (len(bits[1]) == 1)  # no trace of inputs, whose bits are fixed
    own = shared._replace(costs=Costs.of(part.part), limits={"flash": ["weight_bytes<=50%"]})
    found = run_task(VersusTask("hawq", "flash", 7), own).metrics
    assert part.part.encode([read_candidate(found["candidate"])]).shape == (1, part.part.n_genes)
    assert found["counts"]["hessian"] == here.price


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "staged-haq", "sensitivity", "hawq", "proxyless", "paper"])
def test_methods_are_charged_the_same_and_resume_to_the_same_result(
    shared: VersusShared, method: str, monkeypatch
) -> None:
    task = VersusTask(method, "memory", 7)
    whole = run_task(task, shared).metrics
    counts = whole["counts"]
    assert counts["fp32"] + counts["proxy"] + counts["hessian"] + counts["gates"] == 60
    assert (counts["hessian"] > 0) == (method == "hawq")
    assert (counts["gates"] > 0) == (method == "proxyless")
    assert counts["short"] == 6
    # of 6 candidates after 2 steps, 2 go on to 6 and to 9; the winner once more
    assert {k: v for k, v in counts.items() if "steps" in k} == {"6 steps": 2, "9 steps": 3, "later steps": 39}
    assert {k: v for k, v in counts.items() if k[0].isdigit()} == versus.planned(shared.spend)
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    limits = dict(text.split("<=") for text in shared.limits["memory"])
    for found in whole["finalists"]:
        genome = encoding.encode([Candidate.from_dict(found["candidate"])])
        for cost in cost_models(encoding):
            assert found[cost.name] == cost(genome)[0]
            assert cost.name not in limits or cost(genome)[0] <= float(limits[cost.name])
        assert ("test" in found["scores"]) == (found["steps"] == 9)
    first, second, again = (found for found in whole["finalists"] if found["steps"] == 9)
    best = min(first, second, key=lambda found: found["scores"]["search"]["loss"])
    assert best["candidate"] == again["candidate"] == whole["candidate"]
    assert best["scores"] != again["scores"]
    losses = [found["scores"]["test"]["loss"] for found in (best, again)]
    assert whole["test_loss"] == pytest.approx(np.mean(losses))

    (shared.checkpoints / f"{task.key}.npz").unlink(missing_ok=True)  # of a slow machine

    class Killed(BaseException):
        pass

    monkeypatch.setattr(versus, "CHECKPOINT_SECONDS", 0.0)
    real, done = versus.write_atomically, []

    def dying(path: Path, content: bytes) -> None:
        real(path, content)
        done.append(path)
        if len(done) == 5:
            raise Killed

    monkeypatch.setattr(versus, "write_atomically", dying)
    with pytest.raises(Killed):
        run_task(task, shared)
    known = versus.read_known(shared.checkpoints / f"{task.key}.npz")
    assert 5 <= len(known) <= 40
    again = run_task(task, shared).metrics
    for result in (whole, again):
        result.pop("seconds")
    assert again == whole
    (shared.checkpoints / f"{task.key}.npz").write_bytes(b"rubbish")
    assert versus.read_known(shared.checkpoints / f"{task.key}.npz") == {}


@pytest.mark.slow
@pytest.mark.usefixtures("serial")
def test_the_commands_compare_and_resume_to_the_same_bytes(shared: VersusShared, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        spend = [f"--{name.replace('_', '-')}={value}" for name, value in SPEND.items()]
        result = CliRunner().invoke(cli, [*map(str, arguments), *spend, "--num-cpus=2"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    out, options = tmp_path / "out", ["--method=joint", "--method=uniform", "--constraint=bit_ops<=25%"]
    command = ["joint-vs-staged", shared.runs[7], f"--out={out}", *options]
    said = run(*command)
    assert "constraints: bit_ops <= 1.466e+07" in said
    first = {path.name: path.read_bytes() for path in out.glob("*.csv") if path.name != "seconds.csv"}
    assert set(first) == {"results.csv", "finalists.csv", "means.csv", "tests.csv", "rules.csv"}
    assert "Not met: The control magnitude is compared, too: is not under constraints; add --method magnitude" in said
    assert "spent the same" not in said
    (out / "items" / "007-constraints-uniform.json").unlink()
    run(*command)
    assert {name: (out / name).read_bytes() for name in first} == first
    table = pd.read_csv(out / "results.csv")
    assert table["method"].tolist() == ["joint", "uniform"]
    assert table["n proxy"].tolist() == [60, 60]
    largest = Costs.of(NetworkEncoding(SearchSpace.load("digits"))).at_largest()
    np.testing.assert_allclose(table["compression"] * table["weight_bytes"], largest["weight_bytes"])
    np.testing.assert_allclose(table["speed_up"] * table["macs"], largest["macs"])
    assert (table["test_accuracy"] <= table["test_top5"]).all()
    assert (out / "differences.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_with_a_method_keeps_its_network_and_makes_it_again_when_it_is_lost(
    shared: VersusShared, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        changes = [f"--set={name}={value}" for name, value in (CHANGES | FEW).items()]
        command = ["run", "digits", "--method=uniform", "--seed=7", f"--out={tmp_path / 'run'}", *changes, *arguments]
        result = CliRunner().invoke(cli, [*command, "--num-cpus=2"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    shutil.copytree(shared.runs[7], tmp_path / "run")
    said, alone = run("--constraint=bit_ops<=25%"), tmp_path / "run" / "uniform"
    assert re.search(r"Chosen: \w+_\d\w*, with the least loss on search images of the \d of 6 trained networks", said)
    assert re.search(r"bit_ops [\d.]+ M BitOps: \d+% of the limit <= 14.66 M BitOps", said)
    summary, table = json.loads((alone / "summary.json").read_text()), pd.read_csv(alone / "results.csv")
    assert [summary["counts"][kind] for kind in ("fp32", "proxy", "fine", "short")] == [0, 60, 30, 10]
    own = table[~table["name"].str.startswith("largest")]
    assert set(table["name"]) == {*(f"uniform_{i}" for i in (1, 2, 3, 4)), "largest_8bit", "largest_4bit"}
    assert own["search_loss"].idxmin() == own.index[own["name"] == "uniform_1"][0]
    feasible = table["bit_ops"] <= 0.25 * bit_ops(NetworkEncoding(SearchSpace.load("digits"))).reachable()[1]
    assert table["feasible"].tolist() == feasible.tolist()
    assert table["search_loss"].where(feasible).idxmin() == table.index[table["chosen"]][0]
    front = Front.load(alone / "front.json")  # whom no other network of the method beats in both
    loss, cost = own["search_loss"].to_numpy(), own["bit_ops"].to_numpy()
    beaten = ((loss[:, None] <= loss) & (cost[:, None] <= cost)).sum(axis=0) > 1
    assert {c.to_json() for c in front.candidates} == set(own["candidate_json"][~beaten])
    assert (alone / "front.png").read_bytes().startswith(b"\x89PNG")
    record, weights = json.loads((alone / "best.json").read_text()), (alone / "best.pt").read_bytes()
    trained = load_supernets(tmp_path / "run").quantized
    network = trained.subnet(Candidate.from_dict(record["candidate"]))
    network.load_state_dict(torch.load(alone / "best.pt", weights_only=True))
    assert evaluate.score(network, trained.data.search).loss == pytest.approx(
        record["scores"]["search"]["loss"], rel=1e-6
    )
    for name in ("best.pt", "items/007-constraints-uniform.pt"):
        (alone / name).unlink()
    run("--constraint=bit_ops<=25%")
    assert (alone / "best.pt").read_bytes() == weights
    with pytest.raises(RunError, match=r"is a search with uniform whose limits is .*; repeat what it began with"):
        run("--constraint=bit_ops<=20%")


def test_a_method_spends_what_a_run_with_its_predictor_spends(shared: VersusShared) -> None:
    data = load_supernets(shared.runs[7]).fp32.data
    spend = Spend.of_run(RunSettings().updated({"pair.epochs": 2}), data)
    epoch = 898 // 32
    assert spend == Spend(
        proxy=280, short=32, short_steps=2 * epoch, final_steps=6 * epoch, repeats=1, images=len(data.search.labels)
    )
    assert Spend.of_run(RunSettings().updated({"n_search": 50}), data).images == 50
    with pytest.raises(RunError, match=r"n_fp32=12 and n_proxy=20 are 32 evaluations .* needs 60 or more, raise one"):
        Spend.of_run(RunSettings().updated({"n_fp32": 12, "n_proxy": 20}), data)


def test_rungs_cost_about_the_same_and_the_last_has_a_choice() -> None:
    assert rungs(24, 20, 180) == [Rung(24, 20), Rung(8, 60), Rung(3, 180)]
    assert rungs(6, 2, 9) == [Rung(6, 2), Rung(2, 6), Rung(2, 9)]
    assert rungs(5, 10, 10) == [Rung(5, 10)]
    assert rungs(1, 1, 9)[-1] == Rung(1, 9)


@pytest.mark.slow
def test_trainings_have_as_many_steps_as_asked_for(shared: VersusShared, monkeypatch) -> None:
    import torch

    supernet = versus.supernets(shared.runs[7]).quantized
    (candidate,) = NetworkEncoding(supernet.space).decode(
        NetworkEncoding(supernet.space).sample(1, np.random.default_rng(0))
    )
    steps, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (steps.append(1), real(self, *a, **k)))
    for asked in (1, 5, 28, 30):  # 898 images make 28 batches
        steps.clear()
        training = Training(epochs=9, batch_size=32, learning_rate=1e-3)
        train_candidate(supernet, QATTask(candidate, training, (0,), steps=asked))
        assert len(steps) == asked


@pytest.mark.slow
def test_the_literal_protocol_never_trains_a_quantized_supernet(shared: VersusShared, tmp_path: Path) -> None:
    """A run of --protocol paper begins QAT where the method does: full-precision weights, calibrated clips."""
    shutil.copytree(shared.runs[7], tmp_path / "seed_007")
    versus.train_run(7, versus.SupernetTrainings(SearchSpace.load("digits"), CHANGES | PAPER, tmp_path, None))
    quantized = load_supernets(tmp_path / "seed_007").quantized.weights
    nets = versus.supernets(shared.runs[7])
    assert set(quantized) == set(nets.calibrated.weights)
    moved = [name for name, tensor in quantized.items() if not tensor.equal(nets.fp32.weights[name])]
    assert moved
    assert all("clip" in name for name in moved)
    assert all(tensor.equal(nets.calibrated.weights[name]) for name, tensor in quantized.items())


@pytest.mark.slow
def test_the_literal_protocol_draws_the_bits_of_all_pairs_alike(shared: VersusShared, tmp_path: Path) -> None:
    shutil.copytree(shared.runs[7], tmp_path / "run")
    drawn = {}
    for draw in ("policies", PAPER["pair_bits"]):
        changes = CHANGES | {"seed": 7, "n_pairs": 200, "pair_bits": draw}
        run = PipelineRun(SearchSpace.load("digits"), RunSettings().updated(changes), tmp_path / "run")
        run.run_until("quantized_supernet")
        run._open(next(stage for stage in STAGES if stage.name == "qat_pairs"))
        candidates = [task.candidate.to_dict() for item in measure_pairs(run).items.values() for task in item]
        drawn[draw] = [2 in (*c["pw_w_bits"], *c["dw_w_bits"]) for c in candidates]
    shares = {draw: np.mean(own) for draw, own in drawn.items()}
    assert shares["policies"] < 0.8 < shares["alike"]  # networks with a layer of 2 bits


def test_verdicts_by_hand_and_by_scipy() -> None:
    rng = np.random.default_rng(0)
    accuracy = {
        "joint": rng.normal(0.9, 0.01, 6),
        "staged": rng.normal(0.89, 0.01, 6),
        "uniform": rng.normal(0.9, 0.01, 6),
    }
    accuracy["uniform"][0] = accuracy["joint"][0]
    rows = [
        {"budget": "b", "method": m, "seed": s, "test_accuracy": a, "test_loss": 1 - a}
        for m, own in accuracy.items()
        for s, a in enumerate(own)
    ]
    tests = verdict.tests_frame(pd.DataFrame(rows)).set_index(["score", "rival"])
    for rival in ("staged", "uniform"):
        gain = accuracy["joint"] - accuracy[rival]
        for score in ("test_accuracy", "test_loss"):
            own = tests.loc[(score, rival)]
            assert (own["wins"], own["ties"], own["losses"]) == ((gain > 0).sum(), (gain == 0).sum(), (gain < 0).sum())
            assert own["difference"] == pytest.approx(gain.mean())
            assert own["sd"] == pytest.approx(gain.std(ddof=1))
            assert own["p_t"] == pytest.approx(ttest_rel(accuracy["joint"], accuracy[rival]).pvalue)
            assert own["p_wilcoxon"] == pytest.approx(wilcoxon(gain).pvalue)
    corrected = tests.loc["test_loss"]
    np.testing.assert_allclose(corrected["p_t_holm"], holm(corrected["p_t"].to_numpy()))
    means = verdict.means_frame(pd.DataFrame(rows)).set_index("method")
    assert means.loc["joint", "test_accuracy_std"] == pytest.approx(accuracy["joint"].std(ddof=1))
    single = pd.DataFrame([row for row in rows if row["seed"] == 0])
    assert (verdict.tests_frame(single)[["p_t", "p_wilcoxon"]] == 1).all(axis=None)


def test_a_method_whose_part_of_the_space_keeps_no_limit_is_refused_or_left_out_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = Costs.of(NetworkEncoding(SearchSpace.load("digits")))
    limits = {name: as_texts(costs.budget(name)) for name in ("memory", "memory-tight")}
    found = possible_methods(["uniform-8", "joint"], costs, limits)
    assert found == {"memory": ["uniform-8", "joint"], "memory-tight": ["joint"]}
    assert "uniform-8 is left out under memory-tight: no candidate with weight_bytes <= " in capsys.readouterr().out
    for command in (
        ["joint-vs-staged", "digits", "--method=uniform-8", f"--out={tmp_path / 'out'}"],
        ["run", "digits", "--method=uniform-8", f"--out={tmp_path / 'run'}"],
    ):
        result = CliRunner().invoke(cli, [*command, "--budget=memory-tight"])
        assert isinstance(result.exception, ProblemError)
        assert "; the closest misses one by" in str(result.exception)
        assert not list(tmp_path.glob("*/1_supernet")) + list(tmp_path.glob("*/runs"))


def test_the_commands_know_the_methods_and_refuse_in_one_line(tmp_path: Path) -> None:
    assert (tuple(METHODS), BUDGETS) == (NAMES, options.BUDGET_NAMES)
    out = f"--out={tmp_path / 'out'}"
    for arguments, said in (
        (["joint-vs-staged", "digits", "--method=both"], "'both' is not one of 'joint', 'joint-levels', 'staged'"),
        (["joint-vs-staged", "digits", "--method=joint", "--method=joint"], "'joint' comes twice; give it once"),
        (["joint-vs-staged", "digits", "--budget=flash"], "'flash' is not one of 'memory', 'memory-tight'"),
        (["run", "digits", "--method=joint", "--protocol=paper"], "--protocol paper goes with --method predictor"),
        (["joint-vs-staged", "digits", "--proxy=5"], "'--proxy': give a whole number from 60 to 1000000, got '5'"),
    ):
        result = CliRunner().invoke(cli, [*arguments, out])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
    for arguments, said in (
        (["joint-vs-staged", "digits", "--constraint=weight_bytes<=1"], "no candidate reaches weight_bytes <= 1"),
        (["joint-vs-staged", "digits", "--final-steps=9"], "final steps are 9, short ones 20; swap them"),
    ):
        result = CliRunner().invoke(cli, [*arguments, out])
        assert isinstance(result.exception, ApqError)
        assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunError, match="setting short: "):
        Spend.checked(short=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command",
    [["joint-vs-staged", "digits", "--budget=memory"], ["run", "digits", "--method=uniform", "--budget=memory"]],
)
def test_a_gpu_that_is_not_there_is_refused_before_any_work(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, [*command, "--device=cuda", f"--out={out}"])
    assert isinstance(result.exception, RunError)
    assert "torch sees no GPU here" in str(result.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither SPACE, RUN nor --model"),
        (["digits", "--data", "mnist"], "--data goes with --model"),
        (["digits", "--model", "net.py:build", "--data", "digits"], "give one of them"),
        (["--model", "net.py:build"], "--model needs images"),
        (["digits", "--keep", "layer1.*"], "--keep is for a model of your own"),
    ],
)
def test_a_model_of_the_user_takes_the_place_of_a_space(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["joint-vs-staged", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and said in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_supernets_of_a_comparison_begin_with_the_weights_of_the_user(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = ResNet(1, (4, 4, 8), 1)
    space = ModelSpace.from_module(module, torch.randn(2, 1, 8, 8), data="digits", step=2)
    weights = {name: tensor.clone() for name, tensor in weights_of(module, space.graph).items()}
    changes = {"supernet.epochs": 1, "supernet.images": 64, "quantized.epochs": 1, "quantized.images": 64}
    versus.train_run(7, versus.SupernetTrainings(space, changes, tmp_path, None, weights=weights))
    trained = load_supernets(versus.run_path(tmp_path, 7)).fp32.weights
    start = {name: value for name, value in weights.items() if name.endswith("conv1.weight")}
    for name, value in start.items():  # two steps away from where they began
        own = trained[f"tensors./{name.replace('.', '/')}"]
        assert 0 < float((own - value).abs().mean()) < 0.3 * float(value.abs().mean())
