"""Searches stay within what a predictor's pairs measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from apq_tune import CandidateError, FunctionMetric, NetworkEncoding, Objective, Problem, SearchSpace, search
from apq_tune.cli import cli
from apq_tune.predict import fit_ridge
from apq_tune.predict.files import predictor_bytes
from apq_tune.problem.metrics import describe_constant, read_pairs
from apq_tune.searchers import ALGORITHMS
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.measured import measured_values, outside, within


def inside_by_hand(encoding: NetworkEncoding, mask: np.ndarray, genomes: np.ndarray) -> np.ndarray:
    active = encoding.active_genes(genomes)
    inside = []
    for genome, on in zip(genomes, active, strict=True):
        inside.append(all(mask[gene, genome[gene]] for gene in np.flatnonzero(on)))
    return np.array(inside)


@pytest.fixture
def mask(tiny: NetworkEncoding, everything: np.ndarray) -> np.ndarray:
    """Depth 1 alone; of the second block's bits some."""
    active = tiny.active_genes(everything)
    depth, bits = tiny.names.index("depth 1"), tiny.names.index("2.1 pw_w_bits")
    few = everything[(everything[:, depth] == 0) & (everything[:, bits] == 1)]
    assert active[:, bits].all()
    return measured_values(tiny, few)


