"""Port Registry: the fake, an embedded MLflow store and a running MLflow server keep the same promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlplatform.errors import ForgottenModel, NotACandidate
from mlplatform.ports.tracking import Card, Registry, TaggedApproval
from mlplatform.testing.fakes.tracking import FakeRegistry
from mlplatform.tracking.client import Mlflow
from mlplatform.tracking.registry import MlflowRegistry
from tests.mlflow_stores import fresh_store, make_template, run_with_model, running_server

CARD = Card("### churn@1\n\n| a | b |\n| --- | --- |\n| 1 | 2 |", {"mlplatform.place": "staging"})


@dataclass
class Kit:
    registry: Registry
    run: Callable[[], str]
    """A new run with a model."""
    empty_run: Callable[[], str]
    set_alias: Callable[[str, str, int], None]
    delete: Callable[[str, int], None]
    card: Callable[[str, int], Card]
    edit: Callable[[str, int], None]
    """Somebody writes over a version's card."""
    forget: Callable[[str], None]
    """Somebody deletes the registered model."""
    approve: Callable[[str, int, str, str], None]
    """Somebody writes an approval as a tag on a version's page."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Mlflow]:
    with running_server(tmp_path_factory.mktemp("mlflow-server"), template) as store:
        yield store


@pytest.fixture(params=["fake", "embedded", "server"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    if request.param == "fake":
        return fake_kit()
    if request.param == "embedded":
        return mlflow_kit(fresh_store(request.getfixturevalue("template"), tmp_path), tmp_path)
    return mlflow_kit(request.getfixturevalue("server"), tmp_path)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test: the server is shared."""
    return f"{request.node.originalname}-{next(_NUMBERS)}"


_NUMBERS = itertools.count(1)


def fake_kit() -> Kit:
    runs: set[str] = set()
    registry = FakeRegistry(runs)

    def run() -> str:
        runs.add(f"run{len(runs)}")
        return f"run{len(runs) - 1}"

    def set_alias(model: str, alias: str, number: int) -> None:
        registry.aliases.setdefault(model, {})[alias] = number

    return Kit(
        registry,
        run,
        lambda: "nothing",
        set_alias,
        registry.delete,
        lambda m, n: registry.cards[m][n],
        lambda m, n: registry.edited.setdefault(m, set()).add(n),
        registry.forget,
        registry.tag,
    )


def mlflow_kit(store: Mlflow, folder: Path) -> Kit:
    def card(model: str, number: int) -> Card:
        shown = store.call("get_model_version", model, str(number))
        return Card(shown.description, {k: v for k, v in shown.tags.items() if k in CARD.tags})

    return Kit(
        MlflowRegistry(store),
        lambda: run_with_model(store, folder),
        lambda: str(store.call("create_run", store.experiment("contract")).info.run_id),
        lambda model, alias, n: store.call("set_registered_model_alias", model, alias, str(n)),
        lambda model, n: store.call("delete_model_version", model, str(n)),
        card,
        lambda model, n: store.call("update_model_version", model, str(n), "somebody else's"),
        lambda model: store.call("delete_registered_model", model),
        lambda model, n, stage, reason: store.call(
            "set_model_version_tag", model, str(n), f"mlplatform.approve.{stage}", reason
        ),
    )


def test_versions_count_from_one(kit: Kit, model: str) -> None:
    assert [kit.registry.create(model, kit.run(), f"k{i}") for i in range(3)] == [1, 2, 3]
    assert kit.registry.outside(model).versions == {1, 2, 3}


def test_creating_with_a_used_key_gives_the_version_that_is_there(kit: Kit, model: str) -> None:
    run = kit.run()
    assert kit.registry.create(model, run, "register:x") == 1
    assert kit.registry.create(model, run, "register:x") == 1
    assert kit.registry.outside(model).versions == {1}


def test_a_run_without_a_model_makes_no_version(kit: Kit, model: str) -> None:
    with pytest.raises(NotACandidate, match="model missing"):
        kit.registry.create(model, kit.empty_run(), "k")
    assert kit.registry.outside(model).versions == frozenset()


def test_discarding_takes_back_only_the_version_of_that_key(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), "one")
    kit.registry.create(model, kit.run(), "two")
    kit.registry.discard(model, "one")
    kit.registry.discard(model, "one")
    assert kit.registry.outside(model).versions == {2}


def test_discarding_what_never_was_does_nothing(kit: Kit, model: str) -> None:
    kit.registry.discard(model, "never")
    assert kit.registry.outside(model).versions == frozenset()


def test_an_unknown_model_looks_empty(kit: Kit, model: str) -> None:
    view = kit.registry.outside(model)
    assert (view.aliases, view.versions) == ({}, frozenset())
    kit.registry.project(model, {"production": 1}, {})


def test_aliases_are_made_to_say_what_is_projected(kit: Kit, model: str) -> None:
    for key in ("a", "b"):
        kit.registry.create(model, kit.run(), key)
    kit.registry.project(model, {"staging": 2, "production": 1}, {})
    assert kit.registry.outside(model).aliases == {"staging": 2, "production": 1}
    kit.registry.project(model, {"production": 2}, {})
    assert kit.registry.outside(model).aliases == {"production": 2}


def test_an_alias_moved_outside_is_set_back(kit: Kit, model: str) -> None:
    for key in ("a", "b"):
        kit.registry.create(model, kit.run(), key)
    kit.registry.project(model, {"production": 1}, {})
    kit.set_alias(model, "production", 2)
    assert kit.registry.outside(model).aliases == {"production": 2}
    kit.registry.project(model, {"production": 1}, {})
    assert kit.registry.outside(model).aliases == {"production": 1}


