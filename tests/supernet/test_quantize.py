import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from apq_tune.supernet.quantize import (
    GAUSSIAN_STEP,
    ActivationQuantizer,
    activation_levels,
    fitted_factors,
    quantize_weight,
    weight_step,
)


@pytest.mark.parametrize("bits", range(2, 9))
def test_gaussian_step_minimises_the_mean_squared_error_of_a_gaussian(bits):
    x = np.linspace(-8, 8, 200_001)
    density = norm.pdf(x) / norm.pdf(x).sum()
    qmax = 2 ** (bits - 1) - 1

    def error(step):
        return (density * (np.clip(np.round(x / step), -qmax, qmax) * step - x) ** 2).sum()

    best = minimize_scalar(error, bounds=(2 / qmax, 5 / qmax), method="bounded", options={"xatol": 1e-7}).x
    if bits == 2:
        best = minimize_scalar(error, bounds=(0.5, 2.5), method="bounded").x
    assert error(GAUSSIAN_STEP[bits]) <= error(best) * 1.001


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_take_at_most_the_symmetric_narrow_levels_of_each_channel(bits):
    weight = (
        torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-2, 2, 6)[:, None, None, None]
    )
    quantized = quantize_weight(weight, bits)
    levels = quantized / weight_step(weight, bits)
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-3
    for channel in quantized:
        assert len(channel.unique()) <= 2**bits - 1


def test_weight_quantization_commutes_with_scaling_a_channel_so_batch_norm_can_be_folded_either_way():
    weight = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    factor = torch.tensor([0.1, -2.0, 3.0, 1.0, 40.0])[:, None, None, None]
    assert torch.allclose(quantize_weight(weight * factor, 3), quantize_weight(weight, 3) * factor, rtol=1e-5)


def test_fitted_steps_have_the_least_error_of_each_channel_and_dead_channels_stay_finite():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(6, 40, 3, 3, generator=generator) ** 3  # long tails, as after training in full precision
    weight[2] = 0
    bits = (2, 3, 4, 8)
    factors = fitted_factors(weight, bits)
    assert factors.shape == (4, 6) and (factors[:, 2] == 1).all()
    for own, factor in zip(bits, factors, strict=True):
        error = (quantize_weight(weight, own, factor) - weight).square().sum(dim=(1, 2, 3))
        for other in torch.linspace(0.2, 6, 30):
            tried = (quantize_weight(weight, own, torch.full((6,), other)) - weight).square().sum(dim=(1, 2, 3))
            assert (error <= tried * 1.05).all()
        assert error[2] == 0
    usual = (quantize_weight(weight, 8) - weight).square().sum()
    assert (quantize_weight(weight, 8, factors[-1]) - weight).square().sum() < usual / 10
    scale = torch.tensor([0.1, -2.0, 3.0, 1.0, 40.0, 5.0])[:, None, None, None]  # of batch norm, folded before or after
    folded = quantize_weight(weight * scale, 3, factors[1])
    assert torch.allclose(folded, quantize_weight(weight, 3, factors[1]) * scale, rtol=1e-5)


def test_gradient_passes_weights_straight_through():
    weight = torch.randn(4, 4, requires_grad=True)
    (quantize_weight(weight, 2) * torch.arange(16.0).reshape(4, 4)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(16.0).reshape(4, 4))


@pytest.mark.parametrize(
    ("bits", "signed", "expected"), [(2, False, (0, 3)), (8, True, (-128, 127)), (4, True, (-8, 7))]
)
def test_activation_levels(bits, signed, expected):
    assert activation_levels(bits, signed) == expected


def test_unsigned_quantizer_replaces_relu6_and_full_precision_is_relu6():
    quantizer = ActivationQuantizer((8,), "relu6")
    x = torch.linspace(-3, 9, 101)
    assert torch.equal(quantizer(x, None), x.clamp(0, 6))
    assert (quantizer(x, 8) - x.clamp(0, 6)).abs().max() <= 6 / 255 / 2 + 1e-6


def test_gradient_of_the_range_is_the_learned_step_size_formula():
    """Against LSQ (Esser 2020) written out element by element."""
    quantizer = ActivationQuantizer((2, 4), None)
    with torch.no_grad():
        quantizer.clip[:] = torch.tensor([1.3, 0.7])
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    weights = torch.linspace(0.5, 1.5, 41)
    (quantizer(x, 4) * weights).sum().backward()
    step, low, high = 0.7 / 7, -8, 7
    slopes, passed = [], []
    for value in x.detach().tolist():
        ratio = np.float32(value) / np.float32(step)
        if ratio <= low:
            slopes.append(low)
        elif ratio >= high:
            slopes.append(high)
        else:
            slopes.append(float(np.round(ratio)) - ratio)
        passed.append(1.0 if low < ratio < high else 0.0)
    expected = float(np.dot(slopes, weights.numpy())) / high
    assert quantizer.clip.grad[0] == 0
    assert quantizer.clip.grad[1].item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(x.grad, weights * torch.tensor(passed))


@pytest.mark.parametrize("signed", [True, False])
def test_calibration_beats_the_largest_magnitude_on_heavy_tails_at_few_bits(signed):
    x = torch.distributions.StudentT(3).sample((20_000,))
    quantizer = ActivationQuantizer((2, 4, 8), None if signed else "relu6")
    quantizer.calibrate(x)
    target = quantizer(x, None)
    for bits, clip in zip(quantizer.bits, quantizer.clip.detach().clone(), strict=True):
        calibrated = (quantizer(x, bits) - target).square().mean()
        with torch.no_grad():
            quantizer.clip[quantizer.bits.index(bits)] = target.abs().max()
        largest = (quantizer(x, bits) - target).square().mean()
        assert calibrated <= largest
        assert bits == 8 or clip < target.abs().max()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("skew", ["left", "right", "none"])
@pytest.mark.parametrize("activation", [None, "h_swish"])
def test_calibration_finds_the_clip_value_of_a_direct_search(bits: int, skew: str, activation) -> None:
    """Through the quantizer itself: signed levels reach one step further below zero than above."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(4000).exponential_(generator=generator)
    x = {"left": -x, "right": x, "none": torch.where(torch.rand(4000, generator=generator) < 0.5, -x, x)}[skew]
    quantizer = ActivationQuantizer((bits,), activation)
    target = quantizer(x, None)
    quantizer.calibrate(x)

    def error() -> float:
        return (quantizer(x, bits) - target).square().mean().item()

    found, errors = error(), []
    for clip in torch.linspace(0.01, 1.0, 300) * target.abs().max():
        with torch.no_grad():
            quantizer.clip[0] = clip
        errors.append(error())
    assert found <= 1.06 * min(errors)
