"""What a server takes on, as options of its command line."""

from __future__ import annotations

import argparse
from dataclasses import fields

from mlplatform.domain.limits import RequestLimits, option


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options that `limits_of` reads: one for each limit, as `RequestLimits.words` writes them."""
    for limit in fields(RequestLimits):
        parser.add_argument(option(limit.name), type=int, default=limit.default, help="default: %(default)s")


def limits_of(given: argparse.Namespace) -> RequestLimits:
    """Raises ValueError for a limit below 1."""
    return RequestLimits(**{limit.name: getattr(given, limit.name) for limit in fields(RequestLimits)})
