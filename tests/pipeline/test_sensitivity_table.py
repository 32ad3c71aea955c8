"""Tables of sensitivities: their cells against a plain loop, resumed, and refused for anything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apq_tune import CalibratedModel, ModelSpace, RunError, SearchSpace
from apq_tune.methods.bit_program import open_bits
from apq_tune.pipeline import sensitivity_table
from apq_tune.pipeline.sensitivity_table import measure_sensitivity
from apq_tune.space.encodings import encoding_of
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import quantize_weight
from apq_tune.supernet.sensitivity import encoded, shuffled, tensor_errors


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def subnet(images: torch.Tensor) -> AnySubnet:
    torch.manual_seed(0)
    supernet = Supernet(SearchSpace.load("digits"))
    encoding = NetworkEncoding(supernet.space)
    (candidate,) = encoding.decode(encoding.sample(1, np.random.default_rng(0)))
    own = supernet.extract(candidate, supernet.recalibrate(images, candidate))
    calibrate_quantizers(own, [lambda: own(images, quantize=False)])
    return own


def test_a_cell_is_the_mean_divergence_from_full_precision_above_that_at_the_most_bits(
    subnet: AnySubnet, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity_table, "MOST", 5)  # parts of 5, 5 and 2 images
    table = measure_sensitivity(subnet, images)
    encoding, genome = encoded(subnet)
    assert sorted(table.losses) == open_bits(encoding, genome).tolist()
    top = encoding.at_largest(genome[None], ("w_bits", "a_bits"))[0]

    def divergence(at: np.ndarray) -> np.ndarray:
        (candidate,) = encoding.decode(at[None])
        with torch.no_grad():
            p, q = (subnet(images, quantize=i, bits=candidate).double().softmax(1).numpy() for i in (False, True))
        return (p * np.log(p / q)).sum(axis=1)

    for gene in open_bits(encoding, genome)[::3]:
        for value in range(encoding.n_choices[gene]):
            changed = top.copy()
            changed[gene] = value
            own = divergence(changed) - divergence(top)
            assert table.losses[gene][value] == pytest.approx(own.mean(), rel=1e-5, abs=1e-9)
            assert table.errors[gene][value] == pytest.approx(own.std() / np.sqrt(11), rel=1e-5, abs=1e-9)
    assert all(row[-1] == 0 for row in table.losses.values())


def test_an_interrupted_measurement_goes_on_gene_by_gene_and_a_finished_one_measures_nothing(
    subnet: AnySubnet, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "table.json", measure_sensitivity(subnet, images)

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(subnet, images, path, progress=stop)
    seen: list[tuple[int, int]] = []
    resumed = measure_sensitivity(subnet, images, path, progress=lambda *done: seen.append(done))
    n = len(whole.losses)
    assert seen == [(done, n) for done in range(3, n + 1)]
    for gene, row in whole.losses.items():
        np.testing.assert_allclose(resumed.losses[gene], row, atol=1e-12)
    monkeypatch.setattr(sensitivity_table, "measure_cells", None)
    again = measure_sensitivity(subnet, images, path)
    assert all((again.losses[gene] == row).all() for gene, row in resumed.losses.items())


def test_tables_of_other_networks_images_or_formats_and_damaged_ones_are_refused(
    subnet: AnySubnet, images: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    measure_sensitivity(subnet, images, path)
    good = json.loads(path.read_text())
    with pytest.raises(RunError, match=r"table\.json: was measured with other images than these; delete it"):
        measure_sensitivity(subnet, images + 1e-6, path)
    parameter = next(iter(subnet.parameters()))
    with torch.no_grad():
        parameter += 1e-4
        try:
            with pytest.raises(RunError, match="was measured with other weights than these"):
                measure_sensitivity(subnet, images, path)
        finally:
            parameter -= 1e-4
    path.write_text(json.dumps(good | {"format": 0}))
    with pytest.raises(RunError, match="has the format 0, this version measures"):
        measure_sensitivity(subnet, images, path)
    path.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        measure_sensitivity(subnet, images, path)


@pytest.mark.parametrize(
    "damage", [{"0": {"no gene": {}}}, {"x": {}}, {"0": {"1.1 pw_w_bits": {"2": [1]}}}, {"0": 7}, 7]
)
def test_rows_that_are_no_measurements_are_refused(
    subnet: AnySubnet, images: torch.Tensor, tmp_path: Path, damage: object
) -> None:
    path = tmp_path / "table.json"
    measure_sensitivity(subnet, images, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parts": damage}))
    with pytest.raises(RunError, match=r"no measurements|no table"):
        measure_sensitivity(subnet, images, path)


def test_errors_of_tensors_add_up_over_the_layers_that_share_a_gene(subnet: AnySubnet, images: torch.Tensor) -> None:
    table = tensor_errors(subnet, images)
    encoding, _ = encoded(subnet)
    assert all((np.diff(row) < 0).all() and row[-1] == 0 for row in table.values())
    gene = encoding.names.index("1.1 pw_w_bits")  # of the expanding and the projecting layer
    for value, bits in enumerate(encoding.choices[gene][:-1]):
        expected = 0.0
        for name in ("1.1.expand", "1.1.project"):
            weight = subnet.weighted()[name].weight.detach()
            error = quantize_weight(weight, bits) - weight
            expected += float(error.square().sum() / weight.square().sum())
        assert table[gene][value] == pytest.approx(expected, rel=1e-5)


def test_a_shuffled_table_has_the_same_rows_within_each_group() -> None:
    table = {gene: np.arange(3.0) + 10 * gene for gene in range(8)}
    groups = {gene: "w" if gene < 5 else "a" for gene in table}
    own = shuffled(table, np.random.default_rng(0), groups)
    for group in "wa":
        genes = [gene for gene in table if groups[gene] == group]
        assert sorted(own[gene][0] for gene in genes) == sorted(table[gene][0] for gene in genes)
    assert list(own) == list(table) and any((own[gene] != table[gene]).any() for gene in table)


def test_networks_without_open_bits_and_what_is_no_network_are_refused() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 3))
    images = torch.rand(4, 1, 6, 6)
    space = ModelSpace.from_module(module, images)  # both are ends, which have 8 bits
    model = CalibratedModel.of(space, module.state_dict(), images)
    with pytest.raises(RunError, match="has no bits to choose in this network; give several w_bits"):
        measure_sensitivity(model.subnet(encoding_of(space).extremes()[1]), images)
    with pytest.raises(RunError, match=r"a CalibratedModel is no network .* CalibratedModel\.subnet"):
        measure_sensitivity(model, images)  # type: ignore[arg-type]
