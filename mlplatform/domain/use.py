"""How a policy names an extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Use:
    """An extension by its short name, with its options: `{ use = "metric", name = "auc", at_least = 0.8 }`."""

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
