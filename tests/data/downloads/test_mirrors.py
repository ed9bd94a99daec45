from __future__ import annotations

from pathlib import Path

import pytest

from recbole_hellm.data.downloads.http import KnownFile
from recbole_hellm.data.downloads.mirrors import Mirrors
from recbole_hellm.errors import ConfigError

LIST = """
amazon2014: ["http://a/{file}", "https://b/x/{file}?y"]
amazon2018-meta: ["http://c/{file}"]
files:
  f.gz: {bytes: 3, sha256: abc}
"""


def test_addresses_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELLM_MIRRORS")
    mirrors = Mirrors()
    assert not mirrors.forbidden
    assert mirrors.urls("f.gz", ("any",), ("http://own/{file}", "http://own/fixed")) == [
        "http://own/f.gz",
        "http://own/fixed",
    ]
    assert mirrors.known("f.gz") == KnownFile()
    assert mirrors.known("f.gz", KnownFile(5)) == KnownFile(5)


def test_a_list_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.yaml").write_text(LIST)
    own = ("http://own/{file}",)
    for mirrors in (Mirrors(str(tmp_path / "m.yaml")), Mirrors([str(tmp_path / "m.yaml")])):
        keys = ("amazon2014", "amazon2014-meta")
        assert mirrors.urls("f.gz", keys, own) == ["http://a/f.gz", "https://b/x/f.gz?y"]
        assert mirrors.urls("f", ("amazon2018", "amazon2018-meta"), own) == ["http://c/f"]
        assert mirrors.urls("f.gz", ("amazon2023",), own) == []
        assert mirrors.known("f.gz", KnownFile(5)) == KnownFile(3, "abc")
    monkeypatch.setenv("HELLM_MIRRORS", "http://a/{file} http://b/{file}")
    assert Mirrors().urls("f", ("any",), own) == ["http://a/f", "http://b/f"]
    assert Mirrors(["http://c/{file}"]).urls("f", ("any",), own) == ["http://c/f"]
    assert Mirrors("none").forbidden
    assert Mirrors("none").urls("f", ("amazon2014",), own) == []


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
