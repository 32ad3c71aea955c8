"""Programs as torch.export files and as C: both give the logits of the integer reference, bit by bit."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from apq_tune import DeployError, NetworkEncoding, SearchSpace
from apq_tune.cost import named_cost
from apq_tune.deploy import reference
from apq_tune.deploy.arena import arena_of
from apq_tune.deploy.c_file import COMPILER, c_bytes, flash_bytes, load_c, packed, read_c
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.program import AddStep, IntegerTensor, Program, RequantizeStep, WeightedStep
from apq_tune.deploy.torch_file import ProgramModule, load_torch, torch_bytes
from apq_tune.network.layer import IMAGE
from apq_tune.supernet.batches import resized
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet

BITS = {
    "mbconv": ("pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits"),
    "residual": ("conv1_w_bits", "conv1_a_bits", "conv2_w_bits", "conv2_a_bits"),
    "fused_mbconv": ("fused_w_bits", "fused_a_bits", "pw_w_bits", "pw_a_bits"),
}

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here to compile C with")


def space_of(block: str = "mbconv", **changes: Any) -> SearchSpace:
    content: dict[str, Any] = {
        "format": 1,
        "name": block,
        "block": block,
        "input": {"channels": 3, "size": 9},
        "classes": 5,
        "stem": {"channels": 8},
        "stages": [
            {"channels": 8, "depth": [2], "kernel_size": [3, 5]},
            {"channels": 12, "stride": 2, "depth": [1, 2]},
        ],
        "head": {"channels": 16},
        "choices": {"kernel_size": [3], "expand_ratio": [1, 2], **{key: list(range(2, 9)) for key in BITS[block]}},
    }
    return SearchSpace.from_dict({**content, **changes})


FLOATING = {
    "squeeze-excite": [{"channels": 8, "depth": [2], "squeeze_excite": True}],
    "hard swish": [{"channels": 8, "depth": [1], "activation": "h_swish"}],
}

SPACES = {
    "mbconv": space_of(),
    "residual": space_of("residual"),
    "fused, first, features": space_of("fused_mbconv", first={"channels": 8}, head={"channels": 16, "features": 8}),
    "5 bits between blocks": space_of("residual", fixed_bits=5),
    "kernels as large as images": space_of(
        input={"channels": 3, "size": 7},
        stages=[
            {"channels": 8, "stride": 2, "depth": [1], "kernel_size": [7]},
            {"channels": 12, "stride": 2, "depth": [1]},
        ],
    ),
    "resized": space_of(input={"channels": 3, "size": [8, 12]}),
}


def networks_of(space: SearchSpace, n: int = 2) -> tuple[list[Subnet], NDArray[np.float32]]:
    """Random networks with random weights, and images."""
    torch.manual_seed(0)
    size = space.resolutions[-1]
    net, encoding, images = Supernet(space), NetworkEncoding(space), torch.rand(24, space.input.channels, size, size)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    candidates = encoding.decode(encoding.sample(n, np.random.default_rng(3)))
    calibrate_quantizers(net, [lambda c=c: net.recalibrate(images, c) for c in candidates])  # type: ignore[misc]
    return [net.extract(c, net.recalibrate(images, c)).eval() for c in candidates], images.numpy()


@pytest.mark.parametrize("name", SPACES)
def test_torch_and_c_give_the_logits_of_the_integer_reference(name: str, tmp_path: Path) -> None:
    subnets, images = networks_of(SPACES[name])
    for subnet in subnets:
        program = program_of(subnet)
        read = resized(torch.tensor(images), *program.tensors[IMAGE].shape[1:]).numpy()
        right = reference.run(program, read)
        np.testing.assert_array_equal(ProgramModule(program)(torch.tensor(read)).numpy(), right)
        if shutil.which("gcc") is not None:
            (tmp_path / "net.c").write_bytes(c_bytes(program, {"name": "*/ \\ ?"}))
            run, metadata = load_c(tmp_path / "net.c")
            assert metadata == {"name": "*/ \\ ?"}
            np.testing.assert_array_equal(run(read), right)


def test_a_torch_file_takes_any_number_of_images(tmp_path: Path) -> None:
    (subnet,), images = networks_of(SPACES["resized"], 1)
    program = program_of(subnet)
    images = resized(torch.tensor(images), *program.tensors[IMAGE].shape[1:]).numpy()
    (tmp_path / "net.pt2").write_bytes(torch_bytes(program, {"name": "of it"}))
    run, metadata = load_torch(tmp_path / "net.pt2")
    assert metadata == {"name": "of it"}
    for n in (1, 7, 24):
        np.testing.assert_array_equal(run(images[:n]), reference.run(program, images[:n]))


@needs_gcc
def test_the_c_file_compiles_alone_without_warnings_and_keeps_what_it_says(tmp_path: Path) -> None:
    program = program_of(networks_of(SPACES["mbconv"])[0][0])
    source = tmp_path / "net.c"
    source.write_bytes(c_bytes(program, {}))
    text = source.read_text("ascii")
    subprocess.run([*COMPILER, "-Wextra", "-pedantic", "-c", "net.c", "-o", "net.o"], cwd=tmp_path, check=True)
    sizes = subprocess.run(["nm", "-S", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    of = {line.split()[3]: int(line.split()[1], 16) for line in sizes.splitlines() if len(line.split()) == 4}
    if of:  # binutils are there
        tables = sum(size for symbol, size in of.items() if re.fullmatch(r"[wbmi]\d+", symbol))
        assert (of["apq_arena"], tables) == (arena_of(program).n_bytes, flash_bytes(program))
        assert of["apq_run"] > 0
    assert f"RAM: {arena_of(program).n_bytes} bytes" in text
    assert f"Flash: {flash_bytes(program)} bytes" in text


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_packed_without_gaps(bits: int) -> None:
    values = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 13).astype(np.int8)
    stream = "".join(f"{byte:08b}"[::-1] for byte in packed(values, bits))
    assert len(stream) == 8 * math.ceil(13 * bits / 8)
    unsigned = [int(stream[i * bits : (i + 1) * bits][::-1], 2) for i in range(13)]
    assert [u - (1 << bits) * (u >= 1 << bits - 1) for u in unsigned] == values.tolist()


@pytest.mark.parametrize("name", SPACES)
def test_no_tensor_of_the_arena_is_overwritten_while_it_is_needed(name: str) -> None:
    for subnet in networks_of(SPACES[name], 4)[0]:
        program = program_of(subnet)
        arena = arena_of(program)
        held: dict[int, str] = {}  # what each byte holds, as the steps are done one after the other
        peak = 0
        for number, step in enumerate(program.steps):
            later = {name for other in program.steps[number:] for name in other.inputs}
            peak = max(peak, sum(size_of(program, name) for name in later if name in set(held.values())))
            for source in step.inputs:
                if source in arena.offsets:
                    assert all(held[byte] == source for byte in bytes_of(program, arena.offsets, source))
            if step.output in arena.offsets:
                own = bytes_of(program, arena.offsets, step.output)
                for source in set(step.inputs) & set(arena.offsets):
                    theirs = bytes_of(program, arena.offsets, source)
                    meets = set(own) & set(theirs)
                    assert not meets or (own == theirs and isinstance(step, AddStep | RequantizeStep))
                held |= dict.fromkeys(own, step.output)
        assert peak <= arena.n_bytes <= 2 * peak


@pytest.mark.parametrize("block", BITS)
def test_the_arena_of_networks_at_8_bits_is_the_ram_that_the_cost_counts(block: str) -> None:
    """Nothing is requantized there, and chains with residual blocks leave no gaps."""
    plain = space_of(block).model_dump(mode="json", exclude_none=True)
    space = SearchSpace.from_dict(plain | {"choices": plain["choices"] | {key: [8] for key in BITS[block]}})
    encoding = NetworkEncoding(space)
    genomes = encoding.sample(6, np.random.default_rng(3))  # those of the networks
    counted = named_cost("device_ram_bytes", encoding)(genomes)
    assert [arena_of(program_of(subnet)).n_bytes for subnet in networks_of(space, 6)[0]] == counted.tolist()
    assert len(set(counted)) > 1


def size_of(program: Program, name: str) -> int:
    return math.prod(program.tensors[name].shape) if isinstance(program.tensors[name], IntegerTensor) else 0


def bytes_of(program: Program, offsets: Any, name: str) -> range:
    return range(offsets[name], offsets[name] + size_of(program, name))


@pytest.mark.parametrize("kind", FLOATING)
def test_floating_point_steps_are_refused_by_c_and_run_by_torch(kind: str) -> None:
    (subnet,), images = networks_of(space_of(stages=FLOATING[kind]), 1)
    program = program_of(subnet)
    with pytest.raises(DeployError, match=r"computes h_\w+ in floating point.*--format onnx or torch") as error:
        c_bytes(program, {})
    assert "\n" not in str(error.value)
    with torch.no_grad():
        simulated, own = (run(torch.tensor(images)).numpy() for run in (subnet, ProgramModule(program)))
    np.testing.assert_allclose(own, simulated, atol=0.05 * simulated.std())


def test_the_torch_file_runs_without_this_package_and_names_no_place(tmp_path: Path) -> None:
    (subnet,), images = networks_of(SPACES["mbconv"], 1)
    program = program_of(subnet)
    file = tmp_path / "net.pt2"
    file.write_bytes(torch_bytes(program, {}))
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy, torch; sys.modules['apq_tune'] = None\n"
        "network = torch.export.load('net.pt2').module()\n"
        "numpy.save('logits.npy', network(torch.tensor(numpy.load('images.npy'))).detach().numpy())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), reference.run(program, images))


def test_accumulators_that_float32_cannot_hold_are_exact_all_the_same() -> None:
    (subnet,), images = networks_of(SPACES["residual"], 1)
    program = program_of(subnet)
    step = [step for step in program.steps if isinstance(step, WeightedStep)][
        -1
    ]  # whose sums are not rounded to levels
    step.weights.bias[:] = 2**26 + 1 + np.arange(len(step.weights.bias))
    own = ProgramModule(program)(torch.tensor(images)).numpy()
    np.testing.assert_array_equal(own, reference.run(program, images))


def test_files_of_others_are_not_run(tmp_path: Path) -> None:
    foreign = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Flatten(), (torch.zeros(1, 3, 2, 2),)), foreign)
    with pytest.raises(DeployError, match=r"was not written by apq-tune export --format torch; only those files"):
        load_torch(foreign)
    source = tmp_path / "net.c"
    source.write_text("int main(void) { return 0; }\n")
    with pytest.raises(DeployError, match=r"was not written by apq-tune export --format c; only those files are run"):
        read_c(source)
    source.write_bytes(c_bytes(program_of(networks_of(SPACES["mbconv"], 1)[0][0]), {}) + b"int more;\n")
    with pytest.raises(DeployError, match="is damaged or was changed"):
        load_c(source)
