"""What costs say of sparse weights: only bytes of weights and ``sparse_macs`` fall with sparsity."""

from __future__ import annotations

from typing import Any, TypeVar

from apq_tune.cost.model import CostModel
from apq_tune.network.network import Network, network_of, ops

Model = TypeVar("Model", bound=CostModel)


def is_sparse(network: Network) -> bool:
    """Whether some networks have layers with pruned weights."""
    values = {gene: own[0] for gene, own in network.genes.items()}  # genes of sparsity begin with the most zeros
    size = network.sizes[-1]
    return any(
        op.is_sparse
        for part in network.parts
        for op in ops(part.describe(size, *(values[name] for name in part.genes)))
    )


def noted(model: Model, encoding: Any) -> Model:
    """The model, with a remark if networks of its space have layers with pruned weights, which it counts as dense."""
    if is_sparse(network_of(encoding.space)):
        told = f"{model.name}: counts pruned weights like all others, as dense kernels do; limit weight_bytes or "
        model.note = " ".join(filter(None, (model.note, told + "sparse_macs for sparsity")))
    return model
