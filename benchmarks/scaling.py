"""Scaling over nodes: measured on one and two single-CPU nodes, simulated for 10 to 1,000 nodes of 16 CPUs.

Runs the same searches and the same trainings (QAT on digits) as trials on local clusters of one and of two single-CPU
nodes. Overhead is wall time times number of nodes, divided by the total time of trials, minus one. The simulation uses
the unit costs of the same run: CPU time of the driver per trial, and bytes sent to each node.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import ray
import torch
from ray import cloudpickle
from ray.cluster_utils import Cluster

from apq_tune import NetworkEncoding, Objective, Problem, QATLoss, SearchSpace, TrainedSupernet, search
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.data import load_data
from apq_tune.hosts.executor import Executor, start_executor
from apq_tune.hosts.work import Result
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training

RESULTS = Path(__file__).parent / "results"
TRIALS, CPUS_OF_NODE, BYTES_PER_SECOND = 10_000, 16, 1e9
"""Settings of the simulation: number of trials, CPUs per node, and net bandwidth of a 10 Gbit/s network."""


def supernet() -> TrainedSupernet:
    torch.manual_seed(0)
    space = SearchSpace.load("digits")
    encoding, data, network = NetworkEncoding(space), load_data(space), Supernet(space)
    images = first_images(data.train, 256)
    calibrate_quantizers(network, [lambda: network.recalibrate(images, encoding.extremes()[1])])
    return TrainedSupernet(space, network.state_dict(), data)


def search_work(seed: int, _: Any) -> Result:
    encoding = NetworkEncoding(SearchSpace.load("apq_mobilenet"))
    problem = Problem(encoding, [Objective(weight_bytes(encoding), "maximize"), Objective(bit_ops(encoding))])
    return Result({"front": len(search(problem, n_evaluations=40_000, seed=seed))})


def qat_work(seed: int, shared: TrainedSupernet) -> Result:
    metric = QATLoss(shared, Training(epochs=6, batch_size=32, learning_rate=5e-3), seed)
    return Result(
        {"loss": float(metric(NetworkEncoding(shared.space).encode([NetworkEncoding(shared.space).extremes()[1]]))[0])}
    )


def no_work(seed: int, _: Any) -> Result:
    return Result({"seed": seed})


class Measured(NamedTuple):
    """Durations of one experiment."""

    wall: float
    trials: float  # total seconds of all trials
    driver: float  # CPU seconds of this process


def measure(work: Any, shared: Any, n: int, executor: Executor) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        wall, driver = time.monotonic(), time.process_time()
        items = {str(i): i for i in range(n)}
        seconds = [r.seconds for _, r in executor.map(work, shared, items, directory=Path(folder) / "work")]
        return Measured(time.monotonic() - wall, sum(seconds), time.process_time() - driver)


def on_nodes(n: int, trials: int) -> dict[str, Measured]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(n - 1):
        nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    try:
        with start_executor("ray", nodes.address) as executor:
            measure(no_work, None, n, executor)  # start the workers
            measured = {
                "searches": measure(search_work, None, trials, executor),
                "QAT": measure(qat_work, supernet(), trials, executor),
            }
            if n == 1:
                few, many = (measure(no_work, None, count, executor) for count in (20, 220))
                measured["driver"] = Measured(0, 0, (many.driver - few.driver) / 200)
            return measured
    finally:
        ray.shutdown()
        nodes.shutdown()  # type: ignore[no-untyped-call]


def simulate(nodes: int, trial: float, driver: float, size: int) -> tuple[float, float]:
    """Simulated seconds of 10,000 trials, and the share of time in which the driver is busy.

    The driver starts trials one by one as CPUs become free. Every node first fetches the shared data from a node that
    has them, so that distribution takes a number of rounds that is logarithmic in the number of nodes.
    """
    fetched = (nodes.bit_length()) * size / BYTES_PER_SECOND
    free = [fetched] * (nodes * CPUS_OF_NODE)
    heapq.heapify(free)
    now = busy = last = 0.0
    for _ in range(TRIALS):
        now = max(now, heapq.heappop(free)) + driver
        busy += driver
        heapq.heappush(free, now + trial)
        last = max(last, now + trial)
    return last, busy / last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    arguments = parser.parse_args()
    measured = {n: on_nodes(n, arguments.trials) for n in (1, 2)}
    rows = []
    for name in ("searches", "QAT"):
        one, two = measured[1][name], measured[2][name]
        own = one.trials / arguments.trials
        overheads = [f"{100 * (m.wall * n / m.trials - 1):.0f}%" for n, m in ((1, one), (2, two))]
        print(
            f"{name}: {arguments.trials} trials, {one.wall / two.wall:.2f} x as fast on two nodes; overhead "
            f"{overheads[0]} on one, {overheads[1]} on two, where a trial takes {two.trials / one.trials:.2f} x as long"
        )
        rows.append(
            {"work": name, "speed-up": one.wall / two.wall, "overhead 1": overheads[0], "overhead 2": overheads[1]}
        )
    driver, size = measured[1]["driver"].driver, len(cloudpickle.dumps(supernet()))  # type: ignore[no-untyped-call]
    print(f"\ndriver: {1e3 * driver:.1f} ms of CPU time per trial; {size / 1e6:.2f} MB to each node")
    print(f"simulated: {TRIALS} trials, nodes of {CPUS_OF_NODE} CPUs")
    print(f"{'trial':>8}{'nodes':>8}{'speed-up':>10}{'efficiency':>12}{'driver busy':>13}")
    for trial in (own, 60.0):
        for nodes in (10, 30, 100, 300, 1000):
            seconds, busy = simulate(nodes, trial, driver, size)
            ideal = TRIALS * trial / (nodes * CPUS_OF_NODE)
            speed = TRIALS * trial / seconds
            print(f"{trial:7.1f}s{nodes:8}{speed:10.0f}{100 * ideal / seconds:11.0f}%{100 * busy:12.0f}%")
            rows.append({"work": f"trials of {trial:.1f} s", "nodes": nodes, "speed-up": speed, "driver busy": busy})
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS / "scaling.csv", index=False)


if __name__ == "__main__":
    with one_line_errors():
        main()
