"""Server tests: coroutine functions run on a loop of their own, and no EMO_LIVE_* of the machine gets in."""

from __future__ import annotations

import asyncio
import inspect
import os

import pytest

from emo_live.folders import CACHE_VARIABLE


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def limited() -> None:
        async with asyncio.timeout(300 if pyfuncitem.get_closest_marker("slow") else 30):
            await pyfuncitem.obj(**arguments)

    asyncio.run(limited())
    return True


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EMO_LIVE_") and name != CACHE_VARIABLE]:
        monkeypatch.delenv(name)
