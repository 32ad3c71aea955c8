"""Tables of sensitivities in files: measured gene by gene, resumed after interruptions, refused for anything else."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.cost.additive import AdditiveMetric
from apq_tune.errors import RunError
from apq_tune.methods.bit_program import best_bits, open_bits, without_noise
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.files import read_json, to_json, write_atomically
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.sensitivity import encoded, measure_cells

FORMAT = 1
"""Format of the file and version of what is measured; raise it when networks are simulated in another way."""

PART_BYTES = 2**30
"""Size of the stored tensors of the images that are measured at a time, all kept in memory."""

MOST = 64
"""Maximum number of images that are measured at a time."""


@dataclass(frozen=True)
class SensitivityTable:
    """Sensitivities of a network to the bits of its layers.

    Attributes:
        encoding: Encoding of the search space.
        genome: The network, shape ``(n_genes,)``; its bits do not matter.
        losses: Mean divergence of each bit-width of each gene above that at the most bits, in nats, by gene.
        errors: Standard error of each mean.
        n_images: Number of images.
    """

    encoding: GeneEncoding
    genome: Genomes
    losses: Mapping[int, NDArray[np.float64]]
    errors: Mapping[int, NDArray[np.float64]]
    n_images: int

    @functools.cached_property
    def smoothed(self) -> dict[int, NDArray[np.float64]]:
        """Losses without noise; see ``without_noise``."""
        return {gene: without_noise(self.encoding.choices[gene], row) for gene, row in self.losses.items()}

    def metric(self, name: str = "sensitivity", *, smoothed: bool = True) -> AdditiveMetric:
        """The table as a metric of candidates, a sum over their genes of bits in nats.

        It compares bits. A layer that a candidate leaves out adds nothing, one that it resizes what the whole layer
        adds, so among architectures it prefers those with fewer layers.

        Args:
            name: Name of the metric.
            smoothed: Whether to take the losses without noise.
        """
        return AdditiveMetric.of_genes(name, "nats", self.encoding, self.smoothed if smoothed else self.losses)

    def best(self, constraints: Sequence[Constraint], n: int = 1) -> list[Any]:
        """Candidates of the same architecture with the least sums of sensitivities, found exactly.

        Args:
            constraints: Upper bounds of costs, several at once if need be.
            n: Number of candidates; fewer are returned if there are no more.

        Returns:
            Candidates, best first.

        Raises:
            ProblemError: If no bits keep the constraints; the message has the least reachable cost. Also if a cost is
                no sum of terms over few genes.
        """
        return self.encoding.decode(best_bits(self.encoding, self.genome, self.smoothed, constraints, n))

    def to_dataframe(self) -> pd.DataFrame:
        """Table with a row for each bit-width of each gene: ``gene``, ``bits``, ``divergence``, ``standard_error``."""
        rows = [
            (self.encoding.names[gene], bits, self.losses[gene][i], self.errors[gene][i])
            for gene in self.losses
            for i, bits in enumerate(self.encoding.choices[gene])
        ]
        return pd.DataFrame(rows, columns=["gene", "bits", "divergence", "standard_error"])


@plain_torch()
def measure_sensitivity(
    network: AnySubnet,
    images: Tensor,
    path: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SensitivityTable:
    """Measure how sensitive a network is to the bits of its layers, or read what a file has of it and measure the rest.

    Each bit-width of each gene of bits is tried alone, all others being the most bits: its sensitivity is the
    Kullback-Leibler divergence from the logits in full precision. No labels are needed.

    Args:
        network: Network with calibrated quantizers, whose own bits do not matter.
        images: Images on its device, as it reads them, shape ``(n, channels, h, w)``.
        path: JSON file to which each row is written as soon as it is measured; ``None`` keeps nothing.
        progress: Callback with the number of measured rows and the number of all rows.

    Raises:
        RunError: If there is nothing to measure, or the file is damaged or was measured with another network, other
            images or other settings.
    """
    if not hasattr(network, "candidate"):
        raise RunError(
            f"network: a {type(network).__name__} is no network of a candidate; give one, such as "
            "CalibratedModel.subnet(candidate)"
        )
    subnet, path = network, None if path is None else Path(path)
    encoding, genome = encoded(subnet)
    genes = [int(gene) for gene in open_bits(encoding, genome)][::-1]  # the last layers first: they are the fastest
    if not genes:
        raise RunError(f"{encoding.name}: has no bits to choose in this network; give several w_bits or a_bits")
    size = part_size(subnet, images)
    starts = range(0, len(images), size)
    about = basis_of(subnet, images, size)
    parts: dict[str, dict[str, dict[str, list[float]]]] = {} if path is None else _read(path, about)
    total = len(starts) * len(genes)

    def tell() -> None:
        if progress is not None:
            progress(sum(len(rows) for rows in parts.values()), total)

    tell()
    for start in starts:
        rows = parts.setdefault(str(start), {})
        missing = [gene for gene in genes if encoding.names[gene] not in rows]
        if not missing:
            continue
        for cells in measure_cells(subnet, images[start : start + size], missing):
            values = encoding.choices[cells[0].gene]
            rows[encoding.names[cells[0].gene]] = {
                str(values[cell.value]): [float(cell.divergences.sum()), float(np.square(cell.divergences).sum())]
                for cell in cells
            }
            if path is not None:
                write_atomically(path, json.dumps({"format": FORMAT, "about": about, "parts": parts}) + "\n")
            tell()
    return SensitivityTable(encoding, genome, *_means(encoding, genes, parts, len(images)), len(images))


def part_size(subnet: AnySubnet, images: Tensor) -> int:
    """Number of images that are measured at a time."""
    of_one = sum(float(layer.output.n_bits) / float(layer.output.bits) * 4 for layer in subnet.layers)
    most = max(1, min(MOST, int(PART_BYTES // max(of_one, 1.0))))
    n_parts = -(-len(images) // most)
    return max(1, -(-len(images) // n_parts))


def basis_of(subnet: AnySubnet, images: Tensor, size: int) -> dict[str, Any]:
    """All that a table depends on, as plain data: network, images and settings."""
    encoding, genome = encoded(subnet)
    weights = hashlib.sha256()
    for name, tensor in subnet.state_dict().items():
        weights.update(name.encode() + b"\0" + tensor.detach().cpu().contiguous().numpy().tobytes())
    top = encoding.at_largest(genome[None], ("w_bits", "a_bits"))[0]
    return {
        "network": str(encoding.decode(top[None])[0]),
        "weights": weights.hexdigest(),
        "images": hashlib.sha256(images.detach().cpu().contiguous().numpy().tobytes()).hexdigest(),
        "bits": {encoding.names[gene]: list(encoding.choices[gene]) for gene in open_bits(encoding, genome)},
        "images at a time": size,
    }


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measured rows of a file; none if there is no file."""
    if not path.exists():
        return {}
    remedy = "delete it, or name another file, to measure anew"
    content = read_json(path, remedy)
    if not isinstance(content, dict) or not isinstance(content.get("parts"), dict):
        raise RunError(f"{path}: is no table of sensitivities; {remedy}")
    if content.get("format") != FORMAT:
        raise RunError(f"{path}: has the format {content.get('format')}, this version measures {FORMAT}; {remedy}")
    own = content.get("about")
    for key, value in json.loads(to_json(about)).items():
        if not isinstance(own, dict) or own.get(key) != value:
            raise RunError(f"{path}: was measured with other {key} than these; {remedy}")
    try:
        return {str(int(start)): _checked_rows(part, about["bits"]) for start, part in content["parts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(f"{path}: has rows that are no measurements; {remedy}") from None


def _checked_rows(
    part: Mapping[str, Mapping[str, Any]], bits: Mapping[str, list[int]]
) -> dict[str, dict[str, list[float]]]:
    """Rows of some images, each with two finite numbers for each bit-width but the most bits."""
    rows: dict[str, dict[str, list[float]]] = {}
    for gene, row in part.items():
        if list(row) != [str(value) for value in bits[gene][:-1]]:
            raise ValueError
        rows[gene] = {value: [float(number) for number in pair] for value, pair in row.items()}
        if any(len(pair) != 2 or not all(map(math.isfinite, pair)) for pair in rows[gene].values()):
            raise ValueError
    return rows


def _means(
    encoding: GeneEncoding, genes: list[int], parts: Mapping[str, Mapping[str, Mapping[str, list[float]]]], n: int
) -> tuple[dict[int, NDArray[np.float64]], dict[int, NDArray[np.float64]]]:
    """Means over all images and their standard errors, by gene."""
    losses, errors = dict[int, NDArray[np.float64]](), dict[int, NDArray[np.float64]]()
    for gene in sorted(genes):
        sums = np.zeros((len(encoding.choices[gene]), 2))
        for rows in parts.values():
            for bits, own in rows[encoding.names[gene]].items():
                sums[[str(value) for value in encoding.choices[gene]].index(bits)] += own
        losses[gene] = sums[:, 0] / n
        errors[gene] = np.sqrt(np.maximum(sums[:, 1] / n - losses[gene] ** 2, 0) / max(n - 1, 1))
    return losses, errors
