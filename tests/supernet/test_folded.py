"""Folded layers: the integers that kernels compute with, and gradients as if nothing were rounded."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.supernet import folded
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.folded import LARGEST_BIAS, FoldedConv, FoldedLinear, constant_weights, integers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import ActivationQuantizer, weight_step


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_and_biases_are_integers_in_their_units(bits: int) -> None:
    torch.manual_seed(0)
    layer, step = FoldedConv(3, 5, 3), torch.tensor(0.037)
    x = torch.randint(0, 16, (2, 3, 6, 6)) * step
    levels, scales, bias = integers(layer.weight, layer.bias, bits, step)
    assert levels.abs().max() < 2 ** (bits - 1)
    assert torch.equal(scales, weight_step(layer.weight, bits))
    units = layer(x, bits, input_step=lambda: step) / (step * scales.flatten()[:, None, None])
    torch.testing.assert_close(units, units.round(), atol=1e-3, rtol=0)
    exact = functional.conv2d((x / step).round().double(), levels.double(), bias.double())
    torch.testing.assert_close(units.double(), exact, atol=1e-3, rtol=0)


def test_gradients_are_those_without_rounding() -> None:
    torch.manual_seed(0)
    layer, x = FoldedLinear(6, 4), torch.randn(8, 6)
    factors = torch.randn(8, 4)
    (layer(x, 4, input_step=lambda: torch.tensor(0.1)) * factors).sum().backward()
    torch.testing.assert_close(layer.weight.grad, factors.T @ x)
    torch.testing.assert_close(layer.bias.grad, factors.sum(dim=0))


def test_without_bits_nothing_is_rounded() -> None:
    layer, x = FoldedLinear(6, 4), torch.randn(8, 6)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_the_scale_of_a_channel_is_as_large_as_its_bias_needs() -> None:
    weight, bias = torch.tensor([[0.0, 0.0], [0.5, -0.25]]), torch.tensor([-3.0, 3.0])
    levels, scales, integer = integers(weight, bias, 8, torch.tensor(0.01))
    assert levels[0].tolist() == [0, 0]
    assert integer.abs().max() <= LARGEST_BIAS
    torch.testing.assert_close(integer * scales.flatten() * 0.01, bias, rtol=1e-2, atol=0)
    assert torch.equal(scales[1], weight_step(weight, 8)[1])


def test_constant_weights_are_quantized_once_for_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, other, x = FoldedLinear(6, 4), FoldedLinear(6, 4), torch.randn(8, 6)
    uses = [(own, bits, step) for own in (layer, other) for bits in (2, 8) for step in (0.1, 0.02)]
    run = [lambda u=u: u[0](x, u[1], input_step=lambda: torch.tensor(u[2])).detach() for u in uses]
    expected, calls, exact = [one() for one in run], [], folded.integers
    monkeypatch.setattr(folded, "integers", lambda *given: calls.append(given) or exact(*given))
    with constant_weights():
        for _ in range(3):
            assert all(torch.equal(one(), known) for one, known in zip(run, expected, strict=True))
    assert len(calls) == len(uses)
    with torch.no_grad():
        layer.weight *= 2
    with constant_weights():
        assert not torch.equal(run[0](), expected[0])  # what was kept is gone with its context
    (layer(x, 4, input_step=lambda: torch.tensor(0.1))).sum().backward()  # and gradients are on again
    assert layer.weight.grad is not None


def test_what_sums_and_the_global_mean_read_is_quantized_and_calibrated(space: SearchSpace) -> None:
    torch.manual_seed(0)
    net, images = Supernet(space), torch.rand(32, 1, 8, 8)
    largest = NetworkEncoding(space).extremes()[1]
    calibrate_quantizers(net, [lambda: net.recalibrate(images, largest)])
    subnet = net.extract(largest, net.recalibrate(images, largest, quantize=True)).eval()
    stored = subnet.stored_quantizers()
    sums = [layer for layer in subnet.layers if layer.kind in ("add", "pool")]
    assert len(sums) > 2
    assert {name for layer in sums for name in layer.inputs} <= set(stored)
    assert all(quantizer.clip.item() != 6.0 for quantizer in stored.values())  # the value before calibration
    seen = []
    for quantizer in stored.values():
        quantizer.register_forward_hook(lambda own, given, output: seen.append((own, given[1], output)))
    subnet(images)
    assert len(seen) == len(stored)
    for quantizer, bits, output in seen:
        assert isinstance(quantizer, ActivationQuantizer)
        assert bits == space.fixed_bits
        levels = output / quantizer.step(bits)
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
