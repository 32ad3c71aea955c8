import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apq_tune.cost import bit_ops, macs
from apq_tune.space.candidate import Candidate
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import ActivationQuantizer, quantize_weight
from apq_tune.supernet.subnet import Subnet


@pytest.fixture
def supernet(space):
    torch.manual_seed(0)
    net = Supernet(space)
    with torch.no_grad():  # batch norm that does something
        for name, parameter in net.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.add_(0.3 * torch.randn_like(parameter))
            if "transforms" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.fixture
def images():
    return torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def candidates(encoding):
    return encoding.decode(encoding.sample(6, np.random.default_rng(2)))


@pytest.mark.parametrize("quantize", [False, True])
def test_extracted_network_gives_the_output_of_the_supernet(supernet, images, candidates, exact_biases, quantize):
    for candidate in (*candidates, *supernet_extremes(supernet)):
        statistics = supernet.recalibrate(images, candidate, quantize=quantize)
        expected = supernet(images, candidate, quantize=quantize, statistics=statistics)
        subnet = supernet.extract(candidate, statistics)
        difference = (subnet(images, quantize=quantize) - expected).abs()
        print(f"quantize={quantize}: largest difference {difference.max().item():.2e}")
        # A value on the edge of a rounding step may fall to either side; all others agree to float precision.
        assert difference.median() < 1e-5
        assert difference.max() < (1e-4 if not quantize else 0.5)


def supernet_extremes(supernet):
    return NetworkEncoding(supernet.space).extremes()


def test_one_candidate_does_not_change_what_another_gives(supernet, images, candidates):
    first, second = candidates[:2]
    before = supernet(images, first)
    supernet(images, second, quantize=True)
    supernet.recalibrate(images, second)
    assert torch.equal(supernet(images, first), before)


def test_recalibrated_statistics_are_those_of_the_batch(supernet, images, candidates):
    statistics = supernet.recalibrate(images, candidates[0])
    given = supernet(images, candidates[0], statistics=statistics)
    assert torch.allclose(given, supernet(images, candidates[0]), atol=0.15)  # unbiased against biased variance
    assert len(statistics) == 2 + 3 * sum(candidates[0].depths)


def test_bits_and_macs_counted_from_the_extracted_module_equal_the_cost_models(supernet, images, encoding, candidates):
    """Counted from the tensors that flow through the modules, not from the description of the network's ops."""
    for candidate in candidates:
        subnet = supernet.extract(candidate, supernet.recalibrate(images, candidate))
        bits_of, counted = {}, {"macs": 0, "bit_ops": 0}

        def note(_, inputs, output, bits_of=bits_of):
            assert len(output.unique()) <= 2 ** inputs[1]
            bits_of[id(output)] = (inputs[1], output)  # the tensor is kept, so that its id stays its own

        def count(module, inputs, output, bits_of=bits_of, counted=counted):
            x, w_bits = inputs
            n = module.weight[0].numel() * output[0].numel()
            counted["macs"] += n
            counted["bit_ops"] += n * w_bits * bits_of[id(x)][0]

        for module in subnet.modules():
            if isinstance(module, ActivationQuantizer):
                module.register_forward_hook(note)
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        subnet(images)
        genomes = encoding.encode([candidate])
        assert counted["macs"] == macs(encoding)(genomes)[0]
        assert counted["bit_ops"] == bit_ops(encoding)(genomes)[0]


def test_weights_really_have_the_candidates_bits(supernet, images, candidates):
    candidate = candidates[0]
    subnet = supernet.extract(candidate, supernet.recalibrate(images, candidate))
    for module, block in zip(subnet.blocks, candidate.blocks, strict=True):
        for conv, bits in ((module.expand, block.pw_w_bits), (module.depthwise, block.dw_w_bits)):
            for channel in quantize_weight(conv.weight, bits):
                assert len(channel.unique()) <= 2**bits - 1


def test_bits_are_an_argument_of_the_extracted_network(supernet, images, candidates):
    candidate = candidates[0]
    statistics = supernet.recalibrate(images, candidate)
    one, two = (supernet.extract(candidate.with_bits(bits), statistics) for bits in (2, 8))
    assert torch.equal(one(images, bits=candidate.with_bits(8)), two(images))
    assert not torch.equal(one(images), two(images))


def test_sorting_channels_keeps_the_largest_network_and_orders_importance(supernet, images, encoding):
    largest = encoding.extremes()[1]
    before = supernet(images, largest)
    supernet.sort_channels()
    assert torch.allclose(supernet(images, largest), before, atol=1e-4)
    for block in supernet.blocks:
        importance = block.project.weight.abs().sum(dim=(0, 2, 3))
        assert (importance.diff() <= 1e-6).all()


def test_a_smaller_kernel_is_the_transformed_centre_of_the_larger(supernet):
    conv = supernet.blocks[0].depthwise
    centre = conv.weight[:, :, 1:4, 1:4].reshape(-1, 9)
    expected = torch.stack([conv.transforms[0] @ row for row in centre]).reshape(-1, 1, 3, 3)
    assert torch.allclose(conv.weights(1, len(conv.weight), 3), expected, atol=1e-6)


def test_weights_survive_a_round_trip_through_a_state_dict(supernet, images, candidates, space):
    subnet = supernet.extract(candidates[0], supernet.recalibrate(images, candidates[0]))
    other = Subnet(space, Candidate.from_json(candidates[0].to_json()))
    other.load_state_dict(subnet.state_dict())
    assert torch.equal(other(images), subnet(images))


@pytest.mark.parametrize("name", ["apq_mobilenet", "ofa_mobilenetv3_w12"])
def test_imagenet_spaces_run_at_224_extract_exactly_and_have_the_macs_of_the_cost_model(name: str) -> None:
    encoding = NetworkEncoding(SearchSpace.load(name))
    torch.manual_seed(0)
    supernet, images = Supernet(encoding.space), torch.rand(2, 3, 224, 224)
    candidates = [*encoding.extremes(), *encoding.decode(encoding.sample(1, np.random.default_rng(0)))]
    for candidate, expected_macs in zip(candidates, macs(encoding)(encoding.encode(candidates)), strict=True):
        statistics = supernet.recalibrate(images, candidate)
        subnet = supernet.extract(candidate, statistics).eval()
        with torch.no_grad():
            logits = supernet(images, candidate, statistics=statistics)
            torch.testing.assert_close(subnet(images, quantize=False), logits, atol=1e-4, rtol=0)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(images[:1], quantize=False)
        assert counter.get_total_flops() == 2 * expected_macs
