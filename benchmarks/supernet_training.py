"""Strategies of supernet training at equal CPU time.

Each strategy trains for as many epochs as fit into the same CPU time; its time per epoch is measured first. Scores are
those of 30 random networks on the search split, with batch norm recalibrated for each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch

from apq_tune.cli.ending import one_line_errors
from apq_tune.data import load_data
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import score_candidate
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.strategies import Strategy, train_supernet
from apq_tune.supernet.train import Training, optimizer_for

RESULTS = Path(__file__).parent / "results"


def train(strategy: Strategy, epochs: int, seed: int) -> tuple[Supernet, float]:
    space = SearchSpace.load("digits")
    torch.manual_seed(seed)
    supernet = Supernet(space)
    training = Training(epochs=epochs, batch_size=32, learning_rate=1e-2)
    start = time.process_time()
    split = load_data(space).train
    train_supernet(
        supernet, NetworkEncoding(space), optimizer_for(supernet, training), split, training, strategy, (seed, 1)
    )
    return supernet, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load("digits")
    encoding, data = NetworkEncoding(space), load_data(space)
    calibration = first_images(data.train, 256)
    candidates = encoding.decode(encoding.sample(30, np.random.default_rng(0)))
    rows = []
    for strategy in get_args(Strategy):
        train(strategy, 1, 0)  # warm up
        epochs = max(1, round(arguments.seconds / (train(strategy, 3, 0)[1] / 3)))
        for seed in range(arguments.seeds):
            supernet, seconds = train(strategy, epochs, seed)
            scores = [score_candidate(supernet, c, calibration, data.search, quantize=False) for c in candidates]
            largest = score_candidate(supernet, encoding.extremes()[1], calibration, data.search, quantize=False)
            rows.append(
                {
                    "strategy": strategy,
                    "seed": seed,
                    "epochs": epochs,
                    "processor seconds": seconds,
                    "random loss": np.mean([s.loss for s in scores]),
                    "random accuracy": np.mean([s.accuracy for s in scores]),
                    "largest loss": largest.loss,
                    "largest accuracy": largest.accuracy,
                }
            )
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.drop(columns="processor seconds").to_csv(RESULTS / "supernet_training.csv", index=False)
    print(table.groupby("strategy", sort=False).mean().drop(columns="seed").round(4).to_string())


if __name__ == "__main__":
    with one_line_errors():
        main()
