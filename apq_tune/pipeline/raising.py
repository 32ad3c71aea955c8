"""Last stage of a run: the chosen network with more bits where no limit is broken and no latency grows.

The raised network is only trained if its loss in the quantized supernet, batch norm calibrated at its bits, is not
worse. It is then trained as the finalists are, from the supernet and on the same batches: weights that were trained at
the old bits are adapted to these, and often worse at others (docs/guides/limits.md). Its loss on search images decides,
as that of every network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apq_tune.hosts.work import Result
from apq_tune.methods.raised import raise_bits, raises
from apq_tune.pipeline.outcome import networks_table, read_items
from apq_tune.pipeline.stage import Parts, Run, trained_supernet
from apq_tune.pipeline.upgrade import FILE, RAISED, Upgrade, latencies_of, read_upgrade
from apq_tune.pipeline.work import final_task, train_network
from apq_tune.problem.costs import Costs
from apq_tune.problem.problem import Constraint
from apq_tune.space.candidate import read_candidate
from apq_tune.space.narrowing import Narrowing
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.store.files import to_json
from apq_tune.supernet.trained import TrainedSupernet


def upgrade_of(
    name: str,
    candidate: NetworkCandidate,
    costs: Costs,
    constraints: Sequence[Constraint],
    supernet: TrainedSupernet,
    narrowing: Narrowing | None = None,
) -> Upgrade | None:
    """Free upgrade of a network; ``None`` if nothing can be raised.

    Args:
        name: Name of the network.
        candidate: Its architecture and bits.
        costs: Costs of its search space, or of the part of it that a device runs.
        constraints: Constraints on these costs that it keeps.
        supernet: Quantized supernet, in which both are scored.
        narrowing: The space of the supernet and that part; ``None`` if they are the same.
    """
    encoding = costs.encoding
    genome = (encoding if narrowing is None else narrowing.whole).encode([candidate], check=False)
    genome = genome if narrowing is None else narrowing.narrow(genome)[0]
    raised = raise_bits(encoding, genome, constraints, latencies_of(costs, constraints))
    if np.array_equal(raised, genome):
        return None
    (more,) = encoding.decode(raised) if narrowing is None else narrowing.whole.decode(narrowing.widen(raised))
    before, after = (supernet.score(one, quantize=True).loss for one in (candidate, more))
    return Upgrade(name, raises(encoding, genome[0], raised[0]), before, after, more)


def measure_raised(run: Run) -> Parts:
    """Raise the bits of the chosen network, and train it if it is not worse in the supernet."""
    directory, supernet = run.directory(RAISED), trained_supernet(run, "quantized_supernet")
    if not directory.has(FILE):
        items, limits = read_items(run.directory("finalists")), run.costs.limits(run.settings.constraints)
        table = networks_table(items, run.costs, limits)
        found = None
        for name in table.loc[table["chosen"], "name"]:
            found = upgrade_of(name, read_candidate(items[name]["candidate"]), run.costs, limits, supernet)
        directory.write(FILE, to_json(None if found is None else found.to_dict()))
    upgrade = read_upgrade(directory.path / FILE)
    wanted = upgrade if upgrade is not None and upgrade.promising else None
    finished = RAISED in directory.items.finished(weights=True)
    items = {} if finished or wanted is None else {RAISED: final_task(wanted.candidate, run.settings)}

    def on_result(key: str, result: Result) -> None:
        assert wanted is not None
        directory.items.keep(key, result._replace(metrics=result.metrics | {"candidate": wanted.candidate.to_dict()}))
        run.advance(RAISED, 1, 1)

    run.advance(RAISED, int(finished), 1)
    return Parts(train_network, supernet, items, on_result, lambda: None)
