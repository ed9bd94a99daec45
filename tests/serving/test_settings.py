from __future__ import annotations

import socket

import pytest

from recbole_hellm.errors import ConfigError
from recbole_hellm.serving.settings import ServeSettings


def test_only_this_machine_by_default() -> None:
    settings = ServeSettings()
    assert (settings.host, settings.local) == ("127.0.0.1", True)
    assert all(map(settings.allows, ("127.0.0.1", "localhost", "LOCALHOST", "::1")))
    # Names that another site may let point here, and addresses that are not this one.
    assert not any(
        map(settings.allows, ("evil.example", "localhost.evil.example", "192.168.0.7", ""))
    )


def test_other_names_are_to_be_allowed() -> None:
    settings = ServeSettings(allowed_hosts="box.example, Other.example")
    assert settings.allows("box.example") and settings.allows("other.example")
    assert not settings.allows("example")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])  # noqa: S104
def test_a_page_for_others_is_asked_for_by_address_or_by_the_machines_name(host: str) -> None:
    settings = ServeSettings(host=host)
    assert not settings.local
    assert settings.allows("192.168.0.7") and settings.allows(socket.gethostname())
    assert not settings.allows("evil.example")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_other_local_addresses(host: str) -> None:
    assert ServeSettings(host=host).local


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"port": 65536}, "port=65536 must be at most 65535."),
        ({"topk": 0}, "topk=0 must be at least 1."),
        ({"topk": 101}, "topk=101 must be at most 100."),
        ({"host": " "}, "host='' is no address; use 127.0.0.1, or leave it out."),
    ],
)
def test_mistakes(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        ServeSettings(**values)
    assert str(error.value) == told
