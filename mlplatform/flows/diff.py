"""diff: two versions side by side, section by section: what was measured, what they were made of, what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np

from mlplatform.domain.lineage import first_of
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Measurement, slices_of
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError
from mlplatform.flows.review import newest_findings
from mlplatform.flows.same_rows import answered, gap, metrics_of, on_same_rows, value_of
from mlplatform.flows.world import World
from mlplatform.ports.tracking import RunDetails
from mlplatform.stats.batch import Array

COSTS = ("budget", "latency", "memory", "serving_check")
"""Gates whose measurements are costs."""
Side = Measurement | str | None
Facts = Mapping[str, Side]


@dataclass(frozen=True)
class Line:
    """One thing of both versions; None where a version does not have it."""

    name: str
    first: Side
    second: Side
    difference: Side = None
    """First less second."""
    said: str = ""
    """Of a metric: `better`, `worse`, `cannot tell`; of a column, a package: `added`, `removed`, `changed`."""

    @property
    def same(self) -> bool:
        return self.first == self.second


@dataclass(frozen=True)
class Section:
    name: str
    lines: tuple[Line, ...]
    note: str = ""
    """What to know before reading it: which rows, or why nobody could look."""


@dataclass(frozen=True)
class Diff:
    first: str
    second: str
    sections: tuple[Section, ...]
    same: tuple[str, ...] = ()
    """Sections in which nothing differs."""


@dataclass(frozen=True)
class _Side:
    """One version, and the run that trained it as MLflow tells of it; asked once, for every section."""

    world: World
    version: Version
    run: RunDetails
    unasked: str = ""
    """Why MLflow did not tell."""


@dataclass(frozen=True)
class _Pair:
    world: World
    policy: Policy | None
    sides: tuple[_Side, _Side]

    @property
    def versions(self) -> tuple[Version, Version]:
        return self.sides[0].version, self.sides[1].version

    def section(self, name: str, facts: Callable[[_Side], Facts]) -> Section:
        return _side_by_side(name, facts(self.sides[0]), facts(self.sides[1]))

    def of_runs(self, name: str, facts: Callable[[_Side], Facts]) -> Section:
        section = self.section(name, facts)
        why = next((f"could not be looked at: {side.unasked}" for side in self.sides if side.unasked), "")
        return Section(name, section.lines, why)


def diff(
    world: World, policy: Policy | None, first: Version, second: Version, everything: bool = False
) -> Diff:
    """What differs between two versions. Metrics are always told; with `everything` equal lines are, too."""
    pair = _Pair(world, policy, _sides(world, first, second))
    kept, same = [], []
    for name, look in SECTIONS.items():
        section = _looked(name, look, pair)
        told = everything or name == "metrics"
        lines = tuple(line for line in section.lines if told or not line.same)
        if lines or (section.note and not section.lines):
            kept.append(Section(name, lines, section.note))
        elif section.lines:
            same.append(name)
    return Diff(first.ref, second.ref, tuple(kept), tuple(same))


def _sides(world: World, first: Version, second: Version) -> tuple[_Side, _Side]:
    """MLflow may be away, or the run deleted: then the rest is still worth telling."""
    try:
        runs = [world.runs.details(_trained_in(world, v)) for v in (first, second)]
    except MlplatformError as error:
        nothing = RunDetails({}, {})
        return _Side(world, first, nothing, str(error)), _Side(world, second, nothing, str(error))
    return _Side(world, first, runs[0]), _Side(world, second, runs[1])


def _looked(name: str, look: Callable[[_Pair], Section], pair: _Pair) -> Section:
    """A section that cannot be looked at, because bytes were freed or MLflow does not answer, says so."""
    try:
        return look(pair)
    except MlplatformError as error:
        return Section(name, (), f"could not be looked at: {error}")


# --- what was measured ----------------------------------------------------------------------------------------------


def _metrics(pair: _Pair) -> Section:
    world, (first, second) = pair.world, pair.versions
    common = on_same_rows(world, first, second)
    own, other = common or (world.evaluations.latest(first.digest), world.evaluations.latest(second.digest))
    answers = answered(world, first, own), answered(world, second, other)
    lines = []
    for name in metrics_of(pair.policy, (own, other)):
        sides = value_of(own, answers[0], name), value_of(other, answers[1], name)
        if sides == (None, None):
            continue
        difference = gap(*answers, name) if common else None
        said = difference.said if difference else ""
        lines.append(Line(name, *sides, difference.measurement if difference else None, said))
    if common is None:
        missing = [v.ref for v, e in ((first, own), (second, other)) if e is None]
        note = (
            f"{' and '.join(missing)} was not evaluated yet"
            if missing
            else "measured on different rows, which cannot be compared"
        )
        return Section("metrics", tuple(lines), note)
    assert own
    return Section("metrics", tuple(lines), f"same {own.rows} rows: {own.details.get('source', '')}")


def _slices(pair: _Pair) -> Section:
    def facts(side: _Side) -> Facts:
        return {m.name: m for m in slices_of(newest_findings(side.world, side.version))}

    section = pair.section("slices", facts)
    note = "as each was judged last; their rows may differ" if section.lines else ""
    return Section(section.name, section.lines, note)


def _size(pair: _Pair) -> Section:
    def facts(side: _Side) -> Facts:
        findings = newest_findings(side.world, side.version)
        costs = {m.name: m for f in findings for m in f.measurements if f.gate in COSTS}
        return {"size_bytes": f"{side.version.size_bytes:,}", "runtime": side.version.runtime, **costs}

    first, second = pair.versions
    ratio = first.size_bytes / second.size_bytes - 1 if second.size_bytes else 0.0
    return _noted(pair.section("size and cost", facts), "size_bytes", f"{ratio:+.1%}")


# --- what they were made of -----------------------------------------------------------------------------------------


def _data(pair: _Pair) -> Section:
    first, second = (_trained_on(side) for side in pair.sides)
    section = pair.section("data", _data_facts)
    if first is None or second is None:
        return section
    return _noted(section, "training rows", f"{len(np.intersect1d(first, second)):,} in common")


def _data_facts(side: _Side) -> Facts:
    world, version = side.world, side.version
    found: dict[str, Side] = {}
    if (trained := _trained_on(side)) is not None:
        found["training rows"] = f"{len(trained):,} ({sha256(trained.tobytes()).hexdigest()[:12]})"
    if (holdout := world.bundles.evidence(version.digest) / "holdout.parquet").exists():
        found["holdout"] = _file_digest(holdout)
    if evaluation := world.evaluations.latest(version.digest):
        found["evaluated on"] = (
            f"{evaluation.rows:,} ({evaluation.data_digest[:12]}) {evaluation.details.get('source', '')}"
        )
    return {**found, **{f"dataset {name}": digest for name, digest in side.run.datasets.items()}}


def _trained_on(side: _Side) -> Array | None:
    path = side.world.bundles.evidence(side.version.digest) / "trained_on.npy"
    return np.load(path, allow_pickle=False) if path.exists() else None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:12]


def _parameters(pair: _Pair) -> Section:
    return pair.of_runs("parameters", lambda side: side.run.parameters)


def _logged(pair: _Pair) -> Section:
    """What the runs logged: on whose rows nobody here knows."""

    def facts(side: _Side) -> Facts:
        return {name: f"{value:.6g}" for name, value in side.run.metrics.items()}

    section = pair.of_runs("logged by the runs", facts)
    unknown = "on rows of their own, without intervals" if section.lines else ""
    return Section(section.name, section.lines, section.note or unknown)


def _origin(pair: _Pair) -> Section:
    def facts(side: _Side) -> Facts:
        v = side.version
        return {
            "digest": v.digest[:12],
            "run": v.run_id,
            "author": v.author,
            "made at": f"{v.created_at:%Y-%m-%d %H:%M}",
            "cause": v.cause,
            "parent": f"{v.model}@{v.parent}" if v.parent else None,
            "technique": v.technique,
            "git commit": side.run.commit[:12] or None,
        }

    return pair.section("origin", facts)


def _trained_in(world: World, version: Version) -> str:
    """The run that trained it; a compressed child's own run holds only the child."""
    return first_of(version, world.ledger.versions(version.model)).run_id


