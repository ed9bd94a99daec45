from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.storage.text_files import check_encoding, open_regular, read_bytes, read_text


def test_texts_lose_their_mark_and_keep_their_characters(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa9\r\nb\rc\n")
    assert read_text(path, DataError) == "é\nb\nc\n"
    path.write_bytes(b"\xe9")
    assert read_text(path, DataError, encoding="latin-1") == "é"
    with pytest.raises(DataError, match=r"file is not encoded in utf-8 .*; save it again"):
        read_text(path, DataError, "save it again")
    path.write_text("é", encoding="utf-16")
    assert read_text(path, DataError, encoding="utf-16") == "é"


def test_what_cannot_be_read_ends_in_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for name, reason in (
        ("pipe", "it is no regular file"),
        (".", "no regular file"),
        ("absent", "No such file"),
        ("nul\0", "null"),
    ):
        with pytest.raises(DataError, match=f"cannot be read .*{reason}.*; check its name"):
            read_bytes(tmp_path / name, DataError)
    with pytest.raises(DataError, match="large is larger than 0 MiB"):
        read_bytes(tmp_path / "large", DataError, limit=4)
    assert read_bytes(tmp_path / "large", DataError, limit=5) == b"12345"
    with pytest.raises(OSError, match="no regular file"):
        open_regular(Path("/dev/zero"))


def test_encodings_are_known() -> None:
    check_encoding("cp1252")
    for name in ("utf-9", "base64", "undefined", "utf-8\0"):
        with pytest.raises(ConfigError, match=re.escape(f"no encoding {name!r}")):
            check_encoding(name)
