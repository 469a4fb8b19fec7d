"""`policy.toml` as a Policy, or every mistake in it at once, with its line and the nearest known name.

The file is written as people think of it: `ladder` is a list of stages, an extension is a table with `use` and its
own options, or just its name when it has none. An extension's options are the fields of its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlplatform import catalog
from mlplatform.calendar import check_cron, find_zone
from mlplatform.config.mistakes import Mistake, TomlFile, dotted, unknown
from mlplatform.config.toml_lines import Path as KeyPath
from mlplatform.config.validate import validate, value_at
from mlplatform.domain.policy import Policy
from mlplatform.domain.use import Use
from mlplatform.errors import UsageError

EXTENSIONS = {
    ("stages", "*", "gates"): "gate",
    ("stages", "*", "rollout", "judge"): "judge",
    ("compress", "steps"): "technique",
    ("watch", "metrics"): "metric",
    ("retrain", "when"): "trigger",
}
"""Where a policy names extensions, and of which kind; `*` is any stage."""


def load_policy(path: Path) -> Policy:
    """Read and check a policy. Raises BadPolicy. Only the extensions that it names are imported."""
    file = TomlFile.read(path)
    values = _regular(file.values)
    policy, mistakes = validate(Policy, values)
    file.mistakes += [Mistake(_as_written(_pinned(values, m)), m.what) for m in mistakes]
    _check_stages(file)
    _check_targets(file)
    _check_freezes(file)
    _check_judges(file)
    for where, kind, use in _uses(values):
        file.mistakes += [Mistake(where + m.where, m.what) for m in _check_use(kind, use)]
    file.finish()
    assert isinstance(policy, Policy)
    return policy


def build(kind: str, use: Use) -> Any:
    """The extension that a policy names, with its options. Raises UnknownName or UsageError."""
    made, mistakes = validate(catalog.find(kind, use.use), use.options)
    if mistakes:
        said = "; ".join(f"{dotted(m.where)}: {m.what}" if m.where else m.what for m in mistakes)
        raise UsageError(f"Look at the options of {kind} {use.use!r}.", what=f"{kind} {use.use!r}: {said}")
    return made


def _regular(written: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values in the shape of the dataclasses. What has another shape is left for validation to tell."""
    values = dict(written)
    if "ladder" in values:
        values["ladder"] = {"stages": values["ladder"]}
    if isinstance(stages := values.get("stages"), dict):
        values["stages"] = {name: _regular_stage(stage) for name, stage in stages.items()}
    for table, key in (("compress", "steps"), ("watch", "metrics"), ("retrain", "when")):
        if table in values:
            values[table] = _with_uses(values[table], key)
    return values


def _regular_stage(stage: Any) -> Any:
    stage = _with_uses(stage, "gates")
    if not isinstance(stage, dict) or "rollout" not in stage:
        return stage
    return {**stage, "rollout": _with_uses(stage["rollout"], "judge")}


def _with_uses(table: Any, key: str) -> Any:
    if not isinstance(table, dict) or not isinstance(table.get(key), list):
        return table
    return {**table, key: [_use(item) for item in table[key]]}


def _use(item: Any) -> Any:
    if isinstance(item, str):
        return {"use": item}
    if not isinstance(item, dict) or "use" not in item:
        return item
    return {"use": item["use"], "options": {k: v for k, v in item.items() if k != "use"}}


def _pinned(values: Any, mistake: Mistake) -> KeyPath:
    """The key whose value a table's own check complains of, where the message quotes it."""
    for part in mistake.where:
        values = value_at(values, part)
    if isinstance(values, dict):
        for key, value in values.items():
            if isinstance(value, str) and repr(value) in mistake.what:
                return (*mistake.where, key)
    return mistake.where


def _as_written(where: KeyPath) -> KeyPath:
    """The path in the file of a path in the dataclasses."""
    return ("ladder", *where[2:]) if where[:2] == ("ladder", "stages") else where