def test_the_part_of_a_tiny_space_is_that_of_its_enumeration(
    tiny: NetworkEncoding, everything: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> None:
    part = within(tiny, mask)
    expected = everything[inside_by_hand(tiny, mask, everything)]
    assert 0 < len(expected) < len(everything)
    assert part.size() == len(expected)
    np.testing.assert_array_equal(np.unique(part.enumerate(), axis=0), np.unique(expected, axis=0))
    drawn = part.sample(500, rng)
    assert inside_by_hand(tiny, mask, drawn).all()
    assert tiny.is_allowed(drawn).all()
    assert len(np.unique(drawn, axis=0)) > 0.8 * len(expected)
    moved = part.repair(tiny.sample(500, rng), rng)
    assert inside_by_hand(tiny, mask, moved).all()
    assert tiny.is_allowed(moved).all()
    np.testing.assert_array_equal(part.repair(drawn, rng), drawn)
    assert inside_by_hand(tiny, mask, part.uniform_policies()).all()
    with pytest.raises(CandidateError, match=r"candidate 0: depth 1 is 2, outside of what .* measured \(1\)"):
        part.encode([tiny.extremes()[1]])


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("n", [60, 20_000])
def test_no_search_leaves_it(tiny: NetworkEncoding, mask: np.ndarray, algorithm: str, n: int) -> None:
    asked: list[np.ndarray] = []

    def wide(genomes: np.ndarray) -> np.ndarray:
        asked.append(genomes)
        return -1.0 * genomes.sum(axis=1)

    search(
        Problem(within(tiny, mask), [Objective(FunctionMetric("wide", "", wide))]),
        ALGORITHMS[algorithm](),
        n_evaluations=n,
    )
    assert inside_by_hand(tiny, mask, np.concatenate(asked)).all()


def test_what_is_measured_all_over_restricts_nothing(tiny: NetworkEncoding, everything: np.ndarray) -> None:
    mask = measured_values(tiny, everything)
    assert outside(tiny, mask) == []
    assert within(tiny, mask) is tiny


def test_numbers_are_inside_between_what_was_measured_and_words_by_themselves() -> None:
    space = SearchSpace.from_choices({"n": [5, 1, 3, 9], "op": ["a", "b", "c", "d"], "flag": [False, True]})
    encoding = FlatEncoding(space)
    measured = encoding.encode([space.candidate_of({"n": n, "op": op, "flag": True}) for n, op in ((1, "a"), (5, "c"))])
    mask = measured_values(encoding, measured)
    assert outside(encoding, mask) == ["n 5, 1, 3", "op a, c", "flag True"]
    part = within(encoding, mask)
    assert part.size() == len(part.enumerate()) == 6
    assert {(c["n"], c["op"]) for c in part.decode(part.sample(200, np.random.default_rng(0)))} == {
        (n, op) for n in (1, 3, 5) for op in "ac"
    }
    with pytest.raises(CandidateError, match=r"n is 9, outside of .* \(5, 1, 3\); choose one of those, or give"):
        part.encode([space.candidate_of({"n": 9, "op": "a", "flag": True})])


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of choices, pairs all at one resolution, and a predictor of them."""
    folder = tmp_path_factory.mktemp("named")
    choices = {
        "resolution": [160, 192, 224],
        "op": ["none", "conv", "pool"],
        "stride": [[1, 1], [2, 2]],
        "w": [8, 16, 32],
    }
    (folder / "choices.json").write_text(json.dumps({"choices": choices}))
    rows = [
        {"resolution": 224, "op": op, "stride": str(stride), "w": w, "Top-1 Acc (%)": 60 + 9 * i + 3 * j + k}
        for i, op in enumerate(choices["op"])
        for j, stride in enumerate([(1, 1), (2, 2)])
        for k, w in enumerate(choices["w"])
    ]
    pd.DataFrame(rows).to_csv(folder / "pairs.csv")
    space = SearchSpace.load(folder / "choices.json")
    encoding = FlatEncoding(space)
    pairs, is_loss = read_pairs(folder / "pairs.csv", space, column="Top-1 Acc (%)", percent=True)
    assert not is_loss
    predictor = fit_ridge(encoding, pairs, 0, log=is_loss)
    content = predictor_bytes(predictor, measured_values(encoding, pairs.genomes))
    (folder / "p.npz").write_bytes(content)
    assert describe_constant(encoding, pairs.genomes) == (
        "1 of 4 choices never vary in the pairs, so nothing is learned about them: resolution (224)"
    )
    return folder


def test_a_search_of_named_choices_stays_at_what_was_measured_unless_asked(fitted: Path) -> None:
    command = ("search", fitted / "choices.json", "--predictor", fitted / "p.npz", "--out", fitted / "out")
    told = " ".join(invoke(*command).split())
    assert (
        "1 of 4 choices have values that were never measured (resolution 224); the search keeps to measured ones, "
        "--extrapolate searches" in told
    )
    (best,) = json.loads((fitted / "out" / "front.json").read_text())["candidates"]
    assert best == {"choices": {"resolution": 224, "op": "pool", "stride": [2, 2], "w": 32}}
    told = " ".join(invoke(*command, "--extrapolate", "--evaluations", 30).split())
    assert "elsewhere the predictor extrapolates" in told
    front = json.loads((fitted / "out" / "front.json").read_text())
    assert front["provenance"]["n_evaluations"] == 30


def test_candidates_of_named_choices_are_scored_from_every_kind_of_file(fitted: Path) -> None:
    frame = pd.read_csv(fitted / "pairs.csv")[["resolution", "op", "stride", "w"]]
    frame.to_csv(fitted / "c.csv", index=False)
    entries = [
        {"choices": {"resolution": 224, "op": op, "stride": json.loads(s.replace("(", "[").replace(")", "]")), "w": w}}
        for op, s, w in zip(frame["op"], frame["stride"], frame["w"], strict=True)
    ]
    (fitted / "c.json").write_text(json.dumps(entries))
    (fitted / "c.jsonl").write_text("\n".join(map(json.dumps, entries)))
    scored = []
    for name in ("c.csv", "c.json", "c.jsonl"):
        arguments = (fitted / "choices.json", "--predictor", fitted / "p.npz", "--candidates", fitted / name)
        invoke("score", *arguments, "--out", fitted / "s.csv")
        scored.append(pd.read_csv(fitted / "s.csv"))
    pd.testing.assert_frame_equal(scored[0], scored[1])
    pd.testing.assert_frame_equal(scored[0], scored[2])
    assert scored[0]["accuracy"].between(0.5, 1).all()
    assert scored[0]["accuracy"].corr(pd.read_csv(fitted / "pairs.csv")["Top-1 Acc (%)"]) > 0.99
