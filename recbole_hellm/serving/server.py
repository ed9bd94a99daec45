"""Starting and ending the server."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recbole_hellm.errors import ConfigError, install_extra
from recbole_hellm.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

_BACKLOG = 512


@dataclasses.dataclass(frozen=True)
class BoundServer:
    """A server with its address, before it answers.

    Attributes
    ----------
    url : str
        Where the page will be.
    server : uvicorn.Server
    socket : socket
    close : callable
        Ends the threads of the models.
    """

    url: str
    server: Any
    socket: socket.socket
    close: Callable[[], None]

    def serve(self) -> None:
        """Answer requests until an interrupt, SIGTERM, or ``server.should_exit``."""
        try:
            self.server.run(sockets=[self.socket])
        except KeyboardInterrupt:  # the usual end, which the server passes on
            logger.debug("Asked to end")
        finally:
            self.socket.close()
            self.close()


def prepare_server(runs: Iterable[str | Path] | str, settings: ServeSettings) -> BoundServer:
    """Open runs and bind the server's address.

    Parameters
    ----------
    runs : iterable of path or str
        Directories of finished runs of one dataset with the same items; a text may name several,
        separated by commas.
    settings : ServeSettings

    Raises
    ------
    ConfigError
        If FastAPI or uvicorn is not installed, or the address cannot be had.
    HellmError
        If a run cannot be restored, or they do not belong together.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`serve` needs FastAPI and uvicorn ({error}); {install_extra('serve')}."
        ) from error
    from recbole_hellm.serving.app import create_app
    from recbole_hellm.serving.service import Service, load_runs

    results = load_runs(runs)
    bound = bind(settings.host, settings.port)  # before the models, which take their time
    try:
        service = Service.open(results, settings)
        app = create_app(service, settings)
    except BaseException:
        bound.close()
        raise
    if not settings.local:
        logger.warning(
            "The page is for everyone who can reach %s, without a password.", settings.host
        )
    options = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=5,
    )
    bound.listen(_BACKLOG)  # so that whoever comes too early waits
    return BoundServer(url_of(settings, bound), uvicorn.Server(options), bound, service.close)


def bind(host: str, port: int) -> socket.socket:
    """A socket with an address, which does not listen yet.

    Raises
    ------
    ConfigError
        If there is no such address, or it is taken.
    """
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere, two servers would share a port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        if found is not None:
            found.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{host}:{port} cannot be served ({reason}); name another --host, or another --port, "
            "of which 0 is any free one."
        ) from error
    return found


def url_of(settings: ServeSettings, bound: socket.socket) -> str:
    """Where a browser finds the page."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}/"
