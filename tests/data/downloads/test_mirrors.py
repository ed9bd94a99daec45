from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm.data.downloads.http import KnownFile
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.data.preparation.datasets.catalogue import CATALOGUE
from recbole_hellm.errors import ConfigError

LIST = """
amazon2014: ["http://a/{file}", "https://b/x/{file}?y"]
files:
  f.gz: {bytes: 3, sha256: abc}
"""


def test_the_packaged_list_has_addresses_for_every_category(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HELLM_MIRRORS")
    mirrors = Mirrors()
    assert not mirrors.forbidden
    for edition in {category.edition for category in CATALOGUE.values()}:
        kinds = [edition] if edition == "amazon2014" else [f"{edition}-reviews", f"{edition}-meta"]
        for kind in kinds:
            urls = mirrors.urls(kind, "NAME.gz")
            assert len(urls) >= 2
            assert all(url.endswith("/NAME.gz") for url in urls)
    assert mirrors.known("NAME.gz") == KnownFile()


def test_a_list_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.yaml").write_text(LIST)
    for mirrors in (Mirrors(str(tmp_path / "m.yaml")), Mirrors([str(tmp_path / "m.yaml")])):
        assert mirrors.urls("amazon2014", "f.gz") == ["http://a/f.gz", "https://b/x/f.gz?y"]
        assert mirrors.urls("amazon2018", "f.gz") == []
        assert mirrors.known("f.gz") == KnownFile(3, "abc")
    monkeypatch.setenv("HELLM_MIRRORS", "http://a/{file} http://b/{file}")
    assert Mirrors().urls("anything", "f") == ["http://a/f", "http://b/f"]
    assert Mirrors(["http://c/{file}"]).urls("anything", "f") == ["http://c/f"]
    assert Mirrors("none").forbidden
    assert Mirrors("none").urls("amazon2014", "f") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("amazon2014: [http://a/]", "'http://a/' must be an http or https address"),
        ("amazon2014: ['file:///{file}']", "must be an http or https address"),
        ("amazon2014: 'http://a/{file}'", "amazon2014 must be a list"),
        ("files: {f: 3}", "files.f must be"),
        ("files: {f: {md5: x}}", "files.f must be"),
    ],
)
def test_unusable_lists(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Mirrors(str(tmp_path / "m.yaml"))
    with pytest.raises(ConfigError, match="mirrors: 'nonsense' must be"):
        Mirrors("nonsense")
