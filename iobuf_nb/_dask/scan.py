"""A scan by the workers of a cluster, for the command line."""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, Security, rpc

from .._streams.scan import ScanResult, scan_by
from .stream import stream

_CONNECT_S = 10


def scan_on(address: str, paths: list[str], **options: Any) -> ScanResult:
    """Count as `scan` does, on the cluster whose scheduler has this address.

    ConnectionError if none answers there within 10 s, ValueError if that is no address; other errors are those of
    `iobuf_nb.dask.stream`.
    """
    with _connected(address) as client:
        return scan_by(functools.partial(stream, client), paths, **options)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        asyncio.run(asyncio.wait_for(_answer(address), _CONNECT_S))
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (TypeError, ValueError) as error:  # a TypeError without the certificates that TLS needs
        raise ValueError(f"--cluster must be an address that Dask can use, such as tcp://host:8786: {error}") from None
    except Exception as error:  # whatever Dask makes of what another server answers
        reason = f"no Dask scheduler answered within {_CONNECT_S} s"
        raise ConnectionError(errno.ECONNREFUSED, reason, address) from error
    with client:
        yield client


async def _answer(address: str) -> None:
    """Wait for a scheduler to answer; a client would wait for ever for a server of another kind."""
    async with rpc(address, connection_args=Security().get_connection_args("client")) as scheduler:
        if "workers" not in await scheduler.identity():  # it is a worker
            raise ConnectionError
