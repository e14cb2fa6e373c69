"""The page when something is missing: the server, a place on it, the microphone. No model: a test pattern talks."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from viewer import Viewer

from emo_live_server.browser_bench.chromium import launched, missing
from emo_live_server.browser_bench.processes import Server, free_port, running

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")

DENIED = """navigator.mediaDevices.getUserMedia =
    () => Promise.reject(new DOMException("Permission denied", "NotAllowedError"));"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


def serving_one(port: int) -> Any:
    """A server with a single place."""
    options = ("--port", str(port), "--engine", "pattern", "--size", "256", "--max-sessions", "1", "--quiet")
    return running("emo_live", "serve", *options, port=port, ready="/readyz")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving_one(free_port()) as one:
        yield one


def test_a_full_server_says_so_and_a_closed_page_gives_its_place_back(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        first, second = Viewer(context.new_page(), server.url), Viewer(context.new_page(), server.url)
        first.open()
        second.open()
        first.start()
        second.page.click("#start")
        second.await_notice("All places on this server are taken")
        assert second.page.inner_text("#state") == "Not connected"
        first.page.close(run_before_unload=True)
        for _ in range(20):  # the place is free as soon as the request of the closing page has arrived
            second.page.wait_for_timeout(250)
            second.page.click("#retry, #start")
            second.wait_until("['live', 'off'].includes(document.body.dataset.phase)")
            if second.page.get_attribute("body", "data-phase") == "live":
                break
        second.await_live()
        assert second.page.is_hidden("#notice")


def test_a_refused_microphone_is_explained(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.add_init_script(DENIED)
        viewer = Viewer(page, server.url)
        viewer.open()
        viewer.start()
        page.click("#mic")
        viewer.await_notice("may not use the microphone")
        assert page.get_attribute("#mic", "aria-pressed") == "false"
        assert page.get_attribute("body", "data-phase") == "live", "the avatar does not need it"


def test_comes_back_when_its_session_is_lost(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        viewer = Viewer(context.new_page(), server.url)
        viewer.open()
        with viewer.page.expect_response(lambda response: response.url.endswith("/v1/sessions")) as created:
            viewer.start()
        session = created.value.json()["id"]
        request = urllib.request.Request(f"{server.url}/v1/sessions/{session}", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()
        viewer.page.wait_for_selector("body[data-phase=reconnecting]")
        viewer.await_live()
        assert viewer.page.is_hidden("#notice")


def test_a_server_that_crashes_is_noticed_and_found_again(browser: Any) -> None:
    port = free_port()
    with closing(browser.new_context()) as context:
        with serving_one(port) as server:
            viewer = Viewer(context.new_page(), server.url)
            viewer.open()
            viewer.start()
            os.kill(server.pid, signal.SIGKILL)
            viewer.await_state("reconnecting")
        with serving_one(port):
            viewer.page.wait_for_selector("body[data-phase=live], #retry:not([hidden])")
            if viewer.page.get_attribute("body", "data-phase") != "live":
                viewer.page.click("#retry")
            viewer.await_live()
            viewer.page.close()


def test_a_page_without_its_server_says_so(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        viewer = Viewer(context.new_page(), server.url)
        viewer.open()
        viewer.page.route("**/v1/**", lambda route: route.abort())
        viewer.page.click("#start")
        viewer.await_notice("The server does not answer")
        assert viewer.page.is_visible("#retry")


def test_a_protected_server_wants_a_token_and_takes_it_from_the_address(browser: Any, tmp_path: Path) -> None:
    key, config, port = "a-key-for-this-test", tmp_path / "server.toml", free_port()
    config.write_text(f'api_keys = ["{key}"]\n')
    options = ("--port", str(port), "--engine", "pattern", "--size", "256", "--quiet", "--config", str(config))
    with running("emo_live", "serve", *options, port=port, ready="/readyz") as server:
        with closing(browser.new_context()) as context:
            stranger = Viewer(context.new_page(), server.url)
            stranger.page.goto(f"{server.url}/")
            stranger.await_notice("access token")
        with closing(browser.new_context()) as context:
            viewer = Viewer(context.new_page(), server.url)
            viewer.page.goto(f"{server.url}/#token={key}")
            viewer.page.wait_for_selector("#start:enabled")
            assert key not in viewer.page.url
            viewer.start()
