"""What happens in a server, a line each: JSON in the words of the Elastic Common Schema (ECS), or plain text where
somebody looks on (`mlplatform serve`).

What a client sent is never in a line: no body, no header, no query, no path that we do not know. What an exception
of a request says may quote its rows, so its type and its place in the code are told, not its words.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

Level = Literal["info", "warning", "error"]
Style = Literal["json", "text"]

ECS_VERSION = "8.11.0"
LINES_A_SECOND = 10
"""Of one action about requests; more are counted and left out."""
MESSAGE_LIMIT, STACK_LIMIT = 1000, 2000
"""Characters: a line stays below 4 KiB, so that processes which share a pipe do not mix theirs."""
BUFFER_BYTES = 4_000_000
"""Access lines that wait for the disk; more are dropped and counted."""
STDOUT = 1


class Log:
    """The log of one process."""

    def __init__(self) -> None:
        self.style: Style = "json"
        self.service = ""
        self.node = ""
        self.on_drop: Callable[[], None] = lambda: None
        self._second = 0
        self._written: dict[str, int] = {}
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def event(self, action: str, message: str, level: Level, fields: Mapping[str, Any]) -> None:
        self._write(self._line(action, message, level, fields))

    def limited(self, action: str, message: str, level: Level, fields: Mapping[str, Any]) -> None:
        """At most `LINES_A_SECOND` of an action: a flood of failures must not fill the disk."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._written.clear()
        written = self._written[action] = self._written.get(action, 0) + 1
        if written > LINES_A_SECOND:
            self.on_drop()
        else:
            self.event(action, message, level, fields)

    def buffer(self, action: str, message: str, fields: Mapping[str, Any]) -> None:
        """A line that `flush` writes."""
        line = self._line(action, message, "info", fields)
        if self._waiting_bytes + len(line) > BUFFER_BYTES:
            self.on_drop()
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    def flush(self) -> None:
        """Write what was buffered; called about once a second, off the event loop."""
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for start in range(0, len(lines), 8):
            self._write(b"".join(lines[start : start + 8]))

    def _line(self, action: str, message: str, level: Level, fields: Mapping[str, Any]) -> bytes:
        now, message = datetime.now(UTC), message[:MESSAGE_LIMIT]
        if self.style == "text":
            said = message if level == "info" else f"{level}: {message}"
            stack = fields.get("error.stack_trace", "")
            return (f"{now.astimezone():%H:%M:%S} {said}\n" + (f"{stack}\n" if stack else "")).encode()
        page = {
            "@timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z",
            "log.level": level,
            "message": message,
            "ecs.version": ECS_VERSION,
            "service.name": self.service,
            "service.type": "mlplatform",
            "service.node.name": self.node,
            "process.pid": os.getpid(),
            "event.action": action,
            **fields,
        }
        return json.dumps(page).encode() + b"\n"

    def _write(self, line: bytes) -> None:
        try:
            os.write(STDOUT, line)
        except OSError:  # a full disk, or nobody reads any more: no reason to serve no longer
            self.on_drop()


_log = Log()


def configure(
    service: str, node: str, style: Style = "json", on_drop: Callable[[], None] = lambda: None
) -> None:
    """Say whose lines these are. From now on exceptions that nobody caught are lines too."""
    _log.service, _log.node, _log.style, _log.on_drop = service, node, style, on_drop
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _died(args.exc_value, f"the thread {_name(args.thread)} died")


def event(action: str, message: str, level: Level = "info", **fields: Any) -> None:
    """One line, now. A field's dots are written as two underscores: `error__type`."""
    _log.event(action, message, level, {name.replace("__", "."): value for name, value in fields.items()})


def limited(action: str, message: str, level: Level, fields: Mapping[str, Any]) -> None:
    """One line about a request, now, unless there are too many of the kind."""
    _log.limited(action, message, level, fields)


def access(message: str, fields: Mapping[str, Any]) -> None:
    """One line about an answered request, with the next `flush`."""
    _log.buffer("request", message, fields)


def flush() -> None:
    _log.flush()


def failure(error: BaseException) -> dict[str, str]:
    """What a line tells of an exception: its type, its cause's, and where; never its words."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    stack = "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return {"error.type": type(cause).__qualname__, "error.stack_trace": stack[-STACK_LIMIT:]}


def follow_logging() -> None:
    """What libraries log as a warning or worse becomes a line; called where `logging` is loaded anyway."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, Any] = {"log.logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields |= failure(record.exc_info[1])
            level: Level = "error" if record.levelno >= logging.ERROR else "warning"
            _log.limited("log", record.getMessage(), level, fields)

    logging.getLogger().addHandler(Handler(logging.WARNING))


def loop_failed(_: Any, context: Mapping[str, Any]) -> None:
    """An event loop's exception handler. The loop's own quotes the arguments of callbacks: what clients sent."""
    error = context.get("exception")
    fields = failure(error) if isinstance(error, BaseException) else {}
    _log.limited("loop-failed", "an exception reached the event loop", "error", fields)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _died(error.with_traceback(trace), "the process died")


def _died(error: BaseException | None, message: str) -> None:
    if error is not None:  # requests' own are caught before: this one's words are ours or the system's
        said = f"{message}: {type(error).__qualname__}: {error}"
        _log.event("died", said, "error", failure(error))


def _name(thread: threading.Thread | None) -> str:
    return thread.name if thread else "?"
