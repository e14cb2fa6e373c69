"""For machines that watch this one: alive, ready, figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from emo_live_server.auth import Principal
from emo_live_server.depends import Shared, may

router = APIRouter(include_in_schema=False)


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def alive() -> dict[str, bool]:
    return {"ok": True}


@router.api_route("/readyz", methods=["GET", "HEAD"])
async def ready(shared: Shared) -> JSONResponse:
    """503 while warming up, when that failed, and while the server is being emptied."""
    state = "ready"
    if shared.failure is not None and shared.failure.done():
        state = "failed"
    elif not shared.ready:
        state = "warming_up"
    elif shared.sessions.draining:
        state = "draining"
    return JSONResponse({"state": state, "sessions": len(shared.sessions)}, 200 if state == "ready" else 503)


@router.get("/metrics")
async def metrics(shared: Shared, caller: Annotated[Principal, Depends(may("metrics:read"))]) -> Response:
    return Response(shared.metrics.text(), media_type=shared.metrics.content_type)
