"""Errors as application/problem+json (RFC 9457). Whatever goes wrong in a request ends here.

The detail of a problem is for the user and never holds what the user sent; an unexpected error says nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from emo_live.errors import BadInputError, EmoLiveError, NotReadyError, NotSupportedError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5


class Problem(Exception):
    """A request that ends with an error. reason: a short name, for programs and for counting."""

    def __init__(
        self, status: int, detail: str, *, reason: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.reason = reason or HTTPStatus(status).phrase.lower().replace(" ", "_")
        self.headers = dict(headers or {})

    @classmethod
    def retry(cls, status: int, detail: str, *, reason: str, after_s: float = RETRY_AFTER_S) -> Problem:
        """A problem that passes by itself."""
        return cls(status, detail, reason=reason, headers={"Retry-After": str(max(1, round(after_s)))})

    @classmethod
    def of(cls, error: EmoLiveError, bad_input: int = 422) -> Problem:
        """What an error of the library is in HTTP. bad_input: the status of input that cannot be used."""
        if isinstance(error, BadInputError):
            return cls(bad_input, str(error), reason="bad_input")
        if isinstance(error, NotReadyError):
            return cls.retry(503, str(error), reason="not_ready")
        if isinstance(error, NotSupportedError):
            return cls(501, str(error), reason="not_supported")
        return cls(500, "the engine failed: start another session", reason="engine_failed")

    def response(self) -> JSONResponse:
        content = {
            "type": f"urn:emo-live:{self.reason}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return JSONResponse(content, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Every error of an app becomes a problem, and is counted by its reason."""

    def answer(request: Request, problem: Problem) -> JSONResponse:
        request.app.state.context.metrics.refused(problem.reason)
        return problem.response()

    async def problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem), "registered for problems"
        return answer(request, error)

    async def library(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EmoLiveError), "registered for the library's errors"
        return answer(request, Problem.of(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError), "registered for invalid requests"
        return answer(request, Problem(422, _first(error.errors()), reason="bad_input"))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException), "registered for the framework's errors"
        return answer(request, Problem(error.status_code, str(error.detail), headers=error.headers))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(request, Problem(500, "something went wrong here, not with you: the log says what"))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(EmoLiveError, library)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _first(errors: Any) -> str:
    """The first complaint about a request, without the value."""
    where = ".".join(str(part) for part in errors[0]["loc"] if part != "body")
    return f"{where or 'body'}: {errors[0]['msg']}"
