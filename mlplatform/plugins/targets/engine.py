"""What we ask of a Docker engine, by its command line: DOCKER_HOST, contexts and credentials are honoured."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlplatform.errors import WorldError

BUILD_SECONDS = 1800
ASK_SECONDS = 120


def docker(*words: str, stdin: bytes = b"", seconds: float = ASK_SECONDS) -> str:
    """What a command prints. Raises WorldError with its last line, or with what to do about a missing engine."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    command = ["docker", *words]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=seconds)
    except FileNotFoundError:
        hint = 'Install Docker (Debian: apt install docker.io), or set target = "local".'
        raise WorldError(hint, what="the command `docker` is not there") from None
    except subprocess.TimeoutExpired:
        raise WorldError(what=f"`docker {words[0]}` has not ended after {seconds:.0f} s") from None
    if done.returncode:
        raise _failed(words, done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace").strip()


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """An image or a container as the engine describes it; None when there is none."""
    try:
        found: list[dict[str, Any]] = json.loads(docker(kind, "inspect", name))
    except WorldError as error:
        if "no such" in str(error).lower():
            return None
        raise
    return found[0]


def containers(label: str) -> list[str]:
    """Names of the containers that bear a label, running or not."""
    names = docker("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}")
    return names.split()


def logs(name: str) -> bytes:
    """All that a container printed; empty when there is none."""
    done = subprocess.run(["docker", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return b"" if done.returncode else done.stdout


def build(
    tag: str, context: bytes, file: str, arguments: Mapping[str, str], secrets: Mapping[str, Path]
) -> None:
    """Build an image of a context in a tar file."""
    words = ["build", "--quiet", "--tag", tag, "--file", file]
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    for name, path in secrets.items():
        words += ["--secret", f"id={name},src={path}"]
    docker(*words, "-", stdin=context, seconds=BUILD_SECONDS)


def mount(path: Path, writable: bool = False) -> list[str]:
    """The words that show a container a path under its own name."""
    if '"' in str(path):
        raise WorldError(what=f"Docker cannot mount {path}: there is a quotation mark in its name")
    return ["--mount", f'type=bind,"src={path}","dst={path}"' + ("" if writable else ",readonly")]


def _failed(words: Sequence[str], stderr: str) -> WorldError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = (lines[-1] if lines else "it said nothing")[:500]
    if "daemon" in stderr and ("connect" in stderr or "permission denied" in stderr):
        where = os.environ.get("DOCKER_HOST", "its default address")
        hint = 'Start it, set DOCKER_HOST, or set target = "local" in the policy.'
        return WorldError(hint, what=f"no Docker engine answers at {where}: {last}")
    return WorldError(what=f"`docker {' '.join(words[:2])}` failed: {last}")
