"""Flash and RAM of exported files: counted in the file, equal to what compilers count, and kept within limits."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apq_tune import (
    DeployError,
    DeviceError,
    DevicePreset,
    ModelSpace,
    SearchSpace,
    cost_models,
    export,
    known_presets,
    load_preset,
)
from apq_tune.cost import named_cost
from apq_tune.deploy import c_file
from apq_tune.deploy.c_file import COMPILER, c_bytes, flash_bytes
from apq_tune.deploy.file_memory import FileMemory, broken_limits, memory_limits, memory_of_file
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import FileMetadata, onnx_model
from apq_tune.deploy.program import Program, WeightedStep
from apq_tune.deploy.torch_file import torch_bytes
from apq_tune.report.deployed import memory_lines
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.found_network import CostValue, FoundNetwork, Preprocessing
from apq_tune.supernet.kinds import supernet_of
from tests.deploy.test_formats import space_of

LIMITED = [name for name in known_presets() if load_preset(name).limits]

needs_nm = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("nm")), reason="there is no gcc or nm here")


class Shuffled(nn.Module):
    """Dense convolutions, a residual block, and channels in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x.mean((2, 3)))


def model_space() -> ModelSpace:
    torch.manual_seed(0)
    bits = {"w_bits": [2, 4, 8], "a_bits": [4, 8]}
    return ModelSpace.from_module(Shuffled().eval(), torch.zeros(1, 3, 9, 9), step=2, **bits)


BITS = list(range(2, 9))
SPACES: dict[str, Any] = {"mbconv": space_of(), "residual": space_of("residual"), "model": model_space()}
RUN = [(name, kind) for name in LIMITED for kind in ("residual" if name == "max78000" else "mbconv", "model")]


def preprocessing_of(space: Any) -> Preprocessing:
    return Preprocessing.of(space, tuple(map(str, range(space.classes))))


def found(space: Any, genomes: Any) -> list[FoundNetwork]:
    """Networks with random weights, as a run finds them."""
    torch.manual_seed(0)
    supernet, encoding, about = supernet_of(space), encoding_of(space), preprocessing_of(space)
    images = torch.rand(16, about.channels, about.size, about.size)
    if isinstance(space, ModelSpace):
        supernet.load_model(Shuffled().state_dict())  # type: ignore[attr-defined]
    candidates: list[Any] = encoding.decode(genomes)
    calibrate_quantizers(supernet, [functools.partial(supernet.recalibrate, images, one) for one in candidates])
    networks = []
    for row, candidate in enumerate(candidates):
        subnet = supernet.extract(candidate, supernet.recalibrate(images, candidate, quantize=True)).eval()
        costs = {model.name: CostValue(float(model(genomes)[row]), "bytes") for model in cost_models(encoding)}
        networks.append(FoundNetwork(subnet, name=f"n{row}", costs=costs, scores={}, preprocessing=about))
    return networks


def drawn(space: Any, n: int = 2) -> list[FoundNetwork]:
    return found(space, encoding_of(space).sample(n, np.random.default_rng(1)))


def tight(preset: DevicePreset, flash: float, ram: float) -> DevicePreset:
    return DevicePreset.from_dict(
        preset.to_dict() | {"flash": {"bytes": max(1, int(flash))}, "ram": {"bytes": max(1, int(ram))}}
    )


def compiled(content: bytes, folder: Path) -> FileMemory:
    """What a compiler makes of a C file: bytes of its tables and of its arena."""
    (folder / "net.c").write_bytes(content)
    subprocess.run([*COMPILER, "-O0", "-c", "net.c", "-o", "net.o"], cwd=folder, check=True)
    listed = subprocess.run(["nm", "-S", "net.o"], cwd=folder, capture_output=True, text=True, check=True).stdout
    of = {line.split()[3]: int(line.split()[1], 16) for line in listed.splitlines() if len(line.split()) == 4}
    return FileMemory(sum(size for name, size in of.items() if re.fullmatch(r"[wbmi]\d+", name)), of["apq_arena"])


