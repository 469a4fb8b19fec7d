"""register: a training run becomes an immutable version. compress: a version gets a smaller or faster child."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlplatform.domain.bundle import Manifest, sample_rows
from mlplatform.domain.canonical import finite, plain
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Policy, Trust
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, GoneBytes, MlplatformError, Refused, UsageError
from mlplatform.flows.sound import demand_bytes, demand_evidence, demand_permitted, runs_code
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.extensions import Made
from mlplatform.ports.state import Intent
from mlplatform.ports.tracking import Candidate
from mlplatform.stats.profile import make_spec, profile

EVIDENCE = ("holdout.parquet", "reference.parquet", "trained_on.npy")
NO_CODE = Trust()


@dataclass(frozen=True)
class _Admission:
    """A frozen bundle on its way to become a version."""

    model: str
    run_id: str
    manifest: Manifest
    key: str
    author: str
    reason: str
    cause: str
    parent: int | None = None
    technique: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def register(
    world: World, model: str, run_id: str, actor: Actor, cause: str = "manual", trust: Trust = NO_CODE
) -> Version:
    """Freeze what a run logged and enter it as CANDIDATE. Registering a run again returns its version.

    A version whose bytes were freed or damaged gets them back. Raises NotACandidate, UnsafeArtifact, CodeNotAllowed,
    MlflowUnreachable; Refused when a run no longer gives the bytes that its version had.
    """
    key = f"register:{model}:{run_id}"
    if known := _registered(world, model, run_id, None):
        return _whole(world, known, actor, lambda: _download(world, run_id, trust)[0])
    with _prepared(world, _intent(world, key, "register", model)):
        failpoint("register:intent")
        manifest, candidate = _download(world, run_id, trust)
    failpoint("register:frozen")
    reason = f"run {run_id[:8]}, cause {cause}"
    return _admit(world, actor, _Admission(model, run_id, manifest, key, candidate.author, reason, cause))


def compress(world: World, parent: Version, steps: Sequence[Use], actor: Actor) -> Version:
    """Apply techniques in order; the result is one child version that names its parent and the techniques.

    Raises Refused when a technique cannot read what it is given, or changes the answers too much.
    """
    technique = "+".join(step.use for step in steps)
    key = f"compress:{parent.ref}:{technique}"
    if known := _registered(world, parent.model, parent.run_id, technique, parent.number):
        return _whole(world, known, actor, lambda: _apply(world, parent, steps)[0])
    with _prepared(world, _intent(world, key, "register", parent.model)):
        failpoint("compress:intent")
        manifest, notes = _apply(world, parent, steps)
        bundle = world.bundles.path(manifest.digest)
        run_id = world.runs.log_derived(parent.run_id, bundle, manifest, technique)
    failpoint("compress:frozen")
    admission = _Admission(
        parent.model,
        run_id,
        manifest,
        key,
        parent.author,
        f"{technique} of {parent.ref}",
        "compress",
        parent=parent.number,
        technique=technique,
        data={"notes": notes},
    )
    return _admit(world, actor, admission)


def techniques(policy: Policy, names: Sequence[str] = ()) -> Sequence[Use]:
    """The techniques that were named, or those of the policy; raises UsageError when there are none."""
    uses = tuple(Use(name) for name in names) or policy.compress.steps
    if not uses:
        raise UsageError(
            what=f"no technique was named, and the policy of {policy.model} has none",
            hint="Name them with --steps onnx,dynamic_int8, or in [compress] of the policy.",
        )
    return uses


# --- the common end -------------------------------------------------------------------------------------------------


@contextmanager
def _prepared(world: World, intent: Intent) -> Iterator[None]:
    """Around everything before MLflow is told of a version: when that fails, nothing is left to recover."""
    world.intents.open(intent)
    try:
        yield
    except MlplatformError:
        world.intents.close(intent.key)
        raise


def _admit(world: World, actor: Actor, admission: _Admission) -> Version:
    known = world.ledger.standings(admission.model).places
    try:
        number = world.registry.create(
            admission.model, admission.run_id, admission.key, max(known, default=0)
        )
    except Refused:
        world.intents.close(admission.key)  # MLflow made nothing
        raise
    failpoint("register:created")
    version = Version(
        model=admission.model,
        number=number,
        digest=admission.manifest.digest,
        runtime=admission.manifest.runtime,
        run_id=admission.run_id,
        created_at=world.clock.now(),
        author=admission.author,
        size_bytes=admission.manifest.size_bytes,
        parent=admission.parent,
        technique=admission.technique,
        cause=admission.cause,
    )
    draft = Draft(
        admission.model,
        Kind.REGISTERED,
        number,
        actor,
        admission.reason,
        changes=(Change(number, None, CANDIDATE),),
        data={
            "evidence": {name: world.bundles.sha256(version.digest, name) for name in EVIDENCE},
            **finite(plain(dict(admission.data))),
        },
        key=admission.key,
    )
    world.ledger.register(version, draft)
    failpoint("register:committed")
    world.intents.close(admission.key)
    return version


def _registered(
    world: World, model: str, run_id: str, technique: str | None, parent: int | None = None
) -> Version | None:
    for version in world.ledger.versions(model):
        if (version.parent, version.technique) == (parent, technique) and (
            parent or version.run_id == run_id
        ):
            return version
    return None


def _intent(world: World, key: str, flow: str, model: str) -> Intent:
    return Intent(key, flow, model, {}, world.clock.now())


def _whole(world: World, version: Version, actor: Actor, make: Callable[[], Manifest]) -> Version:
    """A registered version, with its bytes and evidence made again where they are gone or changed."""
    try:
        demand_bytes(world, version)
        demand_evidence(world, version)
    except (GoneBytes, ChangedBytes) as error:
        why = str(error)
    else:
        return version
    made = make().digest
    if made != version.digest:
        raise Refused(
            what=f"{version.ref} cannot get its bytes back: what it was made of gives others now ({made[:12]})",
            hint="Log the model again as a new run, and register that.",
        )
    demand_evidence(world, version)
    data = {"digest": made}
    reason = f"made again from run {version.run_id[:8]}: {why}"
    world.ledger.append(Draft(version.model, Kind.RESTORED, version.number, actor, reason, data=data))
    return version


# --- bundles --------------------------------------------------------------------------------------------------------


def inspected(world: World, run_id: str, into: Path, trust: Trust) -> Candidate:
    """What a run logged, downloaded and found to be what the policy lets in. Raises what `register` raises."""
    candidate = world.runs.candidate(run_id, into)
    demand_permitted(trust, candidate.runtime, f"the model of run {run_id[:8]}")
    world.trust.inspect(candidate.model_folder, (candidate.runtime,))
    return candidate


def _download(world: World, run_id: str, trust: Trust) -> tuple[Manifest, Candidate]:
    """What a run logged, inspected and frozen."""
    with world.bundles.stage() as staged:
        candidate = inspected(world, run_id, staged / "download", trust)
        if runs_code(candidate.runtime):
            limits = {"answer_seconds": trust.answer_seconds, "memory_mb": trust.memory_mb}
            candidate = replace(candidate, options={**candidate.options, **limits})
        failpoint("register:downloaded")
        return _freeze_candidate(world, candidate, staged), candidate


def _freeze_candidate(world: World, candidate: Candidate, staged: Path) -> Manifest:
    folder = staged / "bundle"
    folder.mkdir()
    shutil.copytree(candidate.model_folder, folder / "model", symlinks=True)
    features = [column.name for column in candidate.inputs]
    reference = world.tables.read(candidate.reference)
    sample = world.tables.read(candidate.sample)
    profiled = [c.name for c in candidate.inputs if not c.shape and c.dtype != "binary"]
    spec = make_spec({name: reference[name] for name in profiled})
    _write_json(
        folder / "reference.json",
        {"spec": spec.to_dict(), "profile": profile(spec, {n: reference[n] for n in profiled}).to_dict()},
    )
    few = sample_rows(sum(sample[n].nbytes // max(1, len(sample[n])) for n in features))
    _write_json(folder / "sample.json", {n: sample[n][:few].tolist() for n in features})
    manifest = Manifest(
        runtime=candidate.runtime,
        model_path="model",
        inputs=candidate.inputs,
        task=candidate.task,
        files={},
        requirements=candidate.requirements,
        options=candidate.options,
        params=candidate.params,
    )
    frozen = world.bundles.freeze(folder, manifest)
    for name, source in zip(
        EVIDENCE, (candidate.holdout, candidate.reference, candidate.trained_on), strict=True
    ):
        world.bundles.keep(frozen.digest, shutil.copyfile(source, staged / name))
    return frozen


def _apply(world: World, parent: Version, steps: Sequence[Use]) -> tuple[Manifest, dict[str, Any]]:
    """One folder a step, all inside one staged folder; only the last one is frozen."""
    demand_bytes(world, parent)
    demand_evidence(world, parent)  # its child gets a copy
    digest = parent.digest
    with world.bundles.stage() as staged:
        source, manifest, notes = carry_out(world, digest, steps, staged)
        failpoint("compress:made")
        frozen = world.bundles.freeze(source, manifest)
        for name in EVIDENCE:
            copy = shutil.copyfile(world.bundles.evidence(digest) / name, staged / name)
            world.bundles.keep(frozen.digest, copy)
    return frozen, notes


def carry_out(
    world: World, digest: str, steps: Sequence[Use], staged: Path
) -> tuple[Path, Manifest, dict[str, Any]]:
    """Techniques one after the other: the last one's folder, its manifest without files, and notes by technique."""
    notes: dict[str, Any] = {}
    source, manifest = world.bundles.path(digest), world.bundles.manifest(digest)
    for position, step in enumerate(steps):
        folder = staged / str(position)
        folder.mkdir()
        made = _step(world, step, source, manifest, folder)
        notes[step.use] = dict(made.notes)
        for name in ("sample.json", "reference.json"):
            shutil.copyfile(source / name, folder / name)
        source, manifest = folder, _child(manifest, made)
    return source, manifest, notes


def _step(world: World, step: Use, source: Path, manifest: Manifest, folder: Path) -> Made:
    technique = world.build("technique", step)
    if manifest.runtime not in technique.accepts:
        raise Refused(
            what=f"technique {step.use} reads {', '.join(sorted(technique.accepts))}, not {manifest.runtime}",
            hint="Put `onnx` before it: --steps onnx,dynamic_int8.",
        )
    made: Made = technique.compress(source, manifest, folder)
    return made


def _child(parent: Manifest, made: Made) -> Manifest:
    return replace(
        parent,
        runtime=made.runtime,
        model_path=made.model_path,
        options=made.options,
        params=parent.params if made.runtime == parent.runtime else (),
        requirements={},
        files={},
        task=made.task or parent.task,
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, default=_as_json))


def _as_json(value: Any) -> str:
    """Bytes in base64, as clients send them; times as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
