"""Sampling of bit-widths in the training of a quantized supernet: per layer against per network.

Candidates of training steps are sampled in one of two ways: the bit-width of every layer independently, so that every
network has some layers of the fewest bits; or a policy per network, from uniform to fully mixed ones. Both continue the
training of the same full-precision supernet for equally many steps. Scores are losses of 30 networks on the search
split, with uniform and with mixed bits, and batch norm recalibrated for each.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from apq_tune.cli.ending import one_line_errors
from apq_tune.data import load_data
from apq_tune.pipeline.training import calibrate
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import score_candidate
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.strategies import train_supernet
from apq_tune.supernet.train import Training, optimizer_for

RESULTS = Path(__file__).parent / "results"
N_NETWORKS, N_CALIBRATION = 30, 256


class BitByBit(NetworkEncoding):
    """Encoding whose policies have independent bit-widths in all layers."""

    def sample_policies(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample candidates uniformly."""
        return self.sample(n, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=18, help="epochs in full precision, and again with random bits")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load(arguments.space)
    encodings = {"bit by bit": BitByBit(space), "by policy": NetworkEncoding(space)}
    encoding, data = encodings["by policy"], load_data(space, arguments.data_root)
    images = first_images(data.train, N_CALIBRATION)
    networks = encoding.sample(N_NETWORKS, np.random.default_rng(0))
    policies = {f"all {bits} bits": encoding.at_bits(networks, bits) for bits in encoding.uniform_bits()[::-1]}
    policies |= {"mixed": networks}
    training = Training(epochs=arguments.epochs, batch_size=arguments.batch_size, learning_rate=1e-2)
    rows = []
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        begun = Supernet(space)
        optimizer = optimizer_for(begun, training)
        train_supernet(begun, encoding, optimizer, data.train, training, "single_path", (seed, 1))
        calibrate(begun, encoding, images, seed)
        for drawn, own in encodings.items():
            supernet = copy.deepcopy(begun)
            optimizer = optimizer_for(supernet, training)
            train_supernet(supernet, own, optimizer, data.train, training, "single_path", (seed, 2), quantize=True)
            for policy, genomes in policies.items():
                scores = [
                    score_candidate(supernet, candidate, images, data.search, quantize=True)
                    for candidate in encoding.decode(genomes)
                ]
                row = {"drawn": drawn, "policy": policy, "seed": seed, "loss": np.mean([s.loss for s in scores])}
                rows.append(row | {"accuracy": np.mean([s.accuracy for s in scores])})
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"quantized_supernet_{space.name}.csv", index=False)
    means = table.groupby(["drawn", "policy"], sort=False)["loss"].agg(["mean", "std"])
    print(
        (means["mean"].map("{:.4f}".format) + " ± " + means["std"].map("{:.4f}".format)).unstack("policy").to_string()
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
