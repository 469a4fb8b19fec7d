"""MLflow in memory: a registry that forgets nothing it was told, and runs that lie in folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.run_id import the_one
from mlplatform.errors import ForgottenModel, NotACandidate, TrainingFailed, UnknownName
from mlplatform.ports.tracking import Candidate, Card, OutsideView, RunDetails, TaggedApproval

PARTS = ("sample", "holdout", "reference", "trained_on")


@dataclass
class FakeRegistry:
    """Port Registry. `runs`: ids of the runs that hold a model; None means all of them."""

    runs: set[str] | None = None
    keys: dict[str, dict[int, str]] = field(default_factory=dict)
    """Per model: version number -> the key it was made with."""
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per model: what somebody sees in MLflow. Tests move them to play an outsider."""
    cards: dict[str, dict[int, Card]] = field(default_factory=dict)
    approvals: dict[str, set[TaggedApproval]] = field(default_factory=dict)
    """Per model: tags that somebody wrote on version pages."""
    edited: dict[str, set[int]] = field(default_factory=dict)
    """Per model: versions whose card somebody wrote over."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Old name -> the name that somebody gave a model."""
    _ours: dict[str, set[str]] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)

    def create(self, model: str, run_id: str, key: str, after: int = 0) -> int:
        if after and model not in self.keys:
            raise ForgottenModel(model=model, count=after)
        if self.runs is not None and run_id not in self.runs:
            raise NotACandidate(run_id=run_id, missing="model")
        made = self.keys.setdefault(model, {})
        for number, known in made.items():
            if known == key:
                return number
        number = self._last[model] = self._last.get(model, 0) + 1
        made[number] = key
        return number

    def discard(self, model: str, key: str) -> None:
        for number in [n for n, known in self.keys.get(model, {}).items() if known == key]:
            self.delete(model, number)

    def project(self, model: str, aliases: Mapping[str, int | None], cards: Mapping[int, Card]) -> None:
        if model not in self.keys:
            return
        there, shown = self.keys[model], self.aliases.setdefault(model, {})
        ours = self._ours.setdefault(model, set())
        wanted = {name: number for name, number in aliases.items() if number is not None}
        for name in (ours | set(aliases)) - set(wanted):
            shown.pop(name, None)
        shown.update({name: number for name, number in wanted.items() if number in there})
        self._ours[model] = set(wanted)
        self.cards.setdefault(model, {}).update({n: card for n, card in cards.items() if n in there})
        self.edited[model] = self.edited.get(model, set()) - set(cards)

    def outside(self, model: str) -> OutsideView:
        there = frozenset(self.keys.get(model, {}))
        tagged = [a for a in self.approvals.get(model, ()) if a.version in there]
        approvals = tuple(sorted(tagged, key=lambda a: (a.version, a.stage)))
        return OutsideView(
            dict(self.aliases.get(model, {})),
            there,
            approvals,
            dict(self.keys.get(model, {})),
            frozenset(self.edited.get(model, ())) & there,
            model in self.keys,
            self.renamed.get(model, ""),
        )

    def aliases_of(self, model: str) -> Mapping[str, int] | None:
        return dict(self.aliases.get(model, {})) if model in self.keys else None

    def rename(self, old: str, new: str) -> None:
        if old not in self.keys:
            return
        by_model: tuple[dict[str, Any], ...] = (self.keys, self.aliases, self.cards, self._ours, self._last)
        for held in by_model:
            if old in held:
                held[new] = held.pop(old)
        self.renamed = {was: now for was, now in self.renamed.items() if was != new} | {old: new}

    def tag(self, model: str, number: int, stage: str, reason: str) -> None:
        """Somebody writes `mlplatform.approve.<stage>` on a version's page; a tag has one value."""
        others = {a for a in self.approvals.get(model, ()) if (a.version, a.stage) != (number, stage)}
        self.approvals[model] = others | {TaggedApproval(number, stage, reason)}

    def forget(self, model: str) -> None:
        """Somebody deletes the registered model in MLflow: its numbers begin again."""
        for held in (self.keys, self.aliases, self.cards, self._ours, self._last):
            held.pop(model, None)

    def delete(self, model: str, number: int) -> None:
        """Somebody deletes a version in MLflow; its aliases go with it."""
        self.keys[model].pop(number, None)
        shown = self.aliases.get(model, {})
        for name in [name for name, held in shown.items() if held == number]:
            del shown[name]


