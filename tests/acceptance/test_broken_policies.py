"""A policy file with mistakes, by real commands: others' models are not stopped, every mistake is told, and a rollback
goes by the policy as it was. And a model whose policy is gone.
"""

from __future__ import annotations

import pytest

from mlplatform.domain.routes import Route, Routes
from tests.documents import assert_shown
from tests.small_project import MODEL, Place

BROKEN = 'model = "fraud"\nladder = ["live"]\nlader = 1\n'
WHY = ("--reason", "refunds doubled")


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    """Beside the policy that works, one with a mistake."""
    (sqlite_place.folder / "fraud.toml").write_text(BROKEN)
    settings = sqlite_place.folder / "mlplatform.toml"
    settings.write_text(f'policies = ["policy.toml", "fraud.toml"]\n{settings.read_text()}')
    return sqlite_place


def mistakes(said: str) -> list[str]:
    return [line for line in said.splitlines() if "fraud.toml has 1 mistake" in line]


def test_a_broken_policy_of_another_model_is_one_line_and_stops_nothing(place: Place) -> None:
    for words in (("history", MODEL), ("monitor", MODEL), ("promote", f"{MODEL}@4", "staging", *WHY)):
        said = place.run(*words)[1]
        assert len(mistakes(said)) <= 1, said
        assert "unknown key" not in said or "left out: " in said
    said = place.done("rollback", MODEL, *WHY)
    [line] = mistakes(said)
    assert "left out: " in line
    assert "did you mean 'ladder'?" in line
    assert place.told("show", f"{MODEL}@1")["place"] == "production"


def test_commands_over_all_models_do_the_good_ones_and_say_by_their_exit_code_that_one_is_broken(
    place: Place,
) -> None:
    said = place.done("list", code=2)
    assert MODEL in said
    assert len(mistakes(said)) == 1
    assert "mistake" in place.done("reconcile", code=2)
    assert place.done("reconcile", MODEL, code=0)
    assert "2 stages" not in place.done("endpoints", code=2)
    for words in (("reconcile", "fraud"), ("deploy", "fraud"), ("rollback", "fraud", *WHY)):
        assert "did you mean 'ladder'?" in place.done(*words, code=2)
    assert "mistake" in place.done("gc", code=2), "what the broken one protects is not known"


def test_doctor_and_the_check_tell_the_mistakes_of_all_files(place: Place) -> None:
    (place.folder / "policy.toml").write_text("model = 1\n")
    for words in (("doctor",), ("policy", "check")):
        said = place.done(*words, code=2)
        assert "fraud.toml" in said
        assert "policy.toml" in said


def test_a_rollback_while_the_models_own_policy_is_half_edited_goes_by_the_one_before(
    sqlite_place: Place,
) -> None:
    file = sqlite_place.folder / "policy.toml"
    whole = file.read_text()
    file.write_text(whole.replace('["staging", "production"]', '["staging", "prod'))
    assert "would bring back churn@1" in sqlite_place.done("rollback", MODEL, *WHY, "--dry-run")
    said = sqlite_place.done("rollback", MODEL, *WHY)
    assert "churn is taken back by its policy as it was at its last change" in said
    assert "1 mistake" in sqlite_place.done("promote", f"{MODEL}@3", "production", *WHY, code=2)
    file.write_text(whole)
    assert sqlite_place.told("show", f"{MODEL}@1")["place"] == "production"
    sqlite_place.done("doctor")


def test_without_a_policy_that_was_kept_a_rollback_waits_for_its_file(sqlite_place: Place) -> None:
    for kept in (sqlite_place.folder / ".mlplatform" / "policies").glob("*"):
        kept.unlink()
    (sqlite_place.folder / "policy.toml").write_text("model = 1")
    assert "mistake" in sqlite_place.done("rollback", MODEL, *WHY, code=2)


def test_a_model_whose_policy_is_gone_is_told_and_taken_out_by_its_name_only(sqlite_place: Place) -> None:
    place = sqlite_place
    with place.opened() as platform:
        documents = platform.world.documents
        documents.publish(Routes(MODEL, 0, (Route("fraud", 7, "d7", "elsewhere"),)), "fraud")
        told = "endpoint churn still answers for fraud (fraud@7), which has no policy any more"
        found = place.done("doctor", code=3)
        assert told in found
        assert_shown("operations.md", "mlplatform doctor", in_the_shop(found))
        assert told in place.done("reconcile", code=3)
        assert told not in place.done("reconcile", MODEL)
        (place.folder / "fraud.toml").write_text(BROKEN)
        settings = place.folder / "mlplatform.toml"
        whole = settings.read_text()
        settings.write_text(f'policies = ["policy.toml", "fraud.toml"]\n{whole}')
        assert told not in place.done("doctor", code=2), "its policy is not gone, it cannot be read"
        assert "mistake" in place.done("undeploy", "churn/fraud", code=2)
        settings.write_text(whole)
        routes = documents.routes(MODEL)
        assert routes
        assert "fraud" in routes.models
        said = place.done("undeploy", "churn/fraud")
        assert_shown("operations.md", "mlplatform undeploy shop/fraud", in_the_shop(said))
        routes = documents.routes(MODEL)
        assert routes
        assert routes.models == (MODEL,)
    place.done("doctor")


def in_the_shop(said: str) -> str:
    """As the document has it, where the endpoint has another name than its models."""
    return said.replace("endpoint churn", "endpoint shop").replace("churn/fraud", "shop/fraud")
