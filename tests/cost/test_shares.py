"""What single layers contribute to a cost adds up to the cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apq_tune import NetworkEncoding, SearchSpace, load_cost_table
from apq_tune.cost.shares import PEAKS, layer_costs
from apq_tune.problem.costs import Costs


@pytest.mark.parametrize("name", ["digits", "mobilenet_cifar"])
def test_layers_add_up_to_every_built_in_cost_or_reach_its_peak(name: str) -> None:
    space = SearchSpace.load(name)
    encoding = NetworkEncoding(space)
    genomes = encoding.sample(10, np.random.default_rng(0))
    for metric, cost in Costs.of(encoding).metrics.items():
        for candidate, whole in zip(encoding.decode(genomes), cost(genomes), strict=True):
            shares = layer_costs(metric, space.network, space.values_of(candidate))
            assert shares is not None
            total = max(shares.values()) if metric in PEAKS else sum(shares.values())
            assert total == pytest.approx(whole), (metric, str(candidate))


def test_layers_of_a_table_add_up_to_it_without_the_fixed_parts(encoding: NetworkEncoding, tmp_path: Path) -> None:
    space, path = encoding.space, tmp_path / "table.csv"
    rows = {"fixed,,,,,,,,,100"}
    for candidate in encoding.decode(encoding.sample(2000, np.random.default_rng(0))):
        for layer in space.network.at(space.values_of(candidate)):
            if (op := layer.op) is not None and "." in layer.name:
                shape = (op.in_channels, op.out_channels, op.in_size, op.kernel_size, op.stride, op.groups)
                key = (*shape, op.w_bits, op.a_bits)
                rows.add(f"conv,{','.join(map(str, key))},{op.macs * op.w_bits % 97}")
    head = "op,in_channels,out_channels,in_size,kernel_size,stride,groups,w_bits,a_bits,measured_ms"
    path.write_text("\n".join([head, *sorted(rows)]) + "\n")
    table = load_cost_table(path)
    genomes = encoding.sample(5, np.random.default_rng(0))
    (cost,) = table.models(encoding)
    for candidate, whole in zip(encoding.decode(genomes), cost(genomes), strict=True):
        shares = layer_costs("measured_ms", space.network, space.values_of(candidate), [table])
        assert shares is not None
        assert "stem" not in shares
        assert sum(shares.values()) + 100 == pytest.approx(whole)
