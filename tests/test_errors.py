from __future__ import annotations

import configparser
import re
from pathlib import Path

from recbole_hellm.errors import UnknownOptionError, install_extra, nearest, without_passwords
from recbole_hellm.tracking.finding import EXTRAS


def test_nearest_names_are_offered() -> None:
    known = ["tau", "epochs", "Beauty"]
    assert nearest("beuty", known) == " (did you mean Beauty?);"
    assert nearest("epoch", known) == " (did you mean epochs?);"
    assert nearest("zzz", known) == ";"


def test_an_unknown_option_may_be_meant_for_the_command() -> None:
    error = UnknownOptionError("trails", "VBPR", ["tau"])
    assert str(error).startswith("Unknown option 'trails' for model VBPR;")
    assert "(did you mean trials?)" in str(error.beside(["trials"]))


def test_addresses_lose_their_passwords() -> None:
    text = "http://ann:s3cret@host:5000/a failed (postgresql://bob:x@db/y); see https://host/c"
    assert without_passwords(text) == (
        "http://...@host:5000/a failed (postgresql://...@db/y); see https://host/c"
    )


def test_the_extras_that_messages_advise_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(root / "setup.cfg")
    sources = [path.read_text(encoding="utf-8") for path in (root / "recbole_hellm").rglob("*.py")]
    advised = {name for text in sources for name in re.findall(r"install_extra\('(\w+)'\)", text)}
    assert len(advised) > 5
    assert advised | set(EXTRAS) <= set(setup["options.extras_require"])
    assert install_extra("serve") == "run `pip install 'recbole-hellm[serve]'`"
