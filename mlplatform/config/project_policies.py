"""All policies of a project: a file with mistakes stops its own model, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlplatform.config.mistakes import TomlFile
from mlplatform.config.policy_file import load_policy
from mlplatform.config.shared_endpoints import demand_agreement
from mlplatform.domain.policy import Policy
from mlplatform.errors import BadPolicies, BadPolicy, UnknownName

_MODEL_LINE = re.compile(r"""^\s*model\s*=\s*["']([^"'\n]+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Broken:
    """A file with mistakes."""

    error: BadPolicy
    model: str
    """Whose it is; empty where that cannot be read."""


@dataclass(frozen=True)
class ProjectPolicies:
    good: Mapping[str, Policy]
    paths: Mapping[str, Path]
    """The files of the good ones, by model."""
    broken: tuple[Broken, ...] = ()

    def of(self, model: str) -> Policy:
        """Raises BadPolicy for a model whose file has mistakes, or may be one with mistakes; UnknownName."""
        if model in self.good:
            return self.good[model]
        if (broken := self.maybe(model)) is not None:
            raise broken.error
        raise UnknownName("model with a policy", model, self.good)

    def maybe(self, model: str) -> Broken | None:
        """The file with mistakes that is, or may be, a model's; None where the model is known to have none."""
        return next((b for b in self.broken if b.model in (model, "")), None)

    def path(self, model: str) -> Path:
        """Where a model's policy stands, with mistakes or without. Raises UnknownName."""
        if model in self.paths:
            return self.paths[model]
        if (broken := self.maybe(model)) is None:
            raise UnknownName("model with a policy", model, self.good)
        return Path(broken.error.facts["path"])

    def demand_all(self) -> None:
        """Raises BadPolicy or BadPolicies for every file with mistakes."""
        if self.broken:
            errors = [broken.error for broken in self.broken]
            raise errors[0] if len(errors) == 1 else BadPolicies(errors)


def read_policies(paths: Iterable[Path]) -> ProjectPolicies:
    """Every file, those too with mistakes. Of two that name one model neither counts; of two that say otherwise what
    one server is like, the first does."""
    good: dict[str, Policy] = {}
    places: dict[str, Path] = {}
    broken: list[Broken] = []
    for path in paths:
        try:
            policy = load_policy(path)
            if policy.model in places:
                good.pop(policy.model, None)
                raise BadPolicy(str(path), [f"model {policy.model!r} has another policy already"])
            demand_agreement([*((places[model], known) for model, known in good.items()), (path, policy)])
        except BadPolicy as error:
            broken.append(Broken(error, _model_of(path)))
        else:
            good[policy.model], places[policy.model] = policy, path
    return ProjectPolicies(good, places, tuple(broken))


def _model_of(path: Path) -> str:
    """The model that a file with mistakes names, as far as it can be read."""
    with suppress(BadPolicy):
        return _text(TomlFile.read(path).values.get("model"))
    with suppress(OSError):
        if found := _MODEL_LINE.search(path.read_text(encoding="utf-8", errors="replace")):
            return _text(found[1])
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class KeptPolicies:
    """The policy of each model as it was when a command last changed something of it: what a rollback goes by while
    somebody is editing the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, policy: Policy, path: Path) -> None:
        """Copy a policy's file, if it still says what was read from it. Raises OSError."""
        kept = self._folder / f"{policy.model}.toml"
        text = path.read_bytes()
        if kept.is_file() and kept.read_bytes() == text:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.tmp")
        temporary.write_bytes(text)
        try:
            same = load_policy(temporary).digest == policy.digest
        except BadPolicy:
            same = False
        if same:
            temporary.rename(kept)
        else:
            temporary.unlink()

    def of(self, model: str) -> Policy | None:
        """None where none was kept, or this release cannot read it."""
        try:
            policy = load_policy(self._folder / f"{model}.toml")
        except BadPolicy:
            return None
        return policy if policy.model == model else None
