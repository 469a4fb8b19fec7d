"""What the contract cannot see: files that a killed process left beside a routes document."""

from __future__ import annotations

from pathlib import Path

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
