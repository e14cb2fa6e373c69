"""The page where the browser, the network or the server does not do its part: said in plain words, with a way on.

The browser is a real one; what is broken is broken around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from viewer import Viewer

from emo_live_server.browser_bench.chromium import launched, missing
from emo_live_server.browser_bench.processes import Server, free_port, running

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")

# A browser that finds no candidate at all: only relays are allowed, and there is none.
NO_NETWORK = """const Real = RTCPeerConnection;
window.RTCPeerConnection = class extends Real {
  constructor(settings) { super({ ...settings, iceServers: [], iceTransportPolicy: "relay" }); }
};"""
NO_WEBRTC = "delete window.RTCPeerConnection;"
WEBRTC_REFUSED = (
    'window.RTCPeerConnection = class { constructor() { throw new DOMException("no", "NotAllowedError"); } };'
)
OFFER_REFUSED = """RTCPeerConnection.prototype.setLocalDescription =
    () => Promise.reject(new DOMException("no", "OperationError"));"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    port = free_port()
    options = ("--port", str(port), "--engine", "pattern", "--size", "256", "--max-sessions", "4", "--quiet")
    with running("emo_live", "serve", *options, port=port, ready="/readyz") as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


def fails(viewer: Viewer, *words: str) -> None:
    viewer.page.click("#start")
    viewer.await_notice(*words)
    assert viewer.page.get_attribute("body", "data-phase") == "off"
    assert viewer.page.inner_text("#state") == "Not connected"
    assert viewer.page.is_visible("#retry"), "there is a way on"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (NO_NETWORK, "found no network"),
        (NO_WEBRTC, "does not allow live video"),
        (WEBRTC_REFUSED, "does not allow live video"),
        (OFFER_REFUSED, "does not allow live video"),
    ],
    ids=["network", "missing", "refused", "offer"],
)
def test_what_the_browser_cannot_do_is_said(browser: Any, server: Server, broken: str, words: str) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.add_init_script(broken)
        viewer = Viewer(page, server.url)
        viewer.open()
        fails(viewer, words)


def _without_a_way(route: Any) -> None:
    """The answer, but nothing gets through: the password that both sides check is another one."""
    reply = route.fetch()
    lines = [
        line[:10] + line[10:][::-1] if line.startswith("a=ice-pwd:") else line for line in reply.text().split("\r\n")
    ]
    route.fulfill(response=reply, body="\r\n".join(lines))


ANSWERS: list[tuple[Any, str]] = [
    (_without_a_way, "its video does not arrive"),
    (lambda route: route.fulfill(status=201, body="v=0", headers={"Location": "/x", "ETag": '"x"'}), "no video format"),
    (lambda route: route.fulfill(status=503, body="<html>busy</html>"), "places on this server are taken"),
    (
        lambda route: route.fulfill(
            status=503, json={"type": "urn:emo-live:not_ready", "detail": "no UDP port is free"}
        ),
        "No UDP port is free",
    ),
    (lambda route: route.fulfill(status=500, body=""), "answered with an error (500)"),
    (lambda route: route.abort(), "does not answer"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=["blocked", "garbled", "busy", "no-port", "broken", "gone"])
def test_a_connection_that_does_not_come_about_is_explained(
    browser: Any, server: Server, answer: Any, words: str
) -> None:
    with closing(browser.new_context()) as context:
        viewer = Viewer(context.new_page(), server.url)
        viewer.open()
        viewer.page.route("**/webrtc", answer)
        fails(viewer, words)
        viewer.page.unroute("**/webrtc")
        viewer.page.click("#retry")
        viewer.await_live()
        assert viewer.page.is_hidden("#notice")


def test_a_page_that_could_not_load_its_settings_tries_again(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        viewer = Viewer(context.new_page(), server.url)
        viewer.page.route("**/v1/config", lambda route: route.abort())
        viewer.page.goto(f"{server.url}/")
        viewer.await_notice("does not answer")
        viewer.page.unroute("**/v1/config")
        viewer.page.click("#retry")
        viewer.page.wait_for_selector("#start:enabled")
        assert viewer.page.is_hidden("#notice")
        viewer.start()


def test_blocked_websockets_leave_a_face_that_talks(browser: Any, server: Server) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.add_init_script(
            "const Real = WebSocket; window.WebSocket = class extends Real {"
            " constructor(url) { super(url.replace('/realtime', '/blocked')); } };"
        )
        viewer = Viewer(page, server.url)
        viewer.open()
        viewer.start()
        viewer.await_notice("may block WebSockets")
        assert viewer.page.get_attribute("body", "data-phase") == "live"
