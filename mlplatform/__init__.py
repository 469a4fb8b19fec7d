"""The missing half of MLflow: versions that climb a ladder, go live, are watched, replaced and taken back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Platform", "__version__", "log_candidate"]

_HANDED_OUT = {"Platform": "mlplatform.control", "log_candidate": "mlplatform.sdk"}


def __getattr__(name: str) -> Any:
    """`Platform` and `log_candidate` on first use, so that `import mlplatform` stays cheap."""
    if name in _HANDED_OUT:
        return getattr(import_module(_HANDED_OUT[name]), name)
    raise AttributeError(f"module 'mlplatform' has no attribute {name!r}")
