"""Parameters that a request sets beside its rows -> values as the signature types them, as MLflow checks them.

`null` is a value where one value is wanted, whole numbers are numbers, nothing else is converted. Parameters that the
request does not name have their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, Parameter
from mlplatform.errors import nearest
from mlplatform.serving.problems import NotTheSignature, Problem
from mlplatform.serving.values import kind_of, read
from mlplatform.stats.batch import Params

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "boolean": ((bool,), "true or false"),
    "integer": ((int,), "a whole number"),
    "long": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "double": ((int, float), "a number"),
    "string": ((str,), "text"),
    "datetime": ((str,), "a time such as 2026-01-31T12:00:00Z"),
}


class ParamReader:
    """Parameters of one signature. NotTheSignature names the parameter and what was expected."""

    def __init__(self, known: Sequence[Parameter]) -> None:
        self._known = {param.name: param for param in known}
        self._defaults = {param.name: _default(param) for param in known}

    def read(self, given: Any) -> Params:
        """All that `params` of a request says; none where that are the defaults."""
        if given is None:
            return ()
        if not isinstance(given, dict):
            raise NotTheSignature(f"field 'params': expected an object of parameters, got {kind_of(given)}")
        for name in given:
            if not self._known:
                raise NotTheSignature("field 'params': this version was registered without parameters")
            if name not in self._known:
                hint = nearest(name[:100], self._known)
                raise NotTheSignature(f"field 'params': unknown parameter {name!r}. {hint}")
        return self.pick(given)

    def pick(self, given: Mapping[str, Any]) -> Params:
        """The signature's own among others."""
        values = {
            name: _read(param, given[name]) if name in given else self._defaults[name]
            for name, param in self._known.items()
        }
        return tuple(values.items()) if values != self._defaults else ()


def _default(param: Parameter) -> Any:
    """As if it were sent, so that a request that names it is one that does not."""
    try:
        return _read(param, list(param.default) if param.shape else param.default)
    except Problem:  # MLflow took it: it is the model's business
        return param.default


def _read(param: Parameter, given: Any) -> Any:
    where = f"parameter {param.name!r}"
    if not param.shape:
        return _value(param.dtype, given, where)
    if not isinstance(given, list):
        raise NotTheSignature(f"{where}: expected a list, got {_shown(given)}")
    return tuple(_value(param.dtype, value, f"{where}, entry {i}") for i, value in enumerate(given))


def _value(dtype: str, given: Any, where: str) -> Any:
    kinds, expected = _KINDS[dtype]
    if given is None:
        return None
    if type(given) not in kinds:
        raise NotTheSignature(f"{where}: expected {expected}, got {_shown(given)}")
    try:
        if dtype == "datetime":
            return _time(given)
        return float(given) if float in kinds else given
    except (Problem, OverflowError):
        raise NotTheSignature(f"{where}: expected {expected}, got {_shown(given)}") from None


def _time(text: str) -> str:
    """In one form for each time; a date stays one."""
    values, _ = read(Column("", "datetime"), [text])
    return text if len(text) == len("2026-01-31") else str(np.datetime64(values[0], "us"))


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return str(value) if abs(value) < 2**80 else "a number of very many digits"
    return kind_of(value)
