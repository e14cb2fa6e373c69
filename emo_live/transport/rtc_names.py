"""mDNS names, which browsers give instead of addresses (draft-ietf-mmusic-mdns-ice-candidates).

aioice does not promise to keep aioice.mdns; test_rtc_names.py notices changes.
"""

from __future__ import annotations

import logging

from aioice import mdns

_log = logging.getLogger(__name__)


def hides_address(host: str) -> bool:
    """Whether a candidate's host is a name that only mDNS knows."""
    return mdns.is_mdns_hostname(host)


async def address_of(name: str) -> str | None:
    """Its IP address. None: nobody answered for a second, or this machine has no multicast.

    Every lookup has a socket of its own: aioice shares one per thread, with a lock that belongs to the first event loop
    which needed it, so the second asyncio.run() of a program would fail.
    """
    try:
        protocol = await mdns.create_mdns_protocol()
        try:
            return await protocol.resolve(name)
        finally:
            await protocol.close()
    except OSError as error:
        _log.info("an mDNS name could not be looked up", extra={"error": str(error)})
        return None
