"""What is checked of a cluster before work begins: every form of an address, and the folder for sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apq_tune.errors import RunError
from apq_tune.hosts import joining
from apq_tune.hosts.joining import MAX_FOLDER, check_address, ray_folder


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def _answer(server: socket.socket, content: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(content)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize(
    "address",
    ["foo", "ray://127.0.0.1:10001", "http://127.0.0.1:80", "127.0.0.1:99999", "127.0.0.1:0", ":6379", "a b:3", "h:",
     "x:y", "127.0.0.1:6379/", "127.0.0.1:１", "[::1]", "-1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"^--address .* is not the address of a Ray cluster; .*HOST:PORT"):
        check_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=r"^RAY_ADDRESS .* is not the address"):
        check_address(None)


@pytest.mark.parametrize("address", ["", " ", "\t"])
def test_an_empty_address_is_not_ignored(address: str) -> None:
    with pytest.raises(RunError, match="give auto or HOST:PORT, or leave it out"):
        check_address(address)


def test_local_and_nothing_begin_a_cluster_here(monkeypatch: pytest.MonkeyPatch) -> None:
    check_address("local")
    check_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "")
    check_address(None)


def test_auto_where_none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", none)
    with pytest.raises(RunError, match=r"'auto' .none runs on this machine.; begin one with 'ray start --head'"):
        check_address("auto")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(RunError, match="none runs on this machine"):
        check_address(None)


def test_auto_where_the_last_one_has_gone(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", lambda _: f"127.0.0.1:{port}")
    with pytest.raises(RunError, match="cannot reach a Ray cluster at 'auto'"):
        check_address("auto")


def test_a_server_of_something_else_is_no_cluster(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    _answer(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(RunError, match="something else listens there"):
        check_address(address)
    _answer(listener, b"")
    with pytest.raises(RunError, match="something else listens there"):
        check_address(address)


def test_a_server_that_says_nothing(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CONNECT_SECONDS", 0.2)
    with pytest.raises(RunError, match="timed out"):
        check_address(f"127.0.0.1:{listener.getsockname()[1]}")


def test_a_server_that_speaks_http2_may_be_one(listener: socket.socket) -> None:
    _answer(listener, bytes((0, 0, 18, 4, 0, 0, 0, 0, 0)) + bytes(18))
    check_address(f"localhost:{listener.getsockname()[1]}")


def test_the_folder_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ray_folder() is None
    long = tmp_path / ("x" * 90)
    long.mkdir()
    file = Path("/tmp/apq_tune_test_file")
    file.touch()
    for wrong, said in (
        (long, f"at most {MAX_FOLDER} fit"),
        (file, "is not a folder"),
        (file / "x", "cannot be created"),
        ("", "absolute"),
        ("a", "absolute"),
    ):
        monkeypatch.setenv("RAY_TMPDIR", str(wrong))
        with pytest.raises(RunError, match=f"^RAY_TMPDIR is .*{said}.*set it to a folder such as /tmp, or unset it"):
            check_address(None)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_address(None)  # the remedy
    monkeypatch.delenv("RAY_TMPDIR")
    for wrong in (long, file, "", "a"):  # not meant for Ray: it gives way, as in Python's own tempfile
        monkeypatch.setenv("TMPDIR", str(wrong))
        assert ray_folder() == "/tmp/ray"
    file.unlink()


def test_where_no_folder_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_fault", lambda _: "cannot be written (/tmp: Read-only file system)")
    with pytest.raises(
        RunError, match=rf"/tmp cannot be written .*set RAY_TMPDIR to a folder of at most {MAX_FOLDER} "
    ):
        check_address(None)


def test_the_longest_folder_that_is_allowed_holds_rays_longest_socket() -> None:
    from ray._private.utils import validate_socket_filepath

    validate_socket_filepath("x" * MAX_FOLDER + joining.SOCKET_NAME)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("x" * (MAX_FOLDER + 1) + joining.SOCKET_NAME)
