"""Looking: a version by its name, a model's history, and what two versions have in common and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.ledger import Entry
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Evaluation
from mlplatform.domain.version import Version, VersionRef
from mlplatform.errors import MlplatformError, UnknownName, UsageError
from mlplatform.flows.world import World


@dataclass(frozen=True)
class Line:
    what: str
    first: str
    second: str


def diff(world: World, first: Version, second: Version) -> list[Line]:
    """One line for everything that differs."""
    a, b = _facts(world, first), _facts(world, second)
    names = dict.fromkeys([*a, *b])
    return [Line(n, a.get(n, "-"), b.get(n, "-")) for n in names if a.get(n) != b.get(n)]


def _facts(world: World, version: Version) -> dict[str, str]:
    manifest = world.bundles.manifest(version.digest)
    evaluation = world.evaluations.latest(version.digest)
    facts = dict(_of_version(version))
    facts.update(_of_manifest(manifest))
    facts.update(_of_evaluation(evaluation))
    details = world.runs.details(version.run_id)
    facts.update({f"parameter {k}": v for k, v in sorted(details.parameters.items())})
    facts.update({f"metric {k}": f"{v:.6g}" for k, v in sorted(details.metrics.items())})
    return facts


def _of_version(version: Version) -> Iterator[tuple[str, str]]:
    yield "version", str(version.number)
    yield "digest", version.digest[:12]
    yield "runtime", version.runtime
    yield "size_bytes", f"{version.size_bytes:,}"
    yield "parent", _text(version.parent)
    yield "technique", _text(version.technique)
    yield "cause", version.cause
    yield "run", version.run_id
    yield "author", version.author


def _of_manifest(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for column in manifest.inputs:
        yield f"input {column.name}", column.dtype + ("" if column.required else ", optional")
    yield "output", f"{manifest.task.kind}, {manifest.task.output}"
    for package, number in sorted(manifest.requirements.items()):
        yield f"package {package}", number


def _of_evaluation(evaluation: Evaluation | None) -> Iterator[tuple[str, str]]:
    if evaluation:
        yield "evaluated on", str(evaluation.details.get("source", evaluation.data_digest[:12]))
        for measurement in evaluation.measurements:
            yield measurement.name, str(measurement)


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def version(world: World, policies: Mapping[str, Policy], ref: str) -> Version:
    """`churn@7`, or the holder of `churn@production`; raises BadVersionRef, UnknownName, UsageError."""
    wanted = VersionRef.parse(ref)
    versions = world.ledger.versions(wanted.model)
    if not versions:
        raise _no_version(world, policies, wanted.model)
    number = wanted.number
    if wanted.stage is not None:
        number = world.ledger.standings(wanted.model).holder(wanted.stage)
        if number is None:
            stages = policies[wanted.model].ladder.stages if wanted.model in policies else ()
            if wanted.stage not in stages:
                raise UnknownName("stage", wanted.stage, stages)
            hint = f"Put one there: mlplatform promote {wanted.model}@N {wanted.stage} --reason ..."
            raise UsageError(hint, what=f"no version of {wanted.model} is in {wanted.stage}")
    for item in versions:
        if item.number == number:
            return item
    raise UnknownName(f"version of {wanted.model}", str(number), (str(v.number) for v in versions))


def history(
    world: World, policies: Mapping[str, Policy], model: str, until: datetime | None = None
) -> list[Entry]:
    """Entries of the ledger up to a moment, oldest first; raises UnknownName."""
    if model not in world.ledger.models():
        raise _no_version(world, policies, model)
    return world.ledger.entries(model, until)


def _no_version(world: World, policies: Mapping[str, Policy], model: str) -> MlplatformError:
    if model in policies:
        return UsageError(f"Make its first one: mlplatform train {model}", what=f"{model} has no version yet")
    return UnknownName("model", model, {*world.ledger.models(), *policies})
