"""The sample that is shipped is the one that is generated, and gets to where it is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recbole_hellm.data.preparation import bundled_sample
from recbole_hellm.data.preparation.bundled_sample import shipped_folder, write_sample
from recbole_hellm.data.preparation.manifest import check_files, read_manifest
from recbole_hellm.data.preparation.sample import generate_sample
from recbole_hellm.data.preparation.versions import Replacing
from recbole_hellm.errors import DataError

SHIPPED = {
    "manifest.json",
    "sample.inter",
    "sample.item",
    *(f"features/image-synthetic.{suffix}" for suffix in ("json", "npy", "tokens.json")),
}


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
    return {file: data for file, data in found.items() if not file.endswith(".lock")}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped folder that stands in for it."""
    copy = tmp_path / "package/sample"
    for file in SHIPPED:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(shipped_folder() / file, copy / file)
    monkeypatch.setattr(bundled_sample, "shipped_folder", lambda: copy)
    return copy


def test_the_shipped_files_are_those_of_the_generator(tmp_path: Path) -> None:
    generate_sample(tmp_path / "sample")
    made = contents(tmp_path / "sample")
    assert made.keys() == SHIPPED
    for file, data in made.items():
        assert (shipped_folder() / file).read_bytes() == data, file


def test_a_missing_sample_is_copied(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(bundled_sample, "generate_sample")
    (shipped / "features/text-own.npy").write_bytes(b"made by somebody in a checkout")
    target = tmp_path / "dataset/sample"
    manifest = write_sample(target)
    assert contents(target).keys() == SHIPPED
    for file, data in contents(target).items():
        assert (shipped / file).read_bytes() == data, file
    check_files(target)
    assert read_manifest(target) == manifest
    assert manifest["users"] == 1000


def test_features_of_the_users_own_stay(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "sample/features/text-own.npy"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    write_sample(tmp_path / "sample")
    write_sample(tmp_path / "sample")
    assert own.read_bytes() == b"own"


def test_other_data_is_replaced_by_force_only(shipped: Path, tmp_path: Path) -> None:
    target = tmp_path / "sample"
    target.mkdir()
    (target / "sample.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(DataError, match="replace them with --force"):
        write_sample(target, Replacing(runs_dir=tmp_path / "runs"))
    write_sample(target, Replacing(force=True, runs_dir=tmp_path / "runs"))
    check_files(target)
    assert list((target / "versions").glob("*/sample/sample.inter"))


def test_damaged_files_of_the_package_are_told(shipped: Path, tmp_path: Path) -> None:
    (shipped / "sample.item").write_text("changed")
    with pytest.raises(DataError, match=r"sample\.item .*; install recbole-hellm again\.$"):
        write_sample(tmp_path / "sample")
    assert not (tmp_path / "sample").exists()


def test_in_a_checkout_the_sample_is_generated_anew(shipped: Path) -> None:
    before = contents(shipped)
    (shipped / "sample.item").write_text("changed")
    write_sample(shipped)
    assert {file: contents(shipped)[file] for file in before} == before


def test_a_link_that_is_none_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").write_text("../../dataset/sample")  # as Windows checks it out
    monkeypatch.setattr(bundled_sample, "shipped_folder", lambda: tmp_path / "link")
    write_sample(tmp_path / "sample")
    assert contents(tmp_path / "sample").keys() == SHIPPED
