"""scipy's special functions, loaded at the first call: scipy costs a third of a second, and most commands need none."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    found = globals()[name] = getattr(import_module("scipy.special"), name)
    return found
