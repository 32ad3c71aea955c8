"""Finished refinements as they are read again from their files, without images and without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.errors import RunError
from apq_tune.inputs.ranges import validated
from apq_tune.pipeline.outcome import read_items
from apq_tune.pipeline.reading import ReadRun, read_run, run_of
from apq_tune.pipeline.upgrade import FILE, RAISED, read_upgrade
from apq_tune.problem.costs import Costs
from apq_tune.refine.outcome import Chosen, Refined, RefinedCandidate, assembled
from apq_tune.refine.refine import BATCH, FORMAT
from apq_tune.refine.settings import RefineSettings
from apq_tune.space.candidate import read_candidate
from apq_tune.store.digests import read_record
from apq_tune.store.directory import kept_tables
from apq_tune.store.files import read_json
from apq_tune.store.stage import StageFiles


class ReadRefinement(NamedTuple):
    """Refinement whose rounds and rungs are done.

    Attributes:
        path: Directory of the refinement.
        run: Run that it refines.
        costs: Costs of the search space, those of both commands' tables included.
        settings: Settings of the refinement.
        record: Content of ``refine.json``.
        seconds: Wall time of each round and rung in seconds.
        refined: Its results.
    """

    path: Path
    run: ReadRun
    costs: Costs
    settings: RefineSettings
    record: dict[str, Any]
    seconds: dict[str, float]
    refined: Refined


def read_refinement(path: Path) -> ReadRefinement:
    """Read a refinement.

    Raises:
        RunError: If it is not finished, a file is damaged, or the run that it refines is not there, or has been made
            anew since.
    """
    record = read_record(path / "refine.json", f"delete the folder {path} and repeat the command", current=FORMAT)
    command = record["command"] or "the program that began it"
    settings = validated(RefineSettings, record["settings"])
    run = read_run(run_of(path, record), "predictors")
    names = [f"round_{number}" for number in range(1, settings.rounds + 1)]
    names += [f"rung_{epochs}" for epochs in settings.rungs]
    stages = {name: StageFiles(path / name, f"this makes it anew: {command}") for name in names}
    before = run.stages["predictors"].fingerprint
    for name, stage in stages.items():
        if not stage.begun or not stage.done:
            raise RunError(f"{path}: its {name.replace('_', ' ')} is not done; go on with: {command}")
        if list(stage.record()["basis"]["needs"].values()) != [before]:
            words = f"its {name.replace('_', ' ')} was done for another run or round"
            raise RunError(f"{path}: {words}; do it again with: {command}")
        before = stage.fingerprint
    chosen: dict[str, Chosen] = {}
    results: list[RefinedCandidate] = []
    for name, stage in stages.items():
        kind, number = name.split("_")
        if kind == "round":
            for place, found in enumerate(read_json(stage.checked(BATCH))["candidates"], start=1):
                own = f"{number}-{place:02d}"
                chosen[own] = Chosen(own, read_candidate(found["candidate"]), found["found"], found["predicted_loss"])
        epochs = settings.epochs if kind == "round" else int(number)
        for key, scores in read_items(stage).items():
            results.append(RefinedCandidate(chosen[key], f"{kind} {number}", epochs, scores))
    raised = StageFiles(path / RAISED, f"this makes it anew: {command}")
    upgrade = None
    if raised.begun and raised.done and list(raised.record()["basis"]["needs"].values()) == [before]:
        upgrade = read_upgrade(raised.checked(FILE))
        for key, scores in read_items(raised).items():
            assert upgrade is not None
            one = Chosen(key, upgrade.candidate, RAISED, float("nan"))
            results.append(RefinedCandidate(one, RAISED, settings.final_epochs, scores))
        stages[RAISED] = raised
    texts = run.settings.constraints if settings.constraints is None else settings.constraints
    costs = Costs.of(run.encoding, [*kept_tables(run.path), *kept_tables(path)], texts, strict=False)
    refined = assembled(results, settings, costs, costs.limits(texts), path, run.path, run.settings, upgrade)
    seconds = {name.replace("_", " "): float(stage.record()["seconds"]) for name, stage in stages.items()}
    return ReadRefinement(path, run, costs, settings, record, seconds, refined)