@needs_nm
@pytest.mark.parametrize(("name", "kind"), RUN)
def test_files_of_candidates_within_the_limits_of_a_device_are_within_them(
    name: str, kind: str, tmp_path: Path
) -> None:
    """The limits are the medians of random candidates, so that they bind; those of the preset hold all the more."""
    whole, own = SPACES[kind], load_preset(name)
    encoding = encoding_of(whole.narrowed(own))
    genomes = encoding.sample(40, np.random.default_rng(0))
    flash, ram = (model(genomes) for model in cost_models(encoding) if model.name in own.limits)
    preset = tight(own, np.median(flash), np.median(ram))
    inside = genomes[(flash <= preset.limits["weight_bytes"]) & (ram <= preset.limits["peak_activation_bytes"])]
    assert len(inside) >= 4
    closest = inside[np.argsort(-flash[(genomes[:, None] == inside).all(2).argmax(0)])][:2]  # those with least room
    for network in found(whole.narrowed(preset), np.concatenate([closest, inside[:2]])):
        program = program_of(network)
        content = c_bytes(program, {})
        memory, limits = memory_of_file(content, "c"), memory_limits(network, None)
        assert memory == compiled(content, tmp_path)
        assert {limit.memory: limit.n_bytes for limit in limits} == dict(
            zip(("flash", "ram"), preset.limits.values(), strict=True)
        )
        assert not broken_limits(network, program, memory, limits, "c", packed=True)
        assert memory.flash <= preset.limits["weight_bytes"] <= own.limits["weight_bytes"]
        assert memory.ram is not None and memory.ram <= preset.limits["peak_activation_bytes"]


@needs_nm
def test_tables_of_channel_numbers_count(tmp_path: Path) -> None:
    for network in drawn(SPACES["model"], 3):
        program = program_of(network)
        content = c_bytes(program, {})
        assert b"static const uint16_t i" in content
        assert memory_of_file(content, "c") == compiled(content, tmp_path)
        assert memory_of_file(content, "c").flash == flash_bytes(program)
        assert f"Flash: {flash_bytes(program)} bytes".encode() in content


def stored_bits(bits: int, n: int, *, packed: bool) -> int:
    """Bits of a weight in an ONNX file."""
    if not packed or bits > 6 or (bits > 4 and n < 1024):
        return 8
    return {2: 2, 5: 6, 6: 6}.get(bits, 4)


def by_hand(program: Program, kind: str, *, packed: bool = True) -> int:
    """Bytes of weights as stored, and of a bias and a scale for each channel."""
    total = 0
    for step in program.steps:
        if isinstance(step, WeightedStep):
            n = step.weights.values.size
            bits = stored_bits(step.weights.bits, n, packed=packed) if kind == "onnx" else 8
            total += -(-n * bits // 8) + 8 * len(step.weights.bias)
    return total


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["mbconv", "residual", "model"])
def test_constants_of_onnx_files_are_weights_biases_and_scales(kind: str, packed: bool) -> None:
    for network in drawn(SPACES[kind]):
        program = program_of(network)
        content = onnx_model(program, FileMetadata.of(network, program), pack_weights=packed).SerializeToString()
        assert memory_of_file(content, "onnx") == FileMemory(by_hand(program, "onnx", packed=packed), None)


def test_constants_of_onnx_files_of_layers_in_floating_point_count_too() -> None:
    stage = {"channels": 8, "depth": [1], "squeeze_excite": True, "activation": "h_swish"}
    for network in drawn(space_of(stages=[stage])):
        program = program_of(network)
        content = onnx_model(program, FileMetadata.of(network, program)).SerializeToString()
        assert memory_of_file(content, "onnx").flash == by_hand(program, "onnx")


def test_constants_of_torch_files_are_whole_bytes_biases_and_scales() -> None:
    (network,) = drawn(SPACES["model"], 1)
    program = program_of(network)
    assert memory_of_file(torch_bytes(program, {}), "torch") == FileMemory(by_hand(program, "torch"), None)


def test_the_tightest_limit_of_each_kind_of_memory_counts() -> None:
    own = load_preset("cortex_m_1mb")
    (network,) = drawn(SPACES["mbconv"].narrowed(own), 1)
    assert memory_limits(network, None) == memory_limits(network, own)
    network.bounds = {"weight_bytes": 5e4, "device_ram_bytes": 1e9, "bit_ops": 3.0}
    limits, smaller = memory_limits(network, None), tight(own, 4e4, 1e4)
    assert [(limit.n_bytes, limit.device) for limit in limits] == [
        (2**20, "cortex_m_1mb"),
        (320 * 1024, "cortex_m_1mb"),
        (5e4, None),
        (1e9, None),
    ]
    assert [str(limit) for limit in limits[1:3]] == [
        "cortex_m_1mb has 327680",
        "the limit of its search is weight_bytes <= 50000",
    ]
    assert [limit.n_bytes for limit in memory_limits(network, smaller)] == [4e4, 1e4, 5e4, 1e9]
    (network,) = drawn(SPACES["mbconv"], 1)
    assert memory_limits(network, None) == ()


