"""``search``, ``score``, ``space``, ``cost audit`` and ``transfer`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from apq_tune import ApqError, Front, NetworkEncoding, SearchSpace, load_predictor
from apq_tune.cli import cli
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.predict import MLPSettings, Pairs, agreement, fit_mlp
from apq_tune.predict.files import predictor_bytes


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, ApqError), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def digits() -> NetworkEncoding:
    return NetworkEncoding(SearchSpace.load("digits"))


@pytest.fixture(scope="module")
def predictor(digits: NetworkEncoding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    genomes = digits.sample(100, np.random.default_rng(0))
    accuracy = 0.7 + 0.2 * weight_bytes(digits)(genomes) / weight_bytes(digits).reachable()[1]
    fitted = fit_mlp(
        digits, Pairs(genomes, accuracy), 0, bits=False, log=False, settings=MLPSettings(hidden=16, steps=100)
    )
    path = tmp_path_factory.mktemp("predictor") / "accuracy.npz"
    path.write_bytes(predictor_bytes(fitted))
    return path


def test_search_under_a_limit_writes_what_it_shows(predictor: Path, digits: NetworkEncoding, tmp_path: Path) -> None:
    arguments = ("search", "digits", "--predictor", predictor, "--constraint", "bit_ops=8e6")
    result = call(*arguments, "--evaluations", 600, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    front = Front.load(tmp_path / "front.json")
    assert len(front) == 1  # though a predictor that knows no bits has ties
    assert str(front.candidates[0]).split(" | ")[0] in result.output
    genomes = digits.encode(list(front.candidates))
    assert front.metrics["bit_ops"].tolist() == bit_ops(digits)(genomes).tolist()
    assert front.metrics["bit_ops"][0] <= 8e6
    assert front.metrics["accuracy"][0] == pytest.approx(load_predictor(predictor)(genomes)[0], rel=1e-6)
    assert pd.read_csv(tmp_path / "front.csv")["candidate"].tolist() == list(map(str, front.candidates))


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_search_for_a_front_draws_it_and_repeats_for_a_seed(predictor: Path, tmp_path: Path, sampler: str) -> None:
    for name in ("a", "b"):
        arguments = ("search", "digits", "--predictor", predictor, "--front", "latency_ms,accuracy")
        assert call(*arguments, "--sampler", sampler, "--evaluations", 400, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a/front.png").stat().st_size > 0
    assert (tmp_path / "a/front.json").read_bytes() == (tmp_path / "b/front.json").read_bytes()
    assert len(Front.load(tmp_path / "a/front.json")) > 1


def test_search_begins_with_given_candidates_and_stops_when_the_front_is_stable(
    predictor: Path, digits: NetworkEncoding, tmp_path: Path
) -> None:
    (given,) = digits.decode(digits.encode([digits.extremes()[0].with_bits(2)]))
    (tmp_path / "start.jsonl").write_text(given.to_json())
    arguments = ("search", "digits", "--objective", "bit_ops", "--start", tmp_path / "start.jsonl")
    result = call(*arguments, "--patience", 300, "--evaluations", 5000, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    front = Front.load(tmp_path / "front.json")
    assert front.candidates == (given,)  # the smallest network at the fewest bits cannot be beaten
    assert 300 <= front.provenance["n_evaluations"] < 600
    (tmp_path / "start.jsonl").write_text(json.dumps(given.to_dict() | {"depths": [9, 9, 9]}))
    assert "depths" in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--constraint", "bit_ops=1000"), "bit_ops goes from 3.00339e+06 to 5.86301e+07"),
        (("--constraint", "bit_ops<1e7"), "cannot read constraint 'bit_ops<1e7'; write METRIC<=NUMBER"),
        (("--constraint", "flash<=200kb"), "'kb' in '200kb' is not a unit of bytes"),
        (("--constraint", "speed=3"), "unknown metric 'speed'"),
        (("--objective", "speed"), "unknown metric 'speed'; known: "),
        (("--table", "absent.csv"), "absent.csv: is not a readable CSV"),
        (("--predictor", "absent.pth"), "absent.pth: cannot be read (No such file or directory)"),
        (("--out", "/proc/nowhere"), "cannot write /proc/nowhere"),
        (("--objective", "macs", "--islands", "1000000"), "islands: give a whole number from 1 to 1, got 1000000"),
    ],
)
def test_search_refuses_in_one_line(arguments: tuple[str, str], said: str) -> None:
    wanted = () if arguments[0] in ("--objective", "--predictor") else ("--objective", "macs")
    assert said in refusal("search", "digits", "--evaluations", 50, *wanted, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing says what to optimize: give --predictor, --objective such as macs, or --front"),
        (("--front", ""), "a name is empty"),
        (("--front", "bit_ops,bit_ops"), "a metric comes twice"),
        (("--objective", "macs,bit_ops"), "trade them off with --front"),
        (("--objective", "macs", "--seed", str(2**64)), "give a whole number from 0 to 4294967295"),
        (("--objective", "macs", "--patience", "nan"), "give a whole number from 1"),
        (("--objective", "macs", "--out", ""), "is not a path"),
        (("--objective", "macs", "--out", "x" * 300), "choose a shorter name"),
    ],
)
def test_search_says_how_to_ask(arguments: tuple[str, ...], said: str) -> None:
    result = call("search", "digits", "--evaluations", 50, *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_score_gives_every_metric_in_the_order_of_the_file(
    predictor: Path, digits: NetworkEncoding, tmp_path: Path
) -> None:
    genomes = digits.sample(20, np.random.default_rng(1))
    (tmp_path / "c.json").write_text(json.dumps([c.to_dict() for c in digits.decode(genomes)]))
    arguments = ("score", "digits", "--predictor", predictor, "--candidates", tmp_path / "c.json")
    for out in ("s.csv", "s.json"):
        assert call(*arguments, "--out", tmp_path / out).exit_code == 0
    frame = pd.read_csv(tmp_path / "s.csv")
    assert frame["position"].tolist() == list(range(20))
    np.testing.assert_array_equal(frame["bit_ops"], bit_ops(digits)(genomes))
    np.testing.assert_allclose(frame["accuracy"], load_predictor(predictor)(genomes), rtol=1e-6)
    assert [row["position"] for row in json.loads((tmp_path / "s.json").read_text())] == list(range(20))


def test_score_names_an_invalid_candidate_by_position_and_reason_or_skips_it(
    digits: NetworkEncoding, tmp_path: Path
) -> None:
    good = digits.decode(digits.sample(2, np.random.default_rng(1)))
    bad = good[0].to_dict() | {"channels": [7] * len(good[0].blocks)}
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, [good[0].to_dict(), bad, good[1].to_dict()])))
    arguments = ("score", "digits", "--candidates", tmp_path / "c.jsonl", "--out", tmp_path / "s.csv")
    said = refusal(*arguments)
    assert said.startswith("candidate 1: 1.1 channels is 7; choose one of [16, ")
    assert not (tmp_path / "s.csv").exists()
    result = call(*arguments, "--skip-invalid")
    assert result.exit_code == 0
    assert "skipped: candidate 1: 1.1 channels is 7" in result.stderr
    assert pd.read_csv(tmp_path / "s.csv")["position"].tolist() == [0, 2]


@pytest.mark.parametrize("name", ["digits", "apq_mobilenet", "ofa_mobilenetv3_w12"])
def test_space_describes(name: str) -> None:
    result = call("space", name)
    assert result.exit_code == 0
    space = SearchSpace.load(name)
    assert f"10^{space.log10_size(bits=False):.2f} networks" in result.output
    for metric in ("latency_ms", "energy_mj", "macs", "bit_ops", "weight_bytes", "peak_activation_bytes"):
        assert metric in result.output


def test_audit_reports_the_published_table_and_refuses_a_space_it_does_not_cover(shared_data) -> None:
    table = shared_data("apq/BitFusion_new.b1.dict")
    output = call("cost", "audit", "apq_mobilenet", "--table", table).output
    assert "latency_ms: 46 of 18813" in output
    assert "energy_mj: 354 of 18813" in output
    assert "does not cover digits: 666 ops are missing" in refusal("cost", "audit", "digits", "--table", table)


def test_transfer_keeps_what_the_start_knows_and_sees_bits(
    predictor: Path, digits: NetworkEncoding, tmp_path: Path
) -> None:
    start = load_predictor(predictor)
    genomes = digits.sample(30, np.random.default_rng(2))
    frame = pd.DataFrame({"candidate_json": [c.to_json() for c in digits.decode(genomes)], "accuracy": start(genomes)})
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    arguments = ("transfer", "--predictor", predictor, "--pairs", tmp_path / "pairs.csv")
    result = call(*arguments, "--out", tmp_path / "new.npz")
    assert result.exit_code == 0, result.output
    assert "transferred: Kendall tau" in result.output
    transferred, fresh = load_predictor(tmp_path / "new.npz"), digits.sample(200, np.random.default_rng(3))
    assert agreement(transferred(fresh), start(fresh), log=False).kendall_tau > 0.8
    frame.rename(columns={"accuracy": "top1"}).to_csv(tmp_path / "pairs.csv", index=False)
    assert "needs one column 'accuracy' or 'loss'" in refusal(*arguments, "--out", tmp_path / "new.npz")
