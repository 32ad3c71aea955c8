"""Pairs as people write them: each cell that makes no sense is named by its row and column."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apq_tune import ApqError, NetworkEncoding
from apq_tune.problem.metrics import read_pairs


@pytest.fixture
def frame(tiny: NetworkEncoding, everything: np.ndarray) -> pd.DataFrame:
    candidates = tiny.decode(everything[:: len(everything) // 12])
    return pd.DataFrame({"candidate_json": [c.to_json() for c in candidates], "accuracy": 0.5}).astype(object)


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("candidate_json", "", "row 3: candidate_json is empty; give a candidate in every row, or remove the row"),
        (
            "candidate_json",
            '{"depths": [1',
            "row 3: candidate_json is '{\"depths\": [1', which is not a candidate in JSON",
        ),
        ("candidate_json", "two blocks", "row 3: candidate_json is 'two blocks', which is not a candidate in JSON"),
        ("candidate_json", "[" * 5000, "row 3: candidate_json is"),
        ("candidate_json", '{"choices": {"a": 1}}', "row 3: is a candidate of named choices; tiny has networks"),
        ("candidate_json", "5", "row 3: a candidate has the keys"),
        ("accuracy", "", "row 3: accuracy is empty; give a finite number"),
        ("accuracy", "0,5", "row 3: accuracy is '0,5', with a comma: write 0.5; give a finite number"),
        ("accuracy", "50%", "row 3: accuracy is '50%': write 50 and"),
        ("accuracy", "nan", "row 3: accuracy is 'nan'"),
        (
            "accuracy",
            "75.2",
            "row 3: accuracy is 75.2; an accuracy is a fraction of 1, these look like percentages: give",
        ),
        ("accuracy", "-1", "row 3: accuracy is -1; an accuracy is above 0 and at most 1"),
        ("accuracy", "500", "row 3: accuracy is 500; an accuracy is above 0 and at most 1"),
    ],
)
def test_a_cell_is_refused_by_row_and_column(
    frame: pd.DataFrame, tiny: NetworkEncoding, tmp_path: Path, column: str, cell: str, said: str
) -> None:
    frame.loc[2, column] = cell
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ApqError, match=re.escape(f"p.csv: {said}")):
        read_pairs(tmp_path / "p.csv", tiny.space)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.split("\n", 1)[0] + "\n" + text.split("\n", 1)[1].replace("\n", ",,\n"),
        lambda text: text.replace("\n", "\n\n"),
    ],
)
def test_what_spreadsheets_add_changes_nothing(
    frame: pd.DataFrame, tiny: NetworkEncoding, tmp_path: Path, change: Callable[[str], str]
) -> None:
    (tmp_path / "p.CSV").write_text(change(frame.to_csv(index=False)), "utf-8")
    pairs, is_loss = read_pairs(tmp_path / "p.CSV", tiny.space)
    assert [c.to_json() for c in tiny.decode(pairs.genomes)] == list(frame["candidate_json"])
    assert (pairs.target == 0.5).all()
    assert not is_loss


def test_another_column_percentages_and_repeats(frame: pd.DataFrame, tiny: NetworkEncoding, tmp_path: Path) -> None:
    named = frame.rename(columns={"accuracy": "Top-1 Acc (%)"}).assign(**{"Top-1 Acc (%)": 75.5})
    pd.concat([named, named]).to_csv(tmp_path / "p.csv", index=False)
    pairs, is_loss = read_pairs(tmp_path / "p.csv", tiny.space, column="Top-1 Acc (%)", percent=True)
    assert (len(pairs.target), is_loss) == (2 * len(frame), False)
    assert pairs.target == pytest.approx(0.755)
    pd.concat([named[:4]] * 5).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ApqError, match="its 20 pairs are of 4 candidates; give at least 10 different ones"):
        read_pairs(tmp_path / "p.csv", tiny.space, column="Top-1 Acc (%)", percent=True)
    with pytest.raises(ApqError, match=r"needs one column 'accuracy' or 'loss', has .* --column NAME takes another"):
        read_pairs(tmp_path / "p.csv", tiny.space)
