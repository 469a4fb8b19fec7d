"""Who names a model where an endpoint is wanted is told where that model answers."""

from __future__ import annotations

import pytest

from mlplatform.control.looking import EndpointState, Looking
from mlplatform.errors import UnknownName
from mlplatform.ports.extensions import ServerState


class Two(Looking):
    """Model a alone at `shop`, or with b."""

    def __init__(self, *others: str) -> None:
        self._others = others

    def endpoints(self) -> list[EndpointState]:
        server = ServerState("shop", running=False)
        return [
            EndpointState(
                "shop", model, "production", server, (), 0, others=tuple({"a", *self._others} - {model})
            )
            for model in ("a", *self._others)
        ]


@pytest.mark.parametrize(
    ("others", "name", "hint"),
    [
        ((), "a", "Model a answers at endpoint shop."),
        (("b",), "b", "Model b answers at endpoint shop/b."),
        ((), "shpo", "Did you mean 'shop'?"),
        (("b",), "shop/c", "Did you mean 'shop/b'?"),
        ((), "zzz", "Known: shop."),
    ],
)
def test_an_unknown_endpoint_says_where_to_ask(others: tuple[str, ...], name: str, hint: str) -> None:
    with pytest.raises(UnknownName) as told:
        Two(*others).endpoint(name)
    assert told.value.next_step == hint


def test_a_model_at_its_endpoint_is_found() -> None:
    assert Two("b").endpoint("shop/b").model == "b"
    assert Two().endpoint("shop").model == "a"
