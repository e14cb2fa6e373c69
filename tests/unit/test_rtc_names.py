"""Looking up names that browsers give, on the real network of this machine."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aioice import mdns

from emo_live.transport.rtc_names import address_of, hides_address

NOBODY = "3b2f6c1e-0000-4000-8000-{:012d}.local"


@pytest.mark.parametrize(
    ("host", "hidden"),
    [(NOBODY.format(1), True), ("printer.local", True), ("192.168.0.7", False), ("fe80::1", False), ("local", False)],
)
def test_names_are_told_from_addresses(host: str, hidden: bool) -> None:
    assert hides_address(host) is hidden


def test_names_that_nobody_answers_for() -> None:
    """Side by side and in one event loop after another: what aioice shares between lookups belongs to one loop."""

    async def main() -> list[str | None]:
        async with asyncio.timeout(5):
            return await asyncio.gather(*(address_of(NOBODY.format(n)) for n in range(4)))

    for _ in range(2):
        assert asyncio.run(main()) == [None] * 4


def test_a_name_that_somebody_answers_for() -> None:
    async def main() -> None:
        name = mdns.create_mdns_hostname()
        responder = await mdns.create_mdns_protocol()
        try:
            await responder.publish(name, "192.0.2.7")
        except OSError as error:
            pytest.skip(f"no multicast here: {error}")
        try:
            async with asyncio.timeout(5):
                assert await asyncio.gather(address_of(name), address_of(name)) == ["192.0.2.7"] * 2
                assert await address_of(f"{uuid.uuid4()}.local") is None
        finally:
            await responder.close()

    for _ in range(2):
        asyncio.run(main())


def test_a_machine_that_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> mdns.MDnsProtocol:
        raise PermissionError("not here")

    monkeypatch.setattr(mdns, "create_mdns_protocol", refused)
    assert asyncio.run(address_of(NOBODY.format(1))) is None