def test_aliases_of_others_stay(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), "a")
    kit.set_alias(model, "my-favourite", 1)
    kit.registry.project(model, {"production": 1}, {})
    kit.registry.project(model, {}, {})
    assert kit.registry.outside(model).aliases == {"my-favourite": 1}


def test_an_alias_that_should_name_nothing_is_removed_whoever_set_it(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), "a")
    kit.set_alias(model, "staging", 1)
    kit.registry.project(model, {"staging": None, "production": 1}, {})
    assert kit.registry.outside(model).aliases == {"production": 1}


def test_cards_are_shown_and_replaced(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), "a")
    kit.registry.project(model, {}, {1: CARD})
    assert kit.card(model, 1) == CARD
    newer = Card("### newer", {"mlplatform.place": "production"})
    kit.registry.project(model, {}, {1: newer})
    kit.registry.project(model, {}, {1: newer})
    assert kit.card(model, 1) == newer


def test_approvals_written_as_tags_are_seen_with_the_version_stage_and_reason(kit: Kit, model: str) -> None:
    for key in ("a", "b"):
        kit.registry.create(model, kit.run(), key)
    assert kit.registry.outside(model).approvals == ()
    kit.approve(model, 2, "staging", "first")
    kit.approve(model, 2, "production", "")
    kit.approve(model, 2, "staging", "looked at it | *twice*")
    kit.approve(model, 1, "staging", "fine")
    kit.registry.project(model, {}, {2: Card("card", {"mlplatform.approval.staging": "counted"})})
    assert kit.registry.outside(model).approvals == (
        TaggedApproval(1, "staging", "fine"),
        TaggedApproval(2, "production", ""),
        TaggedApproval(2, "staging", "looked at it | *twice*"),
    )


def test_a_card_that_somebody_wrote_over_is_seen_until_it_is_projected_again(kit: Kit, model: str) -> None:
    for key in ("a", "b"):
        kit.registry.create(model, kit.run(), key)
    kit.registry.project(model, {}, {1: CARD, 2: CARD})
    assert kit.registry.outside(model).edited == frozenset()
    kit.edit(model, 2)
    assert kit.registry.outside(model).edited == {2}
    kit.registry.project(model, {}, {2: CARD})
    assert kit.registry.outside(model).edited == frozenset()


def test_versions_tell_the_keys_they_were_made_with(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), "one")
    assert kit.registry.outside(model).keys == {1: "one"}


def test_aliases_are_one_look(kit: Kit, model: str) -> None:
    assert kit.registry.aliases_of(model) is None
    kit.registry.create(model, kit.run(), "a")
    assert kit.registry.aliases_of(model) == {}
    kit.registry.project(model, {"production": 1}, {})
    assert kit.registry.aliases_of(model) == {"production": 1}


def test_a_forgotten_model_is_not_begun_again_unasked(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), f"register:{model}:a")
    kit.forget(model)
    assert not kit.registry.outside(model).exists
    with pytest.raises(ForgottenModel, match="no longer knows"):
        kit.registry.create(model, kit.run(), f"register:{model}:b", after=1)
    assert kit.registry.create(model, kit.run(), f"register:{model}:a") == 1, "numbers begin again"


def test_a_renamed_model_is_found_and_gets_its_name_back(kit: Kit, model: str) -> None:
    kit.registry.create(model, kit.run(), f"register:{model}:a")
    kit.registry.project(model, {"production": 1}, {})
    kit.registry.rename(model, f"{model}-renamed")
    view = kit.registry.outside(model)
    assert (view.exists, view.renamed) == (False, f"{model}-renamed")
    kit.registry.rename(f"{model}-renamed", model)
    kit.registry.rename(f"{model}-renamed", model)
    assert kit.registry.outside(model).aliases == {"production": 1}


def test_a_version_deleted_outside_is_passed_over(kit: Kit, model: str) -> None:
    for key in ("a", "b"):
        kit.registry.create(model, kit.run(), key)
    kit.delete(model, 1)
    kit.registry.project(model, {"staging": 1, "production": 2}, {1: CARD, 2: CARD})
    view = kit.registry.outside(model)
    assert (view.aliases, view.versions) == ({"production": 2}, {2})
    assert kit.card(model, 2) == CARD


def test_two_that_use_one_key_at_once_get_one_version(template: Path, tmp_path: Path) -> None:
    """Real store only: the fake has no concurrency to lose."""
    fresh_store(template, tmp_path)
    run = run_with_model(fresh_store(template, tmp_path), tmp_path)
    uri, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts"
    registries = [MlflowRegistry(Mlflow(uri, root)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        numbers = list(pool.map(lambda r: r.create("churn", run, "same"), registries))
    assert len(set(numbers)) == 1
    assert len(registries[0].outside("churn").versions) == 1


def test_a_lost_reply_makes_no_second_version(template: Path, tmp_path: Path) -> None:
    store = fresh_store(template, tmp_path)
    run = run_with_model(store, tmp_path)
    real = store.client

    class LosesReplies:
        """Does the work, then fails as a cut connection does, once."""

        lost = False

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def create_model_version(self, *args: Any, **kw: Any) -> Any:
            made = real.create_model_version(*args, **kw)
            if not LosesReplies.lost:
                LosesReplies.lost = True
                raise ConnectionResetError("the reply was lost")
            return made

    store.__dict__["client"] = LosesReplies()
    assert MlflowRegistry(store).create("churn", run, "k") == 1
    assert LosesReplies.lost
    assert MlflowRegistry(store).outside("churn").versions == {1}