# --- what they need -------------------------------------------------------------------------------------------------


def _signature(pair: _Pair) -> Section:
    def facts(side: _Side) -> Facts:
        manifest = side.world.bundles.manifest(side.version.digest)
        columns = {c.name: c.dtype + ("" if c.required else ", optional") for c in manifest.inputs}
        params = {f"parameter {p.name}": f"{p.dtype}, default {p.default}" for p in manifest.params}
        return {**columns, **params, "output": f"{manifest.task.kind}, {manifest.task.output}"}

    return _changes(pair.section("signature", facts))


def _dependencies(pair: _Pair) -> Section:
    def facts(side: _Side) -> Facts:
        return side.world.bundles.manifest(side.version.digest).requirements

    return _changes(pair.section("dependencies", facts))


def _changes(section: Section) -> Section:
    """As one moves from the second to the first: `diff churn@7 churn@production` says what 7 would bring."""
    said = {(True, False): "removed", (False, True): "added", (False, False): "changed"}
    lines = (
        replace(x, said="" if x.same else said[x.first is None, x.second is None]) for x in section.lines
    )
    return Section(section.name, tuple(lines), section.note)


def _noted(section: Section, name: str, difference: str) -> Section:
    """The section with a difference beside the line of this name, where its sides differ."""
    lines = (replace(x, difference=difference) if x.name == name and not x.same else x for x in section.lines)
    return Section(section.name, tuple(lines), section.note)


def _side_by_side(name: str, first: Facts, second: Facts) -> Section:
    names = dict.fromkeys([*first, *second])
    lines = (Line(n, first.get(n), second.get(n)) for n in names)
    return Section(name, tuple(x for x in lines if (x.first, x.second) != (None, None)))


SECTIONS: Mapping[str, Callable[[_Pair], Section]] = {
    "metrics": _metrics,
    "slices": _slices,
    "size and cost": _size,
    "data": _data,
    "parameters": _parameters,
    "logged by the runs": _logged,
    "signature": _signature,
    "dependencies": _dependencies,
    "origin": _origin,
}
