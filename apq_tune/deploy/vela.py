"""Arm's compiler for Ethos-U, Vela, as an estimator of exported TensorFlow Lite files: cycles, SRAM, flash."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.deploy.formats import VELA_ACCELERATORS
from apq_tune.deploy.onnx_file import FileMetadata, metadata_of
from apq_tune.deploy.tflite_file import has_int4, read_tflite
from apq_tune.errors import DeployError

EXTRA = "pip install 'apq-tune[vela]'"
"""How Vela is installed."""

KIB = 1024

MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")
"""Memories in Vela's table, in KiB."""

OPERATORS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


class VelaEstimate(NamedTuple):
    """What Vela says of a file. All figures are its model of the chip, not a measurement.

    Attributes:
        path: The file.
        accelerator: Accelerator with its number of MACs a cycle.
        system: System configuration, which has the clock and the bandwidths.
        memory_mode: Memories that hold weights and activations.
        version: Version of Vela.
        cycles: Cycles of one inference.
        milliseconds: Time of one inference.
        sram: Bytes of SRAM that activations, and weights on their way, need.
        dram: Bytes of DRAM.
        flash: Bytes of flash, on the chip and off it: compressed weights, scales, biases and commands.
        weights: Bytes of the weights of the file, as Vela lays them out before it compresses them.
        compressed: Bytes of the compressed weights.
        on_npu: Number of operators that the accelerator runs.
        on_cpu: Number of operators that are left to the processor, whose time is not in the estimate.
        about: Metadata of the file; ``None`` if another program wrote it.
    """

    path: Path
    accelerator: str
    system: str
    memory_mode: str
    version: str
    cycles: int
    milliseconds: float
    sram: int
    dram: int
    flash: int
    weights: int
    compressed: int
    on_npu: int
    on_cpu: int
    about: FileMetadata | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        about = self.about
        costs = {} if about is None else {name: cost._asdict() for name, cost in about.costs.items()}
        return {**self._asdict(), "path": str(self.path), "about": None if about is None else about.name} | {
            "costs": costs
        }


def vela_estimate(
    path: str | Path, accelerator: str, *, system: str | None = None, memory_mode: str | None = None
) -> VelaEstimate:
    """Compile a file with Vela and read its figures.

    Args:
        path: TensorFlow Lite file, of ``export`` or of another program.
        accelerator: Accelerator, such as ``"ethos-u55-128"``.
        system: System configuration of Vela's own file, such as ``"Ethos_U55_High_End_Embedded"``; by default Vela's
            choice for the accelerator.
        memory_mode: Memory mode of that file, such as ``"Sram_Only"``; by default Vela's choice.

    Raises:
        DeployError: If Vela is not installed, the file cannot be read, or Vela refuses it.
    """
    path = Path(path)
    if accelerator not in VELA_ACCELERATORS:
        raise DeployError(f"unknown accelerator {accelerator!r}; known: {', '.join(VELA_ACCELERATORS)}")
    if path.suffix != ".tflite":
        raise DeployError(f"{path}: Vela reads .tflite files; write one with: apq-tune export RUN --format tflite")
    if importlib.util.find_spec("ethosu") is None:
        raise DeployError(f"{path}: the estimate needs Vela, in the extra [vela]: {EXTRA}")
    file = read_tflite(path)
    about = None if file.texts is None else metadata_of(path, file.texts)
    version = metadata.version("ethos-u-vela")
    if has_int4(file.content):
        raise DeployError(f"{path}: has int4 weights, which Vela {version} does not read; export it with --unpacked")
    chosen = {"--system-config": system, "--memory-mode": memory_mode}
    options = [part for name, value in chosen.items() if value is not None for part in (name, value)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "net.tflite"  # names of users may confuse its command line and its tables
        copy.write_bytes(file.content)
        command = [sys.executable, "-m", "ethosu.vela", str(copy), "--accelerator-config", accelerator]
        done = subprocess.run(
            [*command, "--output-dir", folder, *options], cwd=folder, capture_output=True, text=True, check=False
        )
        tables = sorted(Path(folder).glob("net_summary_*.csv"))
        if done.returncode or len(tables) != 1:
            lines = [line.strip() for line in done.stderr.splitlines() if "Error" in line]
            reason = lines[-1][:200] if lines else f"its exit status is {done.returncode}"
            raise DeployError(
                f"{path}: Vela {version} does not compile it for {accelerator} ({reason}); try another accelerator or "
                "configuration, or export a network of 8 bits"
            )
        with tables[0].open(newline="") as table:
            (row,) = csv.DictReader(table)
    counts = {kind: int(n) for kind, n in OPERATORS.findall(done.stdout)}
    memory = {name: round(float(row[f"{name}_memory_used"]) * KIB) for name in MEMORIES}
    return VelaEstimate(
        path,
        accelerator,
        row["system_config"],
        row["memory_mode"],
        version,
        int(float(row["cycles_total"])),
        1e3 * float(row["inference_time"]),
        memory["sram"],
        memory["dram"],
        memory["on_chip_flash"] + memory["off_chip_flash"],
        int(float(row["total_original_weights"])),
        int(float(row["total_npu_encoded_weights"])),
        counts.get("NPU", 0),
        counts.get("CPU", 0),
        about,
    )
