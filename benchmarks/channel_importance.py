"""Which channels of a trained network small networks keep: by the size of weights, by batch norm, by the loss (Taylor).

Random widths of a user's network, all blocks kept, in full precision: with batch norm statistics that are shifted,
without any training, and, with ``--epochs``, after elastic training. Needs weights of ``own_model_methods.py``:

    python benchmarks/channel_importance.py --network resnet14 --data-root FOLDER --epochs 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))

from own_model_methods import NETWORKS, RESULTS, RUNS, example

from apq_tune import ModelSpace, load_data
from apq_tune.cli.ending import one_line_errors
from apq_tune.data import AnySplit
from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import Score, score, score_candidate
from apq_tune.supernet.graph_ranks import Importance
from apq_tune.supernet.graph_statistics import shifted_statistics
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.strategies import Teacher, train_supernet
from apq_tune.supernet.train import Training, optimizer_for
from apq_tune.supernet.user_model import UserModel, model_weights

CANDIDATES, IMAGES, CALIBRATION = 16, 2000, 256


def _untrained(supernet: GraphSupernet, candidate: ModelCandidate, images: torch.Tensor, split: AnySplit) -> Score:
    statistics = shifted_statistics(supernet, images, candidate, quantize=False)
    return score(lambda x: supernet(x, candidate, statistics=statistics), split)


def main() -> None:
    """Measure every importance, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--data-root", type=Path, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, help="folder of photos of ten classes")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of elastic training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting, name = NETWORKS[arguments.network], arguments.network
    model = getattr(example(), name)()
    model.load_state_dict(torch.load(RUNS / f"{name}.pt"))
    data_name = str(arguments.folder.resolve()) if arguments.folder else setting.data
    space = ModelSpace.from_module(model, torch.zeros(2, *setting.shape), data=data_name)
    data = load_data(space, arguments.data_root)
    few, images = data.search.first(IMAGES), first_images(data.train, CALIBRATION)
    user = UserModel(space, model_weights(space, model.state_dict()))
    encoding = encoding_of(space)
    drawn = encoding.at_largest(encoding.sample(CANDIDATES, np.random.default_rng(0)), ("depth",))
    candidates = encoding.decode(drawn)
    rows = []
    for importance in get_args(Importance):
        torch.manual_seed(0)
        supernet = GraphSupernet(space)
        supernet.load_model(user.weights, "l1" if importance == "taylor" else importance)
        if importance == "taylor":
            supernet.rank_by_loss(images, torch.tensor(data.train.first(CALIBRATION).labels))
        with torch.no_grad():
            scores = [_untrained(supernet, one, images, few) for one in candidates]
        row = {"importance": importance, "untrained": np.mean([one.accuracy for one in scores])}
        if arguments.epochs:
            training = Training(epochs=arguments.epochs, batch_size=128, learning_rate=5e-3)
            optimizer = optimizer_for(supernet, training)
            teacher = Teacher(user.logits, 0.5)
            train_supernet(supernet, encoding, optimizer, data.train, training, "single_path", (0, 1), teacher=teacher)
            trained = [score_candidate(supernet, one, images, few, quantize=False) for one in candidates]
            row["elastic training"] = np.mean([one.accuracy for one in trained])
            row["its loss"] = np.mean([one.loss for one in trained])
        rows.append(row)
        print(row, flush=True)
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).round(4).to_csv(RESULTS / f"channel_importance_{name}.csv", index=False)


if __name__ == "__main__":
    with one_line_errors():
        main()
