"""Settings of ``recbole-hellm serve``."""

from __future__ import annotations

import ipaddress
import socket

from recbole_hellm.config.devices import AUTO, DEVICE_HELP
from recbole_hellm.config.settings import Settings, names, require, setting
from recbole_hellm.serving.limits import MOST_ITEMS

_LOCAL = ("localhost", "127.0.0.1", "::1")


class ServeSettings(Settings):
    """Where a page is served, and what it shows at first."""

    host: str = setting(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 for all of this machine's, which shows the page to everyone "
        "who can reach it.",
    )
    port: int = setting(8000, "Port to listen on; 0 for any free one.", ge=0, le=65535)
    allowed_hosts: str | None = setting(
        None,
        "Further names, separated by commas, by which browsers may ask for the page, such as that "
        "of a proxy.",
    )
    topk: int = setting(10, "Recommended items of each run at first.", ge=1, le=MOST_ITEMS)
    data_path: str | None = setting(None, "Where the datasets lie if they have moved.")
    backbone: str | None = setting(None, "Where a frozen backbone lies if it has moved.")
    device: str = setting(AUTO, DEVICE_HELP)

    def validate_relations(self) -> None:
        """Check that there is an address; raises :class:`ConfigError`."""
        require(
            bool(self.host.strip()),
            "host='' is no address; use 127.0.0.1, or leave it out.",
        )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def allows(self, name: str) -> bool:
        """Whether a request may ask for a host of this name or address, without its port.

        A page of another site can make its own name point at this machine (DNS rebinding). Its
        requests carry that name, so only known names pass. An address is no name that a site
        could have, but where only this machine is served, none is needed.
        """
        known = {*_LOCAL, self.host.lower(), *map(str.lower, names(self.allowed_hosts))}
        if name.lower() in known:
            return True
        if self.local:
            return False
        return _is_address(name) or name.lower() in {socket.gethostname().lower()}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
