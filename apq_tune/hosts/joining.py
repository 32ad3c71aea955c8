"""Early checks of Ray clusters: whether one answers at an address, and where a local one may keep its sockets."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from pathlib import Path

from apq_tune.errors import RunError

CONNECT_SECONDS = 10
"""Timeout of the connection to a cluster's address in seconds."""

SOCKET_NAME = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""Longest path of a socket of Ray, relative to its temporary folder."""

MAX_FOLDER = (103 if sys.platform == "darwin" else 107) - len(SOCKET_NAME)
"""Maximum length of the temporary folder's path in bytes, by the operating system's limit on socket paths."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""Connection preface of an HTTP/2 client (RFC 9113) with empty settings; a server answers with its own settings."""

_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


def wanted_address(address: str | None) -> str | None:
    """Address of the cluster to join: the given one, or else ``RAY_ADDRESS``; ``None`` for a local cluster.

    Unlike Ray itself, this does not join any cluster that happens to run on this machine.
    """
    wanted = address or os.environ.get("RAY_ADDRESS")
    return None if wanted in (None, "", "local") else wanted


def check_address(address: str | None) -> None:
    """Check early that a cluster can be joined or started; Ray itself would fail late, or wait for minutes.

    Args:
        address: Address given by the user; ``None`` to use ``RAY_ADDRESS``.

    Raises:
        RunError: If the address is invalid, no Ray cluster answers there, or no local cluster can be started for lack
            of a folder for its sockets.
    """
    source = "--address" if address is not None else "RAY_ADDRESS"
    wanted = wanted_address(address)
    if address is not None and not address.strip():
        raise RunError(f"{source} is {address!r}; give auto or HOST:PORT, or leave it out")
    if wanted is None:
        ray_folder()
        return
    place = _running_here() if wanted == "auto" else wanted
    found = _PLACE.fullmatch(place)
    if found is None or not 0 < int(found[2]) < 2**16:
        remedy = "give auto, or HOST:PORT of its head (port 6379, where the cluster's own setup does not say otherwise)"
        if wanted.startswith("ray://"):
            remedy = f"Ray Client cannot hand results back one by one; {remedy}"
        raise RunError(f"{source} {wanted!r} is not the address of a Ray cluster; {remedy}")
    said = _not_answering(found[1].strip("[]"), int(found[2]))
    if said is not None:
        raise RunError(
            f"cannot reach a Ray cluster at {wanted!r} ({said}); check --address and RAY_ADDRESS, or leave them out"
        )


def _running_here() -> str:
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError):
        raise RunError(
            "cannot reach a Ray cluster at 'auto' (none runs on this machine); begin one with 'ray start --head', "
            "or leave --address and RAY_ADDRESS out"
        ) from None


def _not_answering(host: str, port: int) -> str | None:
    """Reason why no cluster answers; ``None`` if something answers like a gRPC server."""
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return None
            connection.settimeout(CONNECT_SECONDS)
            connection.sendall(PREFACE)
            answer = connection.recv(9)
    except (OSError, UnicodeError) as error:
        return str(error) or type(error).__name__
    return None if len(answer) > 3 and answer[3] == PREFACE[-6] else "something else listens there"


def ray_folder() -> str | None:
    """Folder for sockets and logs of a local cluster.

    Returns:
        Folder to pass to Ray; ``None`` if Ray's own choice can be used. An unusable ``TMPDIR`` is replaced, as Python's
        ``tempfile`` does; an unusable ``RAY_TMPDIR``, which was set for Ray, is refused.

    Raises:
        RunError: If no folder can be used; the message says why, and what to set.
    """
    own = os.environ.get("RAY_TMPDIR")
    if own is not None:
        if (fault := _fault(own)) is not None:
            raise RunError(f"RAY_TMPDIR is {own!r}, which {fault}; set it to a folder such as /tmp, or unset it")
        return None
    if "TMPDIR" in os.environ and _fault(os.environ["TMPDIR"]) is None:
        return None
    for folder in dict.fromkeys(("/tmp", tempfile.gettempdir())):
        if _fault(folder) is None:
            return None if "TMPDIR" not in os.environ else f"{folder}/ray"
    raise RunError(
        f"no folder for Ray's sockets: /tmp {_fault('/tmp')}; "
        f"set RAY_TMPDIR to a folder of at most {MAX_FOLDER} characters that can be written"
    )


def _fault(folder: str) -> str | None:
    """Reason why a folder cannot hold Ray's sockets, worded to follow its name; ``None`` if it can."""
    if not folder.startswith("/"):
        return "is not an absolute path"
    if len(os.fsencode(folder)) > MAX_FOLDER:
        return f"has {len(os.fsencode(folder))} characters, too many for sockets; at most {MAX_FOLDER} fit"
    path = Path(folder, "ray")
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        return "is not a folder" if str(path) == folder.rstrip("/") else f"cannot be created: {path} is not a folder"
    try:
        with tempfile.TemporaryDirectory(dir=path):  # reliable on file systems that do not honour permissions, too
            return None
    except OSError as error:
        return f"cannot be written ({path}: {error.strerror})"
