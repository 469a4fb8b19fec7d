"""A model server in a container. A new one is ready before the one before it ends, behind one port."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mlplatform.domain.access import exposure
from mlplatform.domain.server_settings import ServerSettings, SettingChange
from mlplatform.errors import MlplatformError, ServerDidNotStart, WorldError
from mlplatform.plugins.targets import engine, keeping, readiness
from mlplatform.plugins.targets.folder import lock_held
from mlplatform.plugins.targets.image import ServerImage
from mlplatform.plugins.targets.local import LocalTarget, behaviour
from mlplatform.plugins.targets.slots import Slots
from mlplatform.ports.extensions import ServerSpec, ServerState

INNER_PORT = 8080
"""On the container's own loopback address, for its health check."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class DockerTarget:
    """A container of an engine on this machine (DOCKER_HOST is honoured), of an image that is built when it is not
    there: read-only, without capabilities or a network, not as root. The port is kept by a small process, which hands
    its socket to the containers: see docs/operations.md.

    base_image: what the image is built on; anything with Python 3.11 and `venv`.
    packages: more of them with their versions, for example for bundles of the sklearn runtime.
    memory_mb: what a container may take; above that it is killed and started again.
    start_seconds: how long a new container may take until it serves what it should.
    stop_seconds: how long one may take to finish its requests before it is killed.
    """

    takes_over_from: ClassVar[frozenset[str]] = frozenset({"local"})

    base_image: str = "python:3.11-slim-bookworm"
    packages: tuple[str, ...] = ()
    memory_mb: int = 2000
    start_seconds: float = 60.0
    stop_seconds: float = 30.0

    def apply(self, desired: ServerSpec) -> ServerState:
        """Start a container, or leave the one that runs when nothing about it has changed. One that does not become
        ready is removed, and the one before goes on. A server without a container that runs in the folder, the target
        `local`'s, goes on until the container answers beside it on its port.

        Raises ServerDidNotStart with the last line of its log.
        """
        if why := exposure(desired.host, desired.auth, desired.tls is not None, desired.behind_proxy):
            raise ServerDidNotStart(endpoint=desired.endpoint, cause=why, log=desired.folder / "server.log")
        with _alone(desired.folder):
            image = ServerImage(self.base_image, self.packages)
            wanted = self._digest(desired, image.tag)
            slots = Slots(desired.folder)
            state = self.status(desired.folder)
            if state.running and not self.changes(desired) and _record(slots)["wanted"] == wanted:
                return state
            desired = desired.settled(state.settings)
            image.ensure()
            if lock_held(desired.folder) and not keeping.can_take_over(desired):
                self._end_local(desired.folder)
            if not lock_held(desired.folder) and not keeping.keeps(desired):
                self._end_all(desired.folder)
            return self._replace(desired, slots, image.tag, wanted)

    def status(self, folder: Path) -> ServerState:
        """What runs in a folder; not running when nobody holds its lock. The engine is not asked."""
        slots = Slots(folder)
        record = _record(slots)
        if not record or slots.active is None or not lock_held(slots.place(slots.active)):
            return ServerState(folder.name, running=False)
        host, port, pid = record["host"], record["port"], record["pid"]
        settings = ServerSettings.of(record.get("settings"))
        return ServerState(folder.name, True, host, port, pid, record["auth"], record["tls"], settings)

    def changes(self, desired: ServerSpec) -> tuple[SettingChange, ...]:
        """Also what this target itself was told; nothing goes from a container to a collector of traces."""
        state = self.status(desired.folder)
        if state.settings is None:
            return ()
        record = _record(Slots(desired.folder))
        ours = {"image": ServerImage(self.base_image, self.packages).tag, "options.memory_mb": self.memory_mb}
        own = [SettingChange(n, old, new) for n, new in ours.items() if (old := record.get(n)) != new]
        return (*state.settings.changes(desired.settings), *own)

    def stop(self, folder: Path, keep_port: bool = False) -> None:
        """End the container: it finishes its requests first. Nothing happens when there is none. With `keep_port`
        connections wait for whoever takes over the port."""
        if not (folder / "slots").is_dir():
            return
        with _alone(folder):
            self._end_all(folder, keep_port)
            Slots(folder).leave()

    # --- one container takes over from another ----------------------------------------------------------------

    def _replace(self, desired: ServerSpec, slots: Slots, image: str, wanted: str) -> ServerState:
        before, colour, local = slots.active, slots.next, lock_held(desired.folder)
        owner = keeping.user()
        port = keeping.ensure(desired, owner)
        name = self._name(desired.folder, colour)
        self._remove_with_sockets(name, desired.folder, slots)
        place = slots.prepare(colour, owner if os.getuid() == 0 else None)
        try:
            engine.docker(*self._run_words(desired, name, image, place, owner))
            self._wait(desired, slots, name, place)
        except MlplatformError as error:
            self._save_log(name, desired.folder)
            self._remove_with_sockets(name, desired.folder, slots)
            if local:
                keeping.end(desired.folder)  # the port is its own again
            self._last_good(slots)
            if isinstance(error, ServerDidNotStart):
                raise
            raise self._did_not_start(desired, str(error)) from error
        pid = int((engine.inspect("container", name) or {"State": {"Pid": 0}})["State"]["Pid"])
        record = {
            "wanted": wanted,
            "image": image,
            "name": name,
            "host": desired.host,
            "port": port,
            "pid": pid,
        }
        record |= {"auth": desired.auth, "tls": desired.tls is not None, "options.memory_mb": self.memory_mb}
        record["settings"] = replace(desired.settings, port=port).to_dict()
        record["sockets"] = keeping.sockets(desired.folder)
        (place / "container.json").write_text(json.dumps(record))
        if local:
            self._end_local(desired.folder)
        slots.activate(colour)
        (desired.folder / "port").write_text(str(port))
        if before is not None:
            self._end(self._name(desired.folder, before), desired.folder)
        slots.collect()
        return self.status(desired.folder)

    def _wait(self, desired: ServerSpec, slots: Slots, name: str, place: Path) -> None:
        """Until its workers serve what they should; then let it take part, and until it does."""
        local = desired.folder if lock_held(desired.folder) else None
        before = slots.place(slots.active) if slots.active else local
        deadline = time.monotonic() + self.start_seconds
        while why := readiness.why_not(desired, place, before):
            self._still_starting(desired, name, why, deadline)
        (place / "open").touch()
        while why := readiness.why_not_joined(desired, place):
            self._still_starting(desired, name, why, deadline)

    def _still_starting(self, desired: ServerSpec, name: str, why: readiness.Why, deadline: float) -> None:
        if why.final:
            raise self._did_not_start(desired, why.text)
        state = (engine.inspect("container", name) or {"State": {"Status": "gone"}})["State"]
        if state["Status"] != "running":
            said = engine.logs(name).decode(errors="replace").strip().splitlines()
            last = said[-1][:500] if said else "it printed nothing"
            raise self._did_not_start(desired, f"its container is {state['Status']}: {last}")
        if time.monotonic() > deadline:
            raise self._did_not_start(
                desired, f"it is not ready after {self.start_seconds:.0f} s: {why.text}"
            )
        time.sleep(POLL_SECONDS)

    def _remove_with_sockets(self, name: str, folder: Path, slots: Slots) -> None:
        """A container that did not come to replace the one before, and what it had added to the port."""
        self._remove(name)
        if sockets := int(_record(slots).get("sockets", 0)):
            keeping.keep_only(folder, sockets)

    def _last_good(self, slots: Slots) -> None:
        """Start the container before again where it had been killed: the engine does nothing when it runs."""
        name = _record(slots).get("name")
        if name and engine.inspect("container", name) is not None:
            engine.docker("start", name)

    # --- words for the engine ---------------------------------------------------------------------------------

    def _run_words(self, desired: ServerSpec, name: str, image: str, place: Path, owner: int) -> list[str]:
        group = os.getgid() if os.getuid() else owner
        words = ["run", "--detach", "--name", name, "--user", f"{owner}:{group}", "--restart", "on-failure:5"]
        words += [
            "--label",
            f"mlplatform.folder={desired.folder}",
            "--label",
            f"mlplatform.endpoint={desired.endpoint}",
        ]
        words += ["--read-only", "--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=64m", "--network", "none"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"]
        words += ["--memory", f"{self.memory_mb}m", "--memory-swap", f"{self.memory_mb}m"]
        words += ["--log-opt", "max-size=10m", "--log-opt", "max-file=3"]
        words += [*engine.mount(desired.folder), *engine.mount(place, writable=True)]
        for path in (desired.bundles, *((desired.tls.cert, desired.tls.key) if desired.tls else ())):
            words += engine.mount(path) if path is not None else []
        words += [image, "--folder", str(place), "--port", str(INNER_PORT), "--workers", str(desired.workers)]
        return [*words, "--keeper", str(desired.folder), *behaviour(desired)]

    def _digest(self, desired: ServerSpec, image: str) -> str:
        """Of all that makes another container; one that demands more of its clients than is desired may go on."""
        text = repr((replace(desired, auth=False, tls=None), image, self.memory_mb))
        return hashlib.sha256(text.encode()).hexdigest()

    def _name(self, folder: Path, colour: str) -> str:
        """Endpoints of two projects may have one name."""
        project = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        return f"mlplatform-{folder.name}-{project}-{colour}"

    # --- endings ----------------------------------------------------------------------------------------------

    def _end_local(self, folder: Path) -> None:
        LocalTarget(stop_seconds=self.stop_seconds).stop(folder, keep_port=True)

    def _end_all(self, folder: Path, keep_port: bool = False) -> None:
        if not keep_port:
            keeping.end(folder)
        for name in engine.containers(f"mlplatform.folder={folder}"):
            self._end(name, folder)
        (folder / "server.json").resolve().unlink(missing_ok=True)

    def _end(self, name: str, folder: Path) -> None:
        if engine.inspect("container", name) is None:
            return
        engine.docker("stop", "--time", f"{self.stop_seconds:.0f}", name, seconds=self.stop_seconds + 60)
        self._save_log(name, folder)
        self._remove(name)

    def _remove(self, name: str) -> None:
        if engine.inspect("container", name) is not None:
            engine.docker("rm", "--force", name)

    def _save_log(self, name: str, folder: Path) -> None:
        """`docker logs` knows a container only as long as it is there."""
        with (folder / "server.log").open("ab") as log:
            log.write(engine.logs(name))

    def _did_not_start(self, desired: ServerSpec, cause: str) -> ServerDidNotStart:
        return ServerDidNotStart(endpoint=desired.endpoint, cause=cause, log=desired.folder / "server.log")


def _record(slots: Slots) -> dict[str, Any]:
    """What was noted of the active container; empty when there is none."""
    if slots.active is None:
        return {}
    try:
        found = json.loads((slots.place(slots.active) / "container.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else starts or ends containers of this folder meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "docker.lock").open("a")
    except OSError as error:
        raise WorldError(what=f"the folder {folder} cannot be used: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
