"""MLflow's model registry as a projection of the ledger: versions, aliases, tags and cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

from mlplatform.errors import ForgottenModel, NotACandidate
from mlplatform.ports.tracking import APPROVE_TAG, Card, OutsideView, TaggedApproval
from mlplatform.tracking.client import Exists, Missing, Mlflow
from mlplatform.tracking.parts import ALIASES_TAG, CARD_TAG, KEY_TAG, MODEL_TAG

PAGE = 1000
SHOW_PATIENCES = 3
"""Cards of one projection may take so many times the patience of a request; the rest is written the next time."""


class MlflowRegistry:
    """Port Registry. Every method may be repeated after a crash or a lost reply."""

    def __init__(self, mlflow: Mlflow) -> None:
        self._mlflow = mlflow

    def create(self, model: str, run_id: str, key: str, after: int = 0) -> int:
        """Number of the version made with this key. Raises NotACandidate when the run has no model, ForgottenModel."""
        self._ensure_model(model, after)
        if (known := self._numbers(model, key)) != []:
            return known[0]
        model_id = self._model_id(run_id)
        with self._mlflow.as_default():
            made = self._mlflow.call(
                "create_model_version",
                model,
                f"models:/{model_id}",
                run_id=run_id,
                tags={KEY_TAG: key},
                model_id=model_id,
                recheck=lambda: next(iter(self._numbers(model, key)), None),
            )
        number = made if isinstance(made, int) else int(made.version)
        first = min([number, *self._numbers(model, key)])
        if first != number:  # somebody used the same key at the same moment: the older one stands
            self._delete(model, number)
        return first

    def discard(self, model: str, key: str) -> None:
        """Undo `create`; nothing happens when there is nothing."""
        try:
            numbers = self._numbers(model, key)
        except Missing:
            return
        for number in numbers:
            self._delete(model, number)

    def project(self, model: str, aliases: Mapping[str, int | None], cards: Mapping[int, Card]) -> None:
        """Make MLflow show this. What was deleted outside is passed over; see the port for aliases of others."""
        try:
            found = self._mlflow.call("get_registered_model", model)
        except Missing:
            return
        wanted = {name: number for name, number in aliases.items() if number is not None}
        present = {name: int(number) for name, number in found.aliases.items()}
        ours = set(json.loads(found.tags.get(ALIASES_TAG, "[]")))
        # Remembered before they are set: a crash in between leaves no alias that nobody owns.
        self._remember(model, ours, ours | set(wanted))
        for name, number in wanted.items():
            if present.get(name) != number:
                self._quietly("set_registered_model_alias", model, name, str(number))
        for name in sorted(((ours | set(aliases)) - set(wanted)) & set(present)):
            self._quietly("delete_registered_model_alias", model, name)
        self._remember(model, ours | set(wanted), set(wanted))
        with self._mlflow.within(SHOW_PATIENCES * self._mlflow.patience_s):
            for number, card in cards.items():
                self._show(model, number, card)

    def outside(self, model: str) -> OutsideView:
        """What MLflow holds, whoever put it there; empty for a model it does not know."""
        try:
            found = self._mlflow.call("get_registered_model", model)
        except Missing:
            return OutsideView({}, frozenset(), exists=False, renamed=self._renamed(model))
        versions = {int(v.version): v for v in self._versions(f"name='{model}'")}
        approvals = (a for v in versions.values() for a in _approvals(v))
        return OutsideView(
            _aliases(found),
            frozenset(versions),
            tuple(sorted(approvals, key=lambda a: (a.version, a.stage))),
            keys={n: v.tags[KEY_TAG] for n, v in versions.items() if KEY_TAG in v.tags},
            edited=frozenset(n for n, v in versions.items() if _is_edited(v)),
        )

    def aliases_of(self, model: str) -> Mapping[str, int] | None:
        """What the aliases name, in one request; None for a model that MLflow does not know."""
        try:
            return _aliases(self._mlflow.call("get_registered_model", model))
        except Missing:
            return None

    def rename(self, old: str, new: str) -> None:
        """Repeating it is harmless."""
        self._quietly("rename_registered_model", old, new)

    # --- helpers ---

    def _ensure_model(self, model: str, after: int) -> None:
        try:
            self._mlflow.call("get_registered_model", model)
        except Missing:
            if after:  # MLflow would count from one again
                raise ForgottenModel(model=model, count=after) from None
            with suppress(Exists):  # somebody else registered its first version at the same moment
                self._mlflow.call("create_registered_model", model)

    def _renamed(self, model: str) -> str:
        """The name that a model's versions stand under now; "" when they are gone."""
        begin = f"register:{model}:"
        for version in self._versions(f"tags.`{KEY_TAG}` LIKE '{begin}%'"):
            if version.tags[KEY_TAG].startswith(begin):  # in LIKE, _ is any character
                return str(version.name)
        return ""

    def _model_id(self, run_id: str) -> str:
        try:
            run = self._mlflow.call("get_run", run_id)
        except Missing as error:
            raise NotACandidate(run_id=run_id, missing="the run is") from error
        if named := run.data.tags.get(MODEL_TAG):
            return str(named)
        outputs = run.outputs.model_outputs if run.outputs else []
        if not outputs:
            raise NotACandidate(run_id=run_id, missing="model")
        return str(outputs[-1].model_id)

    def _numbers(self, model: str, key: str) -> list[int]:
        """Versions made with this key, oldest first."""
        found = self._versions(f"name='{model}' and tags.`{KEY_TAG}`='{key}'")
        return sorted(int(v.version) for v in found)

    def _versions(self, wanted: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._mlflow.call("search_model_versions", wanted, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _delete(self, model: str, number: int) -> None:
        self._quietly("delete_model_version", model, str(number))

    def _remember(self, model: str, before: set[str], after: set[str]) -> None:
        if before != after:
            self._mlflow.call("set_registered_model_tag", model, ALIASES_TAG, json.dumps(sorted(after)))

    def _show(self, model: str, number: int, card: Card) -> None:
        """Write what differs: a version page that is up to date costs one read."""
        try:
            shown = self._mlflow.call("get_model_version", model, str(number))
        except Missing:
            return
        if (shown.description or "") != card.markdown:
            self._quietly("update_model_version", model, str(number), card.markdown)
        for tag, value in {**card.tags, CARD_TAG: _mark(card.markdown, card.tags)}.items():
            if shown.tags.get(tag) != value:
                self._quietly("set_model_version_tag", model, str(number), tag, value)

    def _quietly(self, name: str, *args: Any) -> None:
        """A version that was deleted in MLflow cannot be shown; `outside` tells of it."""
        try:
            self._mlflow.call(name, *args)
        except Missing:
            return


def _aliases(found: Any) -> dict[str, int]:
    return {name: int(number) for name, number in found.aliases.items()}


def _mark(markdown: str, tags: Mapping[str, str]) -> str:
    """What a card was when it was written, by which a later edit of it is found."""
    names = sorted(tags)
    content = json.dumps([markdown, [[name, tags[name]] for name in names]])
    return json.dumps({"sha256": sha256(content.encode()).hexdigest(), "tags": names})


def _is_edited(version: Any) -> bool:
    if CARD_TAG not in version.tags:
        return False  # no card was ever shown
    try:
        names = json.loads(version.tags[CARD_TAG])["tags"]
        present = {name: version.tags[name] for name in names if name in version.tags}
    except (ValueError, KeyError, TypeError):
        return True
    return bool(_mark(version.description or "", present) != version.tags[CARD_TAG])


def _approvals(version: Any) -> Iterator[TaggedApproval]:
    """What people wrote on a version's page."""
    for tag, reason in version.tags.items():
        if tag.startswith(APPROVE_TAG):
            yield TaggedApproval(int(version.version), tag.removeprefix(APPROVE_TAG), reason)
