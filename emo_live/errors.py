"""Every exception the library raises on purpose.

EmoLiveError
├── BadInputError      what was given cannot be used; the message says what to do (CLI exit code 2, HTTP 4xx)
├── NotSupportedError  an extra is not installed or this build lacks a codec; the message has the command that helps
├── NotReadyError      warming up or full: try again later
└── EngineError        the engine failed; its session ends, its neighbours live
"""


class EmoLiveError(Exception):
    """Base of all errors raised by emo_live."""


class BadInputError(EmoLiveError):
    """What was given cannot be used; the message is one line that says what to do."""


class NotSupportedError(EmoLiveError):
    """An optional package or codec is missing; the message says how to get it."""


class NotReadyError(EmoLiveError):
    """The engine is warming up or has no room; trying again later may work."""


class EngineError(EmoLiveError):
    """The engine failed."""
