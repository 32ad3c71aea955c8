"""Connections to Ray clusters, and communication of Ray Tune trials.

Only this module, the Ray executor and the modules of ``ApqSearch`` import Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from apq_tune.errors import RunError
from apq_tune.hosts.joining import ray_folder, wanted_address


@contextlib.contextmanager
def cluster(address: str | None, num_cpus: int | None) -> Iterator[int]:
    """Join the cluster at ``address``, or start one on this machine and stop it at the end.

    Args:
        address: Address as for ``ray.init``; ``None`` joins the cluster at ``RAY_ADDRESS``, or starts one.
        num_cpus: Number of processors of a local cluster, or maximum number of tasks at once on a joined one; ``None``
            for all.

    Yields:
        Maximum number of tasks of one processor at once.

    Raises:
        RunError: If no cluster can be reached or started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C raises KeyboardInterrupt here, as anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # trials run at the priority of the command; Ray's own is 15
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints tables even in silent mode
    address = wanted_address(address)
    own: dict[str, Any] = {} if address or (folder := ray_folder()) is None else {"_temp_dir": folder}
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else num_cpus,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address!r}" if address else "a local Ray cluster"
        raise RunError(
            f"cannot reach {where} ({_first_line(error)}); check --address and RAY_ADDRESS, or leave them out"
        ) from None
    try:
        available = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        yield max(1, min(available, num_cpus or available))
    finally:
        ray.shutdown()


def report(metrics: dict[str, Any], files: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Report metrics to Tune, and files as the checkpoint, from inside a trial."""
    from ray import tune

    if not files:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def restored() -> dict[str, bytes]:
    """Files of the checkpoint that a trial should resume from, if any, from inside the trial."""
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as folder:
        return _files(Path(folder))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def put(value: Any) -> Any:
    """Put a value into the object store and return its reference; ``None`` if Ray is not running."""
    return ray.put(value) if ray.is_initialized() else None


def session() -> str:
    """Identifier of the connection to a cluster, which stored objects do not outlive; empty without a connection."""
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()} {context.get_job_id()}"


def get(reference: Any) -> Any:
    """Value of a reference."""
    return ray.get(reference)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
