"""Clusters: two nodes on this machine, one of which goes away; the address that is joined; the manifests."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from apq_tune import RunError
from apq_tune.hosts.joining import check_address, wanted_address
from apq_tune.hosts.ray_tasks import RayExecutor
from apq_tune.hosts.work import Result

MANIFESTS = Path(__file__).parents[2] / "docs" / "guides" / "cluster"


def slow_work(item: int, folder: str) -> Result:
    """Says where it runs, then takes its time."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    with Path(folder, f"began_{item}").open("a") as file:
        file.write(f"{node} ")
    deadline = time.monotonic() + 120
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Result({"value": item * item, "node": node})


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_a_node_that_goes_away_move_to_another(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    results: dict[str, Any] = {}
    try:
        import threading

        def take_away() -> None:
            while len(list(tmp_path.glob("began_*"))) < 2:
                time.sleep(0.05)
            nodes.remove_node(second)
            (tmp_path / "go").touch()

        thread = threading.Thread(target=take_away)
        thread.start()
        items = {str(i): i for i in range(4)}
        for key, result in RayExecutor(2).map(slow_work, str(tmp_path), items, directory=tmp_path / "work"):
            results[key] = result.metrics
        thread.join()
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert {key: row["value"] for key, row in results.items()} == {"0": 0, "1": 1, "2": 4, "3": 9}
    assert len({row["node"] for row in results.values()}) == 1  # the one that stayed
    began = [path.read_text().split() for path in tmp_path.glob("began_*")]
    assert sorted(len(nodes_of) for nodes_of in began) == [1, 1, 1, 2]  # one was begun anew elsewhere


def test_the_address_given_is_joined_else_that_of_the_environment_else_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert wanted_address(None) is None
    assert wanted_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert wanted_address(None) == "127.0.0.1:1"
    assert wanted_address("10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(RunError, match=r"cannot reach a Ray cluster at '127\.0\.0\.1:1'"):
        check_address(None)


def test_the_manifest_for_the_cluster_launcher_keeps_rays_own_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    manifest = yaml.safe_load((MANIFESTS / "ray-cluster.yaml").read_text())
    jsonschema.validate(manifest, schema)
    assert manifest["head_node_type"] in manifest["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest | {"hed_node_type": "head"}, schema)


def test_the_job_for_kuberay_has_the_fields_that_its_documentation_names() -> None:
    job = yaml.safe_load((MANIFESTS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) == {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
    spec = job["spec"]["rayClusterSpec"]
    assert set(spec) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (spec["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
