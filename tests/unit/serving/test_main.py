"""Starting the server: what is refused, in one line and with its exit code."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mlplatform.errors import AlreadyRunning, PortInUse
from mlplatform.serving.main import main, take_lock
from mlplatform.serving.parent.listening import listen


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "not-an-address"])
def test_an_address_of_other_machines_is_refused(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path / "e"), "--host", host]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_a_port_that_is_taken_is_a_world_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--folder", str(tmp_path), "--port", str(port)]) == 6
    said = capsys.readouterr().err
    assert f"Port {port} on 127.0.0.1 is in use" in said
    assert said.count("\n") == 1


def test_several_workers_do_not_share_a_port_with_another_server() -> None:
    ours = listen("127.0.0.1", 0, 3)
    port = ours[0].getsockname()[1]
    assert {listener.getsockname()[1] for listener in ours} == {port}
    with pytest.raises(PortInUse):
        listen("127.0.0.1", port, 3)
    for listener in ours:
        listener.close()


def test_a_second_server_on_the_same_folder_is_told_who_runs(tmp_path: Path) -> None:
    with take_lock(tmp_path):
        with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
            take_lock(tmp_path)
        assert main(["--folder", str(tmp_path)]) == 6
    take_lock(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_a_world_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--folder", str(tmp_path / "file" / "e")]) == 6
