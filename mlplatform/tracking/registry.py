"""MLflow's model registry as a projection of the ledger: versions, aliases, tags and cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mlplatform.errors import NotACandidate
from mlplatform.ports.tracking import Card, OutsideView
from mlplatform.tracking.client import Exists, Missing, Mlflow
from mlplatform.tracking.parts import ALIASES_TAG, KEY_TAG, MODEL_TAG

PAGE = 1000


class MlflowRegistry:
    """Port Registry. Every method may be repeated after a crash or a lost reply."""

    def __init__(self, mlflow: Mlflow) -> None:
        self._mlflow = mlflow

    def create(self, model: str, run_id: str, key: str) -> int:
        """Number of the version made with this key. Raises NotACandidate when the run has no model."""
        self._ensure_model(model)
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
        for number, card in cards.items():
            self._show(model, number, card)

    def outside(self, model: str) -> OutsideView:
        """What MLflow holds, whoever put it there; empty for a model it does not know."""
        try:
            found = self._mlflow.call("get_registered_model", model)
        except Missing:
            return OutsideView({}, frozenset())
        aliases = {name: int(number) for name, number in found.aliases.items()}
        return OutsideView(aliases, frozenset(int(v.version) for v in self._versions(f"name='{model}'")))

    # --- helpers ---

    def _ensure_model(self, model: str) -> None:
        try:
            self._mlflow.call("get_registered_model", model)
        except Missing:
            with suppress(Exists):  # somebody else registered its first version at the same moment
                self._mlflow.call("create_registered_model", model)

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
        for tag, value in card.tags.items():
            if shown.tags.get(tag) != value:
                self._quietly("set_model_version_tag", model, str(number), tag, value)

    def _quietly(self, name: str, *args: Any) -> None:
        """A version that was deleted in MLflow cannot be shown; `outside` tells of it."""
        try:
            self._mlflow.call(name, *args)
        except Missing:
            return
