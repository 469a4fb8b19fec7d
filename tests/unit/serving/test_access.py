"""A worker's access list: deny by default, which scope opens which page, and what a new, damaged or lost list does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.token import compose, hashed
from mlplatform.serving.access import OPEN, Access
from mlplatform.serving.paths import PAGES
from mlplatform.serving.problems import Forbidden, Unauthorized

NOW = 1_800_000_000.0
HERE = ("churn",)


def text_of(number: int) -> str:
    return compose(f"{number:08x}", f"{number:048x}")


def grant(number: int, *scopes: str, ends: float | None = None) -> Grant:
    expires = datetime.fromtimestamp(ends, UTC) if ends else None
    return Grant(f"{number:08x}", hashed(text_of(number)), scopes, expires)


def bearer(number: int) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + text_of(number).encode())]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    generations: Iterator[int] = iter(range(1, 100))

    def written(*grants: Grant) -> None:
        temporary = tmp_path / "new"
        temporary.write_bytes(AccessList("churn", next(generations), grants).encode())
        temporary.rename(tmp_path / "access.json")

    return written


def opened(folder: Path, demanded: bool = True, **more: Callable[[], float]) -> Access:
    access = Access(folder, demanded, **more)
    access.look()
    return access


def refusal(access: Access, headers: list[tuple[bytes, bytes]], page: str, model: str = "", here=HERE) -> str:
    """The status, and the scope that is missing."""
    try:
        access.check(headers, page, model, here)
    except Unauthorized:
        return "401"
    except Forbidden as error:
        return f"403 {error.facts['scope']}"
    return ""


def test_without_a_list_nobody_may_ask_for_anything_but_the_open_pages(tmp_path: Path) -> None:
    access = opened(tmp_path)
    for page in (*PAGES, "infer", "model", "ready", "/whatever-comes"):
        assert refusal(access, bearer(1), page, "churn") == ("" if page in OPEN else "401"), page
    assert "access.json is missing" in access.health()["access"]["error"]


def test_not_demanded_everything_is_open_and_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "access.json").write_text("damaged")
    access = opened(tmp_path, demanded=False)
    assert {refusal(access, [], page) for page in PAGES} == {""}
    assert access.health() == {}


@pytest.mark.parametrize(
    ("scopes", "page", "model", "told"),
    [
        (["predict:churn"], "infer", "churn", ""),
        (["predict:churn"], "infer", "fraud", "403 predict:fraud"),
        (["predict:*"], "infer", "fraud", ""),
        (["predict:churn"], "model", "churn", ""),
        (["labels:churn"], "ready", "churn", "403 predict:churn"),
        (["predict:churn"], "/invocations", "", ""),
        (["predict:fraud"], "/invocations", "", "403 predict:churn"),
        (["labels:churn", "metrics"], "/invocations", "", "403 predict:churn"),
        (["labels:churn"], "/labels", "", ""),
        (["labels:*"], "/labels", "", ""),
        (["predict:*"], "/labels", "", "403 labels:churn"),
        (["metrics"], "/metrics", "", ""),
        (["predict:*", "labels:*"], "/metrics", "", "403 metrics"),
        (["predict:churn"], "/v2", "", ""),
        (["predict:fraud"], "/openapi.json", "", "403 predict:churn"),
        (["metrics"], "/version", "", "403 predict:churn"),
        ([], "/version", "", "403 predict:churn"),
    ],
)
def test_what_a_scope_opens(
    tmp_path: Path, write: Callable[..., None], scopes: list[str], page: str, model: str, told: str
) -> None:
    write(grant(1, *scopes))
    assert refusal(opened(tmp_path), bearer(1), page, model) == told


def test_where_a_path_names_no_model_the_scope_must_hold_for_every_one(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(grant(1, "predict:churn"), grant(2, "predict:churn", "predict:fraud"), grant(3, "predict:*"))
    access, both = opened(tmp_path), ("churn", "fraud")
    assert [refusal(access, bearer(n), "/invocations", "", both) for n in (1, 2, 3)] == [
        "403 predict:fraud",
        "",
        "",
    ]
    assert [refusal(access, bearer(n), "/v2", "", both) for n in (1, 2, 3)] == ["", "", ""]
    assert [refusal(access, bearer(n), "/invocations", "", ()) for n in (2, 3)] == ["403 predict:*", ""]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic " + text_of(1).encode())],
        [(b"authorization", text_of(1).encode())],
        [(b"authorization", b"Bearer " + text_of(1).encode()[:-1])],
        [(b"authorization", b"Bearer " + text_of(1).encode() + b"0")],
        [(b"authorization", b"Bearer " + text_of(1).encode().upper())],
        [(b"authorization", b"Bearer mlp_00000001_" + b"0" * 48 + b"_00000000")],
        [(b"authorization", b"Bearer \xff\xfe\x00")],
        bearer(1) + bearer(1),
        bearer(9),
    ],
)
def test_anything_but_one_whole_token_is_refused_and_never_repeated(
    tmp_path: Path, write: Callable[..., None], headers: list[tuple[bytes, bytes]]
) -> None:
    write(grant(1, "predict:*"))
    access = opened(tmp_path)
    with pytest.raises(Unauthorized) as caught:
        access.check(headers, "/invocations", "", HERE)
    said = f"{caught.value} {caught.value.to_dict()} {caught.value.body()!r}"
    assert not any(text_of(number)[13:40] in said for number in (1, 9))
    assert caught.value.facts["authenticate"].startswith("Bearer")


def test_the_word_bearer_is_written_as_people_like(tmp_path: Path, write: Callable[..., None]) -> None:
    write(grant(1, "predict:*"))
    access, text = opened(tmp_path), text_of(1).encode()
    for value in (b"bearer " + text, b"BEARER  " + text + b" "):
        assert access.holder([(b"authorization", value)]).id == "00000001"


def test_a_token_ends_by_the_servers_clock(tmp_path: Path, write: Callable[..., None]) -> None:
    write(grant(1, "predict:*", ends=NOW))
    for now, told in ((NOW - 1, ""), (NOW, "401"), (NOW + 1, "401")):
        assert refusal(opened(tmp_path, now=lambda now=now: now), bearer(1), "/invocations") == told


def test_a_new_list_is_taken_a_damaged_one_is_not_and_a_lost_one_leaves_nobody(
    tmp_path: Path, write: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    write(grant(1, "predict:*"), grant(2, "predict:*"))
    access = opened(tmp_path)
    assert not access.look()
    write(grant(2, "predict:*"))
    assert access.look()
    assert [refusal(access, bearer(n), "/invocations") for n in (1, 2)] == ["401", ""]
    assert access.health()["access"] == {"generation": 2, "error": ""}
    (tmp_path / "access.json").write_text('{"endpoint": ')
    assert access.look()
    assert not access.look()
    assert [refusal(access, bearer(n), "/invocations") for n in (1, 2)] == ["401", ""]
    assert access.health()["access"]["generation"] == 2
    assert "the one before holds" in access.health()["access"]["error"]
    (tmp_path / "access.json").unlink()
    assert access.look()
    assert [refusal(access, bearer(n), "/invocations") for n in (1, 2)] == ["401", "401"]
    write(grant(1, "predict:*"))
    assert access.look()
    assert [refusal(access, bearer(n), "/invocations") for n in (1, 2)] == ["", "401"]
    assert text_of(1)[13:40] not in capfd.readouterr().out


def test_a_challenge_names_the_scope_and_holds_no_line_break(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(grant(1, "predict:churn"))
    with pytest.raises(Forbidden) as caught:
        opened(tmp_path).check(bearer(1), "infer", 'fr\r\nSet-Cookie: "a"', HERE)
    assert caught.value.facts["authenticate"] == (
        'Bearer error="insufficient_scope", scope="predict:fr Set-Cookie: a"'
    )
    assert b"\n" not in caught.value.body()


def test_a_check_takes_a_few_microseconds(tmp_path: Path, write: Callable[..., None]) -> None:
    """The best of several runs: what others do on the machine is not the check's."""
    write(*(grant(number, "predict:churn") for number in range(1000)))
    access, headers = opened(tmp_path), [(b"accept", b"*/*")] * 6 + bearer(500)

    def one_run() -> float:
        start = time.perf_counter()
        for _ in range(2000):
            access.check(headers, "/invocations", "", HERE)
        return (time.perf_counter() - start) / 2000 * 1e6

    best_us = min(one_run() for _ in range(15))
    print(f"{best_us:.2f} us")
    assert best_us < 5


@pytest.mark.parametrize(
    ("scopes", "here", "seen"),
    [
        (("metrics",), HERE, True),
        (("metrics",), (), True),
        (("predict:churn",), HERE, True),
        (("predict:*",), (), True),
        (("predict:churn",), ("fraud", "churn"), True),
        (("predict:fraud",), HERE, False),
        (("labels:*",), HERE, False),
    ],
)
def test_details_of_health_are_for_those_who_may_predict_or_measure(
    tmp_path: Path, write: Callable[..., None], scopes: tuple[str, ...], here: tuple[str, ...], seen: bool
) -> None:
    write(grant(1, *scopes), grant(2, *scopes, ends=1.0))
    access = opened(tmp_path)
    assert access.sees_details(bearer(1), here) is seen
    assert not access.sees_details(bearer(2), here), "it has expired"
    assert not access.sees_details(bearer(3), here)
    assert not access.sees_details([], here)
    assert opened(tmp_path, demanded=False).sees_details([], here)
