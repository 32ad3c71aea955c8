"""Amounts as people type them."""

from __future__ import annotations

import pytest

from apq_tune import ProblemError
from apq_tune.inputs.quantities import read_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("200kB", "bytes", 200_000),
        ("200 KB", "bytes", 200_000),
        ("200KiB", "bytes", 204_800),
        ("1.5MB", "bytes", 1_500_000),
        ("80k", "bytes", 80_000),
        ("20_000", "bytes", 20_000),
        ("8.4", "ms", 8.4),
        ("8.4 ms", "ms", 8.4),
        ("0.5s", "ms", 500),
        ("50us", "ms", 0.05),
        ("1e-3J", "mJ", 1),
        ("5M", "BitOps", 5e6),
        ("5 GMACs", "MACs", 5e9),
        ("2e6", "MACs", 2e6),
        ("70%", "fraction", 0.7),
        ("-1", "", -1),
        ("1.", "nats", 1),
        (".5", "nats", 0.5),
    ],
)
def test_units_are_read_into_that_of_the_metric(text: str, unit: str, value: float) -> None:
    assert read_quantity(text, unit) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("200kb", "bytes"),  # bits or bytes?
        ("200 ms", "bytes"),
        ("5k", "ms"),
        ("5M", "mJ"),
        ("5MB", "MACs"),
        ("5Mms", "ms"),
        ("nan", "bytes"),
        ("inf", "bytes"),
        ("1e999", "bytes"),
        ("1e308GB", "bytes"),
        ("1,000", "bytes"),
        ("1 000", "bytes"),
        ("0x10", "bytes"),
        ("", "bytes"),
        ("kB", "bytes"),
        ("--1", "bytes"),
        ("_1", "bytes"),
        ("70%", "nats"),
    ],
)
def test_what_is_no_amount_of_that_unit_is_refused_with_what_may_be_written(text: str, unit: str) -> None:
    with pytest.raises(ProblemError, match=r"write|give a finite number"):
        read_quantity(text, unit)
