"""The whole server, with a key, played by the WHEP draft author's client on a page of another origin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fakes import bundled_avatar

from emo_live_server.app import create_app
from emo_live_server.run import Server
from emo_live_server.settings import load
from tests.interop.player_server import serving
from tests.interop.test_players import SECONDS, WHEP

pytestmark = pytest.mark.slow
KEY = "a-token-of-24-characters"


def test_whip_whep_from_another_origin(npm_packages: Path, chromium: str) -> None:
    from playwright.async_api import async_playwright

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(90), serving(packages=npm_packages / "node_modules") as page_server:
            settings = load(engine="pattern", size=256, port=0, api_keys=KEY, cors_origins=page_server.base)
            app = create_app(settings)
            next(iter(app.state.context.avatars._faces.values())).avatar = bundled_avatar()
            address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            server = Server(app, settings, address.set_result)
            running = asyncio.create_task(server.serve())
            try:
                url = f"{await address}/whep/default"
                while not app.state.context.ready:  # noqa: ASYNC110  it has no event for tests
                    await asyncio.sleep(0.05)
                async with async_playwright() as playwright:
                    browser = await playwright.chromium.launch(
                        executable_path=chromium, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
                    )
                    page = await browser.new_page()
                    await page.goto(page_server.base)
                    script = WHEP.replace('"a-token"', f'"{KEY}"')
                    seen: dict[str, Any] = await page.evaluate(script, [url, SECONDS])
                    await browser.close()
                count = app.state.context.metrics.value
                resource = "/whep/{avatar}/{id}"
                seen["patches"] = count("http_requests_total", method="PATCH", route=resource, status="204")
                seen["deletes"] = count("http_requests_total", method="DELETE", route=resource, status="200")
                seen["left"] = len(app.state.context.sessions)
                return seen
            finally:
                server.should_exit = True
                await running

    seen = asyncio.run(main())
    assert seen["frames"] >= 25 * (SECONDS - 1)
    assert seen["sound"] > 48_000 * (SECONDS - 1)
    assert (seen["lost"], seen["width"]) == (0, 256)
    assert seen["patches"] >= 1
    assert (seen["deletes"], seen["left"]) == (1, 0)
