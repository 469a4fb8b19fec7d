"""What the contract cannot see: what killed processes left beside documents, damage, and who writes last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.routes import Routes
from mlplatform.store.documents import FolderDocuments


def test_half_written_documents_of_killed_processes_are_removed(tmp_path: Path) -> None:
    documents = FolderDocuments(tmp_path)
    documents.publish(Routes("churn", 0, ()))
    left = tmp_path / "churn" / ".routes.json.4194305.tmp"
    left.write_text('{"endpoint": ')
    published = documents.publish(Routes("churn", 0, ()))
    assert not left.exists()
    assert documents.routes("churn") == published


GRANT = Grant("0123abcd", "5f" * 32, ("predict:churn",))


def test_a_damaged_access_list_is_written_anew_and_half_written_ones_go(tmp_path: Path) -> None:
    documents, folder = FolderDocuments(tmp_path), tmp_path / "churn"
    documents.grant("churn", lambda: (GRANT,))
    (folder / ".access.json.4194305.tmp").write_text("{")
    (folder / "access.json").write_text("{")
    assert documents.grant("churn", lambda: (GRANT,)) == AccessList("churn", 1, (GRANT,))
    assert sorted(path.name for path in folder.iterdir()) == ["access.json", "access.lock"]


def test_who_writes_the_access_list_last_has_read_last(tmp_path: Path) -> None:
    """One who has read the tokens before a revocation writes before the one who revoked."""
    tokens, has_read, may_write = [GRANT], threading.Event(), threading.Event()

    def slow_read() -> tuple[Grant, ...]:
        found = tuple(tokens)
        has_read.set()
        assert may_write.wait(20)
        return found

    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(FolderDocuments(tmp_path).grant, "churn", slow_read)
        assert has_read.wait(20)
        tokens.clear()  # revoked
        late = pool.submit(FolderDocuments(tmp_path).grant, "churn", lambda: tuple(tokens))
        may_write.set()
        assert (early.result(20).grants, late.result(20).grants) == ((GRANT,), ())
    assert FolderDocuments(tmp_path).access("churn") == AccessList("churn", 2, ())
