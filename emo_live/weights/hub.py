"""The hub: what a repository holds, and the bytes of its files. The one place that touches the network.

Every request has a timeout (huggingface-hub's: 10 s without an answer, then a few more tries). Files come in blocks, so
that an interrupted download goes on where it stopped. A token, where one is needed, is read by huggingface-hub: from
HF_TOKEN, or what `hf auth login` stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from emo_live.errors import BadInputError

_BLOCK_BYTES = 1 << 24
_TIMEOUT_S = 10.0
_HELP = "see docs/weights.md for files that you have already: emo-live weights convert"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """sha256: None for small files, of which the hub does not tell it."""

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: Mapping[str, RemoteFile]


class Hub(Protocol):
    def listing(self, repo: str, revision: str | None) -> Listing:
        """Raises BadInputError if the repository or the hub cannot be reached."""

    def blocks(self, repo: str, commit: str, file: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes from start up to end, in order, in blocks of at most some MB. Raises BadInputError."""


class HuggingFaceHub:
    """Hub, through huggingface-hub. endpoint: its address; None: the usual one, or $HF_ENDPOINT."""

    def __init__(self, endpoint: str | None = None):
        self.endpoint = endpoint

    def listing(self, repo: str, revision: str | None) -> Listing:
        from huggingface_hub import HfApi

        with _one_line(repo):
            info = HfApi(self.endpoint).model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
            files = {
                file.rfilename: RemoteFile(file.size or 0, None if file.lfs is None else file.lfs.sha256)
                for file in info.siblings or ()
            }
            return Listing(str(info.sha), files)

    def blocks(self, repo: str, commit: str, file: str, start: int, end: int) -> Iterator[bytes]:
        from huggingface_hub import HfFileSystem

        with _one_line(repo):
            name = f"{repo}@{commit}/{file}"
            files = HfFileSystem(endpoint=self.endpoint)
            with files.open(name, "rb", block_size=_BLOCK_BYTES, cache_type="none", size=end) as stream:
                while start < end:
                    stream.seek(start)
                    block = stream.read(min(_BLOCK_BYTES, end - start))
                    if not block:
                        raise BadInputError(f"{repo}: {file} ended early at {start} bytes: run the command again")
                    yield bytes(block)
                    start += len(block)


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Whatever the library and those below it raise becomes one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (BadInputError, GeneratorExit):
        raise
    except OfflineModeIsEnabled as error:
        raise BadInputError(f"HF_HUB_OFFLINE forbids the download of {repo}: unset it, or {_HELP}") from error
    except GatedRepoError as error:
        raise BadInputError(
            f"{repo} asks for your consent: give it on its page, and put your token into HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise BadInputError(f"{repo} has no such revision: leave --revision out, or take one from its page") from error
    except RepositoryNotFoundError as error:
        raise BadInputError(
            f"{repo} is not on the hub, or not for you (a token in HF_TOKEN may help): {_HELP}"
        ) from error
    except EntryNotFoundError as error:
        raise BadInputError(f"a file of {repo} is no longer there: {_HELP}") from error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "an error")
        raise BadInputError(f"the hub answered {code} for {repo}: try again later, or {_HELP}") from error
    except Exception as error:  # connections fail with the exceptions of several libraries, which change
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise BadInputError(
            f"the hub cannot be reached for {repo} ({reason}): check the connection and run the command again, which "
            f"goes on where it stopped; {_HELP}"
        ) from error