def refusal(network: FoundNetwork, path: Path, **options: Any) -> str:
    """Why a network is not exported; nothing is written then."""
    kind = {".c": "c", ".onnx": "onnx", ".pt2": "torch"}[path.suffix]
    with pytest.raises(DeployError) as error:
        export(network, path, kind, **options)  # type: ignore[arg-type]
    assert not path.exists()
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def over_search(network: FoundNetwork, path: Path, **options: Any) -> str:
    """What of an exported file is over a limit of its search; it is kept."""
    kind = {".c": "c", ".onnx": "onnx", ".pt2": "torch"}[path.suffix]
    exported = export(network, path, kind, **options)  # type: ignore[arg-type]
    assert path.exists()
    (said,) = exported.over_search
    assert f"OVER the limits of its search: {said}" in memory_lines(network, exported)
    return said


def test_a_file_over_a_limit_of_its_search_is_told_with_its_bytes_the_limit_and_a_remedy(tmp_path: Path) -> None:
    space = SPACES["residual"]
    encoding = encoding_of(space)
    genomes = encoding.at_bits(encoding.ends()[1:], 4)
    (network,) = found(space, genomes)
    flash, ram = (network.costs[name].value for name in ("weight_bytes", "peak_activation_bytes"))
    whole, n_weights = named_cost("device_ram_bytes", encoding)(genomes)[0], by_hand(program_of(network), "torch")
    network.bounds = {"weight_bytes": flash}
    said = over_search(network, tmp_path / "net.onnx", packed=False)
    limit = f"but the limit of its search is weight_bytes <= {flash:.0f}"
    assert said == f"its constants take {n_weights} bytes of flash, {limit}; leave out --unpacked"
    said = over_search(network, tmp_path / "net.pt2")
    assert said.startswith(f"its constants take {n_weights} bytes of flash, {limit}; export it as c, which packs")
    network.bounds = {"peak_activation_bytes": ram}
    said = over_search(network, tmp_path / "net.c")
    assert said.startswith(
        f"its arena takes {whole:.0f} bytes of RAM, but the limit of its search is peak_activation_b"
    )
    room = int(ram * ram / whole)
    assert f"; search with --constraint 'peak_activation_bytes<={room}', since values of fewer than 8 bits take" in said
    network.bounds = {"weight_bytes": flash - 1}
    said = over_search(network, tmp_path / "net.c")
    assert f"<= {flash - 1:.0f}; take a network that keeps it" in said


def test_a_file_of_sparse_weights_is_told_that_it_holds_the_zeros_too(tmp_path: Path) -> None:
    plain = space_of().to_dict()
    plain["choices"]["pw_sparsity"] = [0, 0.9]
    space = SearchSpace.from_dict(plain)
    (network,) = found(space, encoding_of(space).ends()[:1])
    counted, held = network.costs["weight_bytes"].value, by_hand(program_of(network), "c")
    network.bounds = {"weight_bytes": counted}
    said = over_search(network, tmp_path / "net.c")
    room = int(counted * counted / held)
    assert f"--constraint 'weight_bytes<={room}', or for dense weights, since files hold zeros like all other" in said


def test_a_device_that_is_named_refuses_by_its_rules_by_costs_and_by_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load_preset("cortex_m_1mb")
    (network,) = drawn(SPACES["mbconv"].narrowed(own), 1)
    with pytest.raises(DeviceError, match=r"n0: \S+: w_bits is 4, but onnxruntime_cpu runs "):
        export(network, tmp_path / "net.c", "c", device="onnxruntime_cpu")
    costs = [network.costs[name].value for name in own.limits]
    with pytest.raises(DeviceError, match=rf"n0: weight_bytes is {costs[0]:.0f}, but cortex_m_1mb has 1000 bytes; "):
        export(network, tmp_path / "net.c", "c", device=tight(own, 1000, costs[1]))
    fits = tight(own, np.ceil(costs[0]), np.ceil(costs[1]))
    # a fault in the writer: a byte for each weight, and a block of memory that is too large
    monkeypatch.setattr(c_file, "packed", lambda values, _: values.reshape(-1).view(np.uint8))
    said = refusal(network, tmp_path / "net.c", device=fits)
    assert re.match(rf"its constants take \d+ bytes of flash, but cortex_m_1mb has {np.ceil(costs[0]):.0f}; ", said)
    monkeypatch.undo()
    arena_of = c_file.arena_of
    monkeypatch.setattr(c_file, "arena_of", lambda own: arena_of(own)._replace(n_bytes=arena_of(own).n_bytes + 1))
    said = refusal(network, tmp_path / "net.c", device=fits)
    assert re.match(rf"its arena takes \d+ bytes of RAM, but cortex_m_1mb has {np.ceil(costs[1]):.0f}; ", said)
