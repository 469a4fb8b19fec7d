"""Bundles are whole or absent, never change unnoticed, and leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.errors import ChangedBytes, UnknownName, UnsafeArtifact
from mlplatform.store.bundles import FolderBundles

MANIFEST = Manifest(
    "onnx", "model/model.onnx", (Column("a", "double"),), Task("classification", "label", (0, 1)), {}
)


@pytest.fixture
def bundles(tmp_path: Path) -> FolderBundles:
    return FolderBundles(tmp_path / "home")


def fill(folder: Path, weights: bytes = b"weights") -> None:
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(weights)
    (folder / "sample.json").write_text(json.dumps({"a": [1.0]}))


def freeze(bundles: FolderBundles, weights: bytes = b"weights") -> Manifest:
    with bundles.stage() as staged:
        fill(staged, weights)
        return bundles.freeze(staged, MANIFEST)


def test_a_frozen_bundle_lies_under_the_digest_of_its_manifest(bundles: FolderBundles) -> None:
    frozen = freeze(bundles)
    folder = bundles.path(frozen.digest)
    assert folder.name == frozen.digest and folder.parent.name == frozen.digest[:2]
    assert set(frozen.files) == {"model/model.onnx", "sample.json"}
    assert (folder / "manifest.json").read_bytes() == frozen.encode()
    assert bundles.manifest(frozen.digest) == frozen
    assert bundles.digests() == [frozen.digest]
    bundles.verify(frozen.digest)


def test_the_files_are_read_only(bundles: FolderBundles) -> None:
    folder = bundles.path(freeze(bundles).digest)
    assert all(not p.stat().st_mode & stat.S_IWUSR for p in folder.rglob("*") if p.is_file())


def test_equal_bytes_twice_are_one_bundle(bundles: FolderBundles) -> None:
    assert freeze(bundles).digest == freeze(bundles).digest
    assert len(bundles.digests()) == 1
    assert freeze(bundles, b"other").digest != freeze(bundles).digest


def test_nothing_is_left_in_staging(bundles: FolderBundles) -> None:
    freeze(bundles)
    freeze(bundles)
    with pytest.raises(RuntimeError), bundles.stage() as staged:
        fill(staged)
        raise RuntimeError("in the middle")
    assert list((bundles.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "name", "how"),
    [
        (lambda f: rewrite(f / "model" / "model.onnx", b"weightz"), "model/model.onnx", "was changed"),
        (lambda f: (f / "sample.json").unlink(), "sample.json", "is missing"),
        (lambda f: (f / "model" / ".git").write_text("x"), "model/.git", "was added"),
        (lambda f: (f / "model" / "link").symlink_to("/etc"), "model/link", "was added"),
        (lambda f: rewrite(f / "manifest.json", b"{}"), "manifest.json", "was changed"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json", "is missing"),
    ],
    ids=["byte", "missing", "added", "link", "manifest", "no-manifest"],
)
def test_every_change_is_found_and_named(bundles: FolderBundles, change, name: str, how: str) -> None:
    digest = freeze(bundles).digest
    change(bundles.path(digest))
    with pytest.raises(ChangedBytes, match=how) as caught:
        bundles.verify(digest)
    assert caught.value.facts["path"] == name


def test_a_file_that_became_a_link_to_equal_bytes_is_found(bundles: FolderBundles, tmp_path: Path) -> None:
    digest = freeze(bundles).digest
    file = bundles.path(digest) / "model" / "model.onnx"
    (tmp_path / "copy").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "copy")
    with pytest.raises(ChangedBytes):
        bundles.verify(digest)


def test_freezing_the_right_bytes_again_repairs_a_damaged_bundle(bundles: FolderBundles) -> None:
    digest = freeze(bundles).digest
    rewrite(bundles.path(digest) / "model" / "model.onnx", b"damaged")
    assert freeze(bundles).digest == digest
    bundles.verify(digest)


def test_links_are_not_frozen(bundles: FolderBundles) -> None:
    with bundles.stage() as staged:
        fill(staged)
        (staged / "model" / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(UnsafeArtifact, match="model/passwd"):
            bundles.freeze(staged, MANIFEST)
    assert bundles.digests() == []


def test_a_bundle_without_its_model_is_not_frozen(bundles: FolderBundles) -> None:
    with bundles.stage() as staged:
        (staged / "sample.json").write_text("{}")
        with pytest.raises(UnsafeArtifact, match="no such file"):
            bundles.freeze(staged, MANIFEST)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc", "", "ABC"])
def test_an_unknown_digest_is_a_clear_error(bundles: FolderBundles, digest: str) -> None:
    with pytest.raises(UnknownName):
        bundles.manifest(digest)
    with pytest.raises(UnknownName):
        bundles.path(digest)


def test_evidence_is_beside_the_bundle_and_not_part_of_it(bundles: FolderBundles) -> None:
    digest = freeze(bundles).digest
    (bundles.evidence(digest) / "holdout.parquet").write_bytes(b"x")
    assert bundles.evidence(digest).is_dir()
    bundles.verify(digest)


def test_evidence_comes_whole_and_replaces_what_was_there(bundles: FolderBundles) -> None:
    digest = freeze(bundles).digest
    for content in (b"old", b"new"):
        with bundles.stage() as staged:
            (staged / "holdout.parquet").write_bytes(content)
            place = bundles.keep(digest, staged / "holdout.parquet")
            assert list(staged.iterdir()) == []
        assert place == bundles.evidence(digest) / "holdout.parquet"
        assert place.read_bytes() == content


def test_the_hash_of_evidence_is_of_its_own_bytes(bundles: FolderBundles, tmp_path: Path) -> None:
    digest = freeze(bundles).digest
    file = bundles.evidence(digest) / "holdout.parquet"
    file.write_bytes(b"rows")
    assert bundles.sha256(digest, "holdout.parquet") == hashlib.sha256(b"rows").hexdigest()
    file.rename(tmp_path / "elsewhere")
    for place in (lambda: None, lambda: file.symlink_to(tmp_path / "elsewhere")):
        place()
        with pytest.raises(ChangedBytes, match=r"holdout\.parquet is missing"):
            bundles.sha256(digest, "holdout.parquet")


def test_a_folder_that_nobody_may_enter_is_removed(bundles: FolderBundles) -> None:
    """Staged folders are lent to sandboxed models, which may do what they like there."""
    with bundles.stage() as staged:
        (staged / "a" / "b").mkdir(parents=True)
        (staged / "a").chmod(0)
    assert not staged.exists()


def test_what_is_stored_is_listed_with_its_size_and_removed_in_one_step(bundles: FolderBundles) -> None:
    digest = freeze(bundles).digest
    for name in ("holdout.parquet", "evaluation-1.npz"):
        (bundles.evidence(digest) / name).write_bytes(b"12345")
    stored = bundles.stored()
    assert [s.name for s in stored] == ["", "evaluation-1.npz", "holdout.parquet"]
    folder = bundles.path(digest)
    assert stored[0].size_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert stored[1].size_bytes == 5
    for item in stored:
        bundles.remove(item.digest, item.name)
        bundles.remove(item.digest, item.name)
    assert bundles.stored() == [] and not (bundles.root / "evidence" / digest).exists()
    assert list((bundles.root / "staging").iterdir()) == []


def die_while_staging(root: Path) -> None:
    context = FolderBundles(root).stage()
    fill(context.__enter__())
    os._exit(9)


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_stays(
    bundles: FolderBundles,
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=die_while_staging, args=(bundles.root,))
    process.start()
    process.join()
    assert len(list((bundles.root / "staging").iterdir())) == 1
    with bundles.stage() as staged:
        assert bundles.sweep() == 1
        assert staged.is_dir()
    assert bundles.sweep() == 0
    assert bundles.digests() == []


def test_what_another_machine_stages_is_swept_only_when_it_is_old(bundles: FolderBundles) -> None:
    """Process 1 of one container is not process 1 of another."""
    folders = [bundles.root / "staging" / f"other-host-{pid}-x" for pid in (1, 4194305)]
    for folder in folders:
        folder.mkdir(parents=True)
    assert bundles.sweep() == 0
    for folder in folders:
        os.utime(folder, (0, 0))
    assert bundles.sweep() == 2


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
