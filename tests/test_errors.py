from __future__ import annotations

from recbole_hellm.errors import UnknownOptionError, nearest, without_passwords


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