@dataclass
class FakeRuns:
    """Port Runs. `train` calls `trainer`, which writes a candidate's files and describes them."""

    trainer: Callable[[Mapping[str, str], Path], Candidate] | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mlplatform-runs-")))
    runs: dict[str, Candidate] = field(default_factory=dict)
    derived: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Run id -> (parent's run id, bundle digest)."""
    drawn: dict[str, dict[str, tuple[str, dict[str, str]]]] = field(default_factory=dict)
    """Run id -> folder -> (digest, files)."""
    states: dict[str, Literal["active", "deleted", "gone"]] = field(default_factory=dict)
    """Runs that somebody deleted in MLflow."""

    def add(self, candidate: Candidate) -> str:
        """A run that somebody logged without us."""
        self.runs[candidate.run_id] = candidate
        return candidate.run_id

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"training {model} with {dict(parameters)}\n")
        if self.trainer is None:
            raise TrainingFailed(project=str(project), ending="exit code 1", cause="no trainer", log=str(log))
        run_id = f"run{len(self.runs) + 1:04d}"
        folder = self.folder / run_id
        folder.mkdir(parents=True, exist_ok=True)  # a trainer that raised has left it
        return self.add(replace(self.trainer(parameters, folder), run_id=run_id))

    def named(self, text: str) -> str:
        return the_one(text, [*self.runs, *self.derived])

    def candidate(self, run_id: str, into: Path) -> Candidate:
        if run_id not in self.runs:
            raise UnknownName("run", run_id, self.runs)
        logged = self.runs[run_id]
        missing = [name for name in PARTS if not getattr(logged, name).exists()]
        missing += [] if (logged.model_folder / "MLmodel").exists() else ["model"]
        if missing:
            raise NotACandidate(run_id=run_id, missing=", ".join(missing))
        (into / "mlplatform").mkdir(parents=True)
        shutil.copytree(logged.model_folder, into / "model", symlinks=True)
        copies = {name: into / "mlplatform" / getattr(logged, name).name for name in PARTS}
        for name, target in copies.items():
            shutil.copyfile(getattr(logged, name), target)
        return replace(logged, model_folder=into / "model", **copies)

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        for run_id, known in self.derived.items():
            if known == (parent_run_id, manifest.digest):
                return run_id
        run_id = f"derived{len(self.derived) + 1:04d}"
        self.derived[run_id] = (parent_run_id, manifest.digest)
        return run_id

    def lifecycle(self, run_id: str) -> Literal["active", "deleted", "gone"]:
        known = run_id in self.runs or run_id in self.derived
        return self.states.get(run_id, "active" if known else "gone")

    def restore(self, run_id: str) -> None:
        self.states.pop(run_id, None)

    def keep(
        self, run_id: str, folder: str, digest: str, draw: Callable[[], Mapping[str, str]]
    ) -> dict[str, str]:
        if run_id not in self.runs and run_id not in self.derived:
            raise UnknownName("run", run_id, self.runs)
        there = self.drawn.setdefault(run_id, {})
        if there.get(folder, ("", {}))[0] != digest:
            there[folder] = digest, dict(draw())
        return {name: f"{run_id}/{where}/{name}" for where, (_, files) in there.items() for name in files}

    def details(self, run_id: str) -> RunDetails:
        if run_id in self.derived:
            return RunDetails({}, {})
        if run_id not in self.runs:
            raise UnknownName("run", run_id, self.runs)
        return RunDetails(dict(self.runs[run_id].parameters), dict(self.runs[run_id].metrics))
