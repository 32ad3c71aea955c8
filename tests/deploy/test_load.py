"""Networks that a command has found, as objects: what they are, what they were measured at, and going on from them."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from apq_tune import FoundNetwork, NetworkEncoding, RunError, Training, load_data, load_network, load_run
from apq_tune.cost import cost_models
from apq_tune.hosts import executor as executors
from apq_tune.hosts.work import Result
from apq_tune.refine.refine import Refinement
from apq_tune.refine.settings import RefineSettings
from apq_tune.store.digests import Digests
from apq_tune.store.items import Items
from apq_tune.studies.fleet import Fleet
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.train import finetune

pytestmark = pytest.mark.slow


def record(run: Path, name: str) -> Any:
    return json.loads((run / "9_finalists" / "items" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def refinement(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "start_executor", lambda *_: contextlib.nullcontext(executors.SerialExecutor()))
        Refinement(finished_run, RefineSettings.checked(rounds=1, batch=3, epochs=1, final_epochs=2), out).run()
    return out


def test_a_network_scores_what_was_measured_and_costs_what_was_promised(finished_run: Path) -> None:
    data = load_data(load_run(finished_run).space)
    for name in ("best", "largest_8bit"):
        network = load_run(finished_run).network(name)
        assert isinstance(network, torch.nn.Module)
        assert not network.training
        item = record(finished_run, name)
        assert network.candidate.to_dict() == item["candidate"]
        for split in ("search", "test"):
            measured = score(network, getattr(data, split))
            assert measured.loss == pytest.approx(item[split]["loss"], rel=1e-6)
            assert network.scores[split] == {"loss": item[split]["loss"], "accuracy": measured.accuracy}
        encoding = NetworkEncoding(network.space)
        for model in cost_models(encoding):
            assert network.costs[model.name] == (model(encoding.encode([network.candidate]))[0], model.unit)


def test_the_chosen_one_has_the_least_search_loss_within_the_limits(finished_run: Path) -> None:
    run = load_run(finished_run)
    names = [
        path.stem for folder in ("9_finalists", "10_raised") for path in finished_run.glob(f"{folder}/items/*.json")
    ]
    limit = 0.25 * run.network("largest_8bit").costs["bit_ops"].value
    networks = [run.network(name) for name in names]
    kept = [network for network in networks if network.costs["bit_ops"].value <= limit]
    assert 0 < len(kept) < len(networks)
    best = min(kept, key=lambda network: network.scores["search"]["loss"])
    assert run.network().name == load_network(finished_run).name == best.name


def test_preprocessing_makes_inputs_of_bytes(finished_run: Path) -> None:
    preprocessing = load_network(finished_run).preprocessing
    assert preprocessing.classes == tuple("0123456789")
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
    assert torch.equal(preprocessing(images), torch.tensor(images / np.float32(255)))
    with pytest.raises(RunError, match=r"images have the shape \(2, 64\); give \(n, 1, 8, 8\)"):
        preprocessing(images.reshape(2, 64))


def test_training_goes_on_from_it(finished_run: Path) -> None:
    network = load_network(finished_run, "best")
    images = network.preprocessing(load_data(network.space).train.images[:64])
    labels = torch.tensor(load_data(network.space).train.labels[:64])
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert network.scores == {}  # they were another network's
    for name, parameter in network.named_parameters():
        if not name.endswith(".clip"):
            assert parameter.grad is not None, name
    assert (
        sum(bool(p.grad.any()) for name, p in network.named_parameters() if ".clip" in name and p.grad is not None) > 3
    )


def test_it_can_be_fine_tuned_by_the_packages_own_training_and_copied(finished_run: Path) -> None:
    network = load_network(finished_run, "best")
    before = copy.deepcopy(network)
    data = load_data(network.space)
    finetune(network, data.train, Training(epochs=1, batch_size=32, ema=0.5), (0,))
    assert score(network.eval(), data.train).loss < score(before, data.train).loss


def test_a_refinement_gives_its_networks_of_full_length(finished_run: Path, refinement: Path, tmp_path: Path) -> None:
    network = load_network(refinement)
    measured = score(network, load_data(network.space).search)
    assert measured.loss == pytest.approx(network.scores["search"]["loss"], rel=1e-6)
    items = {p.stem: json.loads(p.read_text()) for p in (refinement / "rung_2" / "items").glob("*.json")}
    assert network.name == min(items, key=lambda name: items[name]["search"]["loss"])
    assert load_network(refinement, network.name).candidate == network.candidate
    with pytest.raises(
        RunError, match="is a refinement, not a run; give its run, or load its networks with load_network"
    ):
        load_run(refinement)
    moved = tmp_path / "moved"
    shutil.copytree(finished_run, moved)
    shutil.copytree(refinement, moved / "refine")
    text = json.loads((moved / "refine" / "refine.json").read_text())
    assert Path(text["run"]) == finished_run
    assert load_network(moved / "refine").name == network.name
    shutil.rmtree(moved / "refine" / "rung_2")
    with pytest.raises(RunError, match="its rung 2 is not done"):
        load_network(moved / "refine")


def test_the_folder_of_a_method_gives_the_network_whose_weights_it_keeps(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    space = load_run(run).space.model_dump(mode="json")
    items = {name: record(run, name) for name in ("best", "largest_8bit")}
    networks = {"uniform_1": items["best"], "largest_8bit": items["largest_8bit"]}
    least = min(networks, key=lambda name: networks[name]["search"]["loss"])
    for limits, chosen in ((["bit_ops<=25%"], "uniform_1"), ([], least)):
        folder = run / f"uniform{len(limits)}"
        fleet = Fleet(folder, "search with uniform", {"space": space, "limits": {"constraints": limits}})
        weights = run / "9_finalists" / f"{'best' if chosen == 'uniform_1' else chosen}.pt"
        result = Result({"networks": networks}, {"weights.pt": weights.read_bytes()})
        Items(Digests(folder), "", "items/").keep("000-constraints-uniform", result)
        del fleet
        network = load_network(folder)
        assert (network.name, network.scores["test"]["loss"]) == (chosen, networks[chosen]["test"]["loss"])
        with pytest.raises(RunError, match=f"has no network 'best'; known: chosen, {chosen}$"):
            load_network(folder, "best")
        (folder / "items" / "000-constraints-uniform.pt").write_bytes(b"damaged")
        with pytest.raises(RunError, match=r"uniform\.pt: is damaged"):
            load_network(folder)
    (run / "tables").mkdir()
    (run / "tables" / "1_latency.csv").write_text("op,latency_ms\nfixed,1\n")
    with pytest.raises(RunError, match=r"was searched with other cost tables than .* now has; delete the folder"):
        load_network(folder)


def test_a_comparison_has_no_networks(tmp_path: Path) -> None:
    Fleet(tmp_path / "versus", "joint-vs-staged", {"space": {}})
    with pytest.raises(RunError, match="is a joint-vs-staged, which keeps no networks; get one with: apq-tune run"):
        load_network(tmp_path / "versus")


@pytest.mark.parametrize("name", ["bets", "", "../best", "chosen "])
def test_a_name_that_does_not_exist_lists_those_that_do(finished_run: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"has no network .*; known: chosen, best, .*largest_8bit") as error:
        load_network(finished_run, name)
    assert "\n" not in str(error.value)


def test_networks_need_no_images_and_supernets_do(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apq_tune.data import named

    def none(_: object) -> None:
        raise RunError("no images here")

    monkeypatch.setitem(named.DATA, "digits", none)  # type: ignore[arg-type]
    run = load_run(finished_run)
    assert isinstance(run.network("best"), FoundNetwork)
    with pytest.raises(RunError, match="no images here"):
        _ = run.supernet


def damaged(run: Path, out: Path) -> Path:
    shutil.copytree(run, out)
    return out


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "text", "missing", "folder", "another"])
def test_damaged_weights_are_refused_in_one_line(finished_run: Path, tmp_path: Path, kind: str) -> None:
    run = damaged(finished_run, tmp_path / "run")
    file = run / "9_finalists" / "best.pt"
    content = bytearray(file.read_bytes())
    file.unlink()
    if kind == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "folder":
        file.mkdir()
    elif kind == "another":
        shutil.copy(run / "9_finalists" / "largest_8bit.pt", file)
    elif kind != "missing":
        file.write_bytes({"truncated": bytes(content[:-9]), "empty": b"", "text": b"weights"}[kind])
    with pytest.raises(RunError, match=r"best\.pt: (is damaged|is missing|cannot be read)") as error:
        load_network(run, "best")
    assert "\n" not in str(error.value)
    assert load_network(run, "largest_8bit").name == "largest_8bit"


def test_other_folders_and_older_runs_are_refused_in_one_line(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no trained networks; give the directory of a run"):
        load_network(tmp_path)
    with pytest.raises(RunError, match="has no trained networks"):
        load_network(tmp_path / "absent")
    run = damaged(finished_run, tmp_path / "run")
    file = run / "run.json"
    file.write_text(file.read_text().replace('"format": ', '"format": 0'))
    with pytest.raises(RunError, match=r"is of format|is damaged"):
        load_network(run)
    unfinished = damaged(finished_run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "9_finalists")
    with pytest.raises(RunError, match="its stage finalists is not done; go on with"):
        load_network(unfinished)
