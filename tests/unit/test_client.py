"""Rows on their way to a server: in pieces that it takes, answered in the order in which they stand in the file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from mlplatform import client
from mlplatform.errors import UsageError

LIMIT = 2_000


class Server:
    """Answers each row with its number; like ours it takes no body above the limit."""

    def __init__(self, port: int) -> None:
        self.url, self.lengths = f"http://127.0.0.1:{port}", list[int]()

    def answer(self, body: bytes) -> tuple[int, Any]:
        self.lengths.append(len(body))
        if len(body) > LIMIT:
            return 413, {"message": "the body is too large"}
        return 200, {"predictions": [row[0] for row in json.loads(body)["dataframe_split"]["data"]]}


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            code, answer = told.answer(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(code)
            self.send_header("Mlplatform-Request-Id", f"r{len(told.lengths)}")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        told = Server(listening.server_port)
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield told
        listening.shutdown()
        thread.join()


def table(rows: int, letters: int) -> dict[str, Any]:
    return {"n": np.arange(rows), "text": np.array(["x" * letters] * rows, object)}


def test_a_file_above_the_limit_goes_in_pieces_and_the_answers_keep_its_order(server: Server) -> None:
    answers = client.ask(server.url, table(101, 90), most_bytes=LIMIT)
    assert answers["prediction"].tolist() == list(range(101))
    assert len(server.lengths) > 5 and max(server.lengths) <= LIMIT
    assert len(set(answers["id"])) == 101


def test_a_file_below_it_is_one_request(server: Server) -> None:
    client.ask(server.url, table(10, 90), most_bytes=LIMIT)
    assert len(server.lengths) == 1


def test_a_single_row_above_the_limit_is_refused_with_the_setting_that_helps(server: Server) -> None:
    with pytest.raises(UsageError, match="413") as told:
        client.ask(server.url, table(3, LIMIT), most_bytes=LIMIT)
    assert "limits.max_body_bytes" in told.value.next_step
    assert len(server.lengths) == 1
