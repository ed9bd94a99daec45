from __future__ import annotations

from recbole_hellm.errors import UnknownOptionError, nearest


def test_nearest_names_are_offered() -> None:
    known = ["tau", "epochs", "Beauty"]
    assert nearest("beuty", known) == " (did you mean Beauty?);"
    assert nearest("epoch", known) == " (did you mean epochs?);"
    assert nearest("zzz", known) == ";"


def test_an_unknown_option_may_be_meant_for_the_command() -> None:
    error = UnknownOptionError("trails", "VBPR", ["tau"])
    assert str(error).startswith("Unknown option 'trails' for model VBPR;")
    assert "(did you mean trials?)" in str(error.beside(["trials"]))
