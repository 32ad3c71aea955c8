"""Once-for-all's two widths are two spaces, and networks of one are not taken for those of the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cost.macs import macs
from apq_tune.errors import CandidateError, SpaceError
from apq_tune.problem.metrics import read_pairs
from apq_tune.space.notation import candidate_from, read_candidates

NARROW, WIDE = SearchSpace.load("ofa_mobilenetv3_w10"), SearchSpace.load("ofa_mobilenetv3_w12")

FILES = ("mbnv3w10_evoga_acc", "mbnv3w10_evonsga2_acc_macs", "mbnv3w10_evounsga3_acc_macs_params")


@pytest.mark.parametrize("name", FILES)
def test_macs_of_width_1_are_those_that_dynas_measured(shared_data: Callable[[str], Path], name: str) -> None:
    path = shared_data(f"dynas/{name}.csv")
    encoding = NetworkEncoding(NARROW)
    genomes = encoding.encode([candidate_from(entry, NARROW) for entry in read_candidates(path)])
    assert np.array_equal(macs(encoding)(genomes), pd.read_csv(path)["MACs"])


def test_channels_are_once_for_alls() -> None:
    def channels(space: SearchSpace) -> list[int]:
        assert space.first is not None
        return [space.stem.channels, space.first.channels, *(stage.channels for stage in space.stages)]

    def divisible(channels: float) -> int:  # once-for-all's own rounding to a multiple of 8
        rounded = max(8, int(channels + 4) // 8 * 8)
        return rounded + 8 * (rounded < 0.9 * channels)

    assert channels(NARROW) == [16, 16, 24, 40, 80, 112, 160]
    assert channels(WIDE) == [24, 24, *(divisible(1.2 * width) for width in channels(NARROW)[2:])]
    assert (NARROW.head.channels, NARROW.head.features) == (960, 1280)
    assert (WIDE.head.channels, WIDE.head.features) == (divisible(1.2 * 960), divisible(1.2 * 1280))


def test_the_old_name_says_which_two_to_choose_from() -> None:
    with pytest.raises(SpaceError, match=r"ofa_mobilenetv3_w12 \(width 1\.2, .* ofa_mobilenetv3_w10 \(width 1\.0"):
        SearchSpace.load("ofa_mobilenetv3")


@pytest.mark.parametrize(("own", "other"), [(NARROW, WIDE), (WIDE, NARROW)])
@pytest.mark.parametrize("name", ["MACs", "macs", None])
def test_networks_of_the_other_width_are_told_by_their_macs(
    tmp_path: Path, own: SearchSpace, other: SearchSpace, name: str | None
) -> None:
    encoding = NetworkEncoding(own)
    entries = [
        {"ks": [3] * 20, "e": [(3, 4, 6)[i % 3]] * 20, "d": [2 + i % 3] * 5, "r": [160 + 16 * (i % 5)]}
        for i in range(12)
    ]
    genomes = encoding.encode([candidate_from(entry, own) for entry in entries])
    table = pd.DataFrame({"Sub-network": list(map(str, entries)), "accuracy": np.linspace(0.7, 0.78, 12)})
    if name is not None:
        table[name] = macs(encoding)(genomes).astype(int)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    assert len(read_pairs(tmp_path / "pairs.csv", own)[0].target) == 12
    if name is None:  # nothing tells
        read_pairs(tmp_path / "pairs.csv", other)
        return
    with pytest.raises(CandidateError, match=rf"these are networks of another space; give {own.name} as the space$"):
        read_pairs(tmp_path / "pairs.csv", other)
