"""The server's log: one JSON object a line, with the session's fingerprint, and never what somebody said, sent or was.

No text, no sound, no names, no tokens, no addresses and no URL of a session (it is a secret): routes are logged as
their templates. Records of the library and of uvicorn pass through the same formatter.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from typing import TextIO

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send everything that is logged in this process to a stream (default: stderr) as JSON lines."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )  # fmt: skip
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer(),
            ],
        )
    )  # fmt: skip
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries that log what passes through them: host names, candidates, requests.
    for name in ("aiortc", "aioice", "httpx", "httpcore", "websockets", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of this server; works before and without `configure`, too."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def fingerprint(secret: str) -> str:
    """What the log calls a session, so that its lines belong together and open nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]