def _check_stages(file: TomlFile) -> None:
    ladder, stages = file.values.get("ladder"), file.values.get("stages")
    if isinstance(ladder, list) and isinstance(stages, dict):
        for name in stages:
            if name not in ladder:
                file.note(("stages", name), unknown("stage", name, map(str, ladder)))


def _check_targets(file: TomlFile) -> None:
    endpoints = list(_endpoints(file.values))
    known = catalog.names("target")
    used = Counter(str(endpoint["name"]) for _, endpoint in endpoints if "name" in endpoint)
    for where, endpoint in endpoints:
        target = endpoint.get("target", "local")
        if isinstance(target, str) and target not in known:
            file.note((*where, "target"), unknown("target", target, known))
        elif isinstance(target, str) and isinstance(options := endpoint.get("options", {}), dict):
            wrong = _check_use("target", Use(target, options))
            file.mistakes += [Mistake((*where, "options", *m.where), m.what) for m in wrong]
        if used[str(endpoint.get("name"))] > 1:
            file.note((*where, "name"), "two stages cannot share an endpoint")


def _check_freezes(file: TomlFile) -> None:
    """Cron expressions and time zones; types and durations are told by validation."""
    stages = file.values.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        freezes = stage.get("freeze") if isinstance(stage, dict) else None
        for position, freeze in enumerate(freezes if isinstance(freezes, list) else ()):
            where = ("stages", name, "freeze", position)
            checks: dict[str, Callable[[str], object]] = {"timezone": find_zone, "cron": check_cron}
            for key, check in checks.items():
                value = freeze.get(key) if isinstance(freeze, dict) else None
                if isinstance(value, str) and (wrong := _refusal(check, value)):
                    file.note((*where, key), wrong)


def _check_judges(file: TomlFile) -> None:
    """Judges that could never judge: they would pause every rollout for ever."""
    captured = value_at(file.values.get("capture"), "sample")
    known = catalog.names("judge")
    stages = file.values.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        rollout = value_at(stage, "rollout")
        steps, judges = value_at(rollout, "steps"), value_at(rollout, "judge")
        shadow = isinstance(steps, list) and any(str(step).strip().startswith("shadow") for step in steps)
        for position, judge in enumerate(judges if isinstance(judges, list) else ()):
            use = judge if isinstance(judge, str) else value_at(judge, "use")
            if use not in known:
                continue
            needs, where = catalog.find("judge", use).needs, ("stages", name, "rollout", "judge", position)
            if "pairs" in needs and not shadow:
                file.note(where, f'{use} compares answers to the same rows: add the step "shadow:10m"')
            if needs - {"counts"} and captured == 0:
                file.note(where, f"{use} reads captured requests, and capture.sample is 0")


def _refusal(check: Callable[[str], object], value: str) -> str:
    try:
        check(value)
    except UsageError as error:
        said = str(error)
        return f"{said[:1].lower()}{said[1:]}. {error.next_step}"
    return ""


def _endpoints(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    stages = values.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict) and isinstance(stage.get("endpoint"), dict):
            yield ("stages", name, "endpoint"), stage["endpoint"]


def _uses(
    values: Any, pattern: tuple[str, ...] = (), where: KeyPath = ()
) -> Iterator[tuple[KeyPath, str, Use]]:
    """Every well-formed extension of a policy: where it stands, its kind, and its name and options."""
    kind = EXTENSIONS.get(pattern)
    if kind and isinstance(values, list):
        for position, item in enumerate(values):
            if isinstance(item, dict) and isinstance(item.get("use"), str):
                yield (*where, position), kind, Use(item["use"], item.get("options", {}))
    elif isinstance(values, dict) and len(pattern) < max(map(len, EXTENSIONS)):
        for key, below in values.items():
            step = "*" if pattern == ("stages",) else key
            yield from _uses(below, (*pattern, step), (*where, key))


def _check_use(kind: str, use: Use) -> list[Mistake]:
    known = catalog.names(kind)
    if use.use not in known:
        return [Mistake(("use",), unknown(kind, use.use, known))]
    _, mistakes = validate(catalog.find(kind, use.use), use.options)
    return mistakes
