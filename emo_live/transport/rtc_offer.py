"""Judges an SDP offer before the WebRTC stack sees it, and gives the answer its final form.

Text in, text out. The stack gets one audio and one video section and no candidates; data channels and further sections
are refused in the answer with port 0 (RFC 3264, section 6). Candidates are handed over apart, because resolving an
mDNS name takes up to a second and the answer need not wait for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from emo_live.errors import BadInputError, NotSupportedError
from emo_live.transport.sdpfrag import MAX_CANDIDATES, IceCandidate, parse_candidate

MAX_BYTES = 64_000
_MAX_SECTIONS = 16
_UFRAG, _PASSWORD = re.compile(r"[A-Za-z0-9+/]{4,256}"), re.compile(r"[A-Za-z0-9+/]{22,256}")  # RFC 8839, section 5.4
_INHERITED = ("ice-ufrag", "ice-pwd", "fingerprint", "setup")  # may stand above the media sections
_TRANSPORT = (*_INHERITED, "rtcp-mux")  # sections of a bundle may leave these to its first one (RFC 8829, 5.2.1)
_MID = re.compile(r"[!#-'*+\-.0-9A-Z^-~]{1,64}")  # token, RFC 8866, section 9
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@dataclass(slots=True)
class _Section:
    """One m= section. lines: without line ends, the m= line first."""

    lines: list[str]
    kind: str = ""
    attributes: dict[str, list[str]] = field(default_factory=dict)

    def first(self, name: str) -> str | None:
        values = self.attributes.get(name)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client asked for, made fit for the stack.

    sdp: one audio and one video section, no candidates. kinds: which of them comes first. codecs: of "h264" and "vp8"
    those that the client takes. sends_audio: there may be a microphone. refused: (place among the client's sections,
    the section that refuses it).
    """

    sdp: str
    kinds: tuple[str, ...]
    ufrag: str
    candidates: tuple[IceCandidate, ...]
    codecs: frozenset[str]
    sends_audio: bool
    refused: tuple[tuple[int, str], ...]

    def finish(self, answer: str) -> str:
        """The stack's answer with every section of the client's offer in its place."""
        session, *sections = _split(answer)
        for place, section in self.refused:
            sections.insert(place, section.split("\n"))
        # All candidates are in the answer, but later ones of the client are welcome (RFC 8838, section 4.1).
        return "".join(f"{line}\r\n" for part in ([*session, "a=ice-options:trickle"], *sections) for line in part)


def read_offer(text: str) -> Offer:
    """BadInputError for what is broken or cannot be meant; NotSupportedError if no codec is shared."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise BadInputError(f"an SDP offer may have {MAX_BYTES} bytes")
    session, *parts = _split(text)
    if not session or session[0] != "v=0" or not parts:
        raise BadInputError("this is no SDP offer: it begins with v=0 and has m= sections")
    if len(parts) > _MAX_SECTIONS:
        raise BadInputError(f"an SDP offer may have {_MAX_SECTIONS} media sections")
    common = _attributes(session)
    sections = [_section(lines, common) for lines in parts]
    _complete_bundles(session, sections)
    audio, video = (_wanted(sections, kind) for kind in ("audio", "video"))
    chosen = [section for section in sections if section is audio or section is video]
    _check_bundle(session, chosen)
    codecs = _check_codecs(audio, video)
    ufrag = chosen[0].first("ice-ufrag")
    assert ufrag is not None, "a section without credentials was refused before"
    candidates = [
        parse_candidate(value, section.first("mid"))
        for section in chosen
        for value in section.attributes.get("candidate", ())
    ]
    offer = Offer(
        sdp=_clean(session, chosen),
        kinds=tuple(section.kind for section in chosen),
        ufrag=ufrag,
        # A machine with many interfaces has more than anybody would try; the first ones are the preferred ones.
        candidates=tuple([candidate for candidate in candidates if candidate.usable][:MAX_CANDIDATES]),
        codecs=frozenset(codecs),
        sends_audio=_direction(audio) == "sendrecv",
        refused=tuple((place, _refusal(s)) for place, s in enumerate(sections) if s not in chosen),
    )
    _check_readable(offer.sdp)
    return offer


def _split(text: str) -> list[list[str]]:
    """The session's lines, then those of every media section."""
    parts: list[list[str]] = [[]]
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line)
    return parts


def _section(lines: list[str], common: dict[str, list[str]]) -> _Section:
    words = lines[0][2:].split()
    if len(words) < 4 or not words[1].isdigit():
        raise BadInputError(f"a media section of the offer cannot be read: {lines[0][:60]!r}")
    inherited = {name: values for name, values in common.items() if name in _INHERITED}
    return _Section(lines, words[0], {**inherited, **_attributes(lines)})


def _attributes(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("a="):
            name, _, value = line[2:].partition(":")
            found.setdefault(name, []).append(value)
    return found


def _complete_bundles(session: list[str], sections: list[_Section]) -> None:
    """Sections that are bundle-only (port 0 without being given up) say what the first one of their bundle says."""
    for group in _bundles(session):
        named = {section.first("mid"): section for section in sections}
        first = named.get(group[0])
        if first is None:
            continue
        for mid in group[1:]:
            section = named.get(mid)
            if section is not None and "bundle-only" in section.attributes:
                media, port, *rest = section.lines[0].split()
                section.lines[0] = " ".join([media, "9" if port == "0" else port, *rest])
                for name in _TRANSPORT:
                    if name in first.attributes and name not in section.attributes:
                        values = section.attributes[name] = first.attributes[name]
                        section.lines += [f"a={name}:{value}" if value else f"a={name}" for value in values]


def _bundles(session: list[str]) -> list[list[str]]:
    """mids of every bundle."""
    groups = [line.split()[1:] for line in session if line.startswith("a=group:BUNDLE")]
    return [group for group in groups if group]


def _wanted(sections: list[_Section], kind: str) -> _Section:
    """The section that we answer; port 0 marks one that the client has given up."""
    alive = [section for section in sections if section.kind == kind and section.lines[0].split()[1] != "0"]
    if not alive:
        raise BadInputError(f"the offer asks for no {kind}: an avatar is seen and heard, so offer audio and video")
    section = alive[0]
    direction = _direction(section)
    if direction == "sendonly":
        raise BadInputError(f"the offer only sends {kind} to us: offer {kind} as recvonly or sendrecv")
    if direction == "inactive":
        raise BadInputError(f"the offer's {kind} is inactive: offer it as recvonly or sendrecv")
    for name in ("mid", "ice-ufrag", "ice-pwd", "fingerprint", "setup"):
        if not section.first(name):
            raise BadInputError(f"the offer's {kind} section has no {name}")
    for name, shape in (("ice-ufrag", _UFRAG), ("ice-pwd", _PASSWORD)):
        if not shape.fullmatch(section.first(name) or ""):
            raise BadInputError(f"the offer's {kind} section has an unreadable {name}")
    if not _MID.fullmatch(section.first("mid") or ""):
        raise BadInputError(f"the offer's {kind} section has an unreadable mid")
    if "rtcp-mux" not in section.attributes:
        raise BadInputError(f"the offer's {kind} section has no rtcp-mux")
    return section


def _direction(section: _Section) -> str:
    return next((name for name in _DIRECTIONS if name in section.attributes), "sendrecv")


def _check_bundle(session: list[str], chosen: list[_Section]) -> None:
    mids = [section.first("mid") for section in chosen]
    if len(set(mids)) < len(mids):
        raise BadInputError("two media sections of the offer have the same mid")
    if not any(set(mids) <= set(group) for group in _bundles(session)):
        raise BadInputError("the offer does not bundle audio and video: set bundlePolicy to max-bundle")


def _check_codecs(audio: _Section, video: _Section) -> set[str]:
    if "opus/48000/2" not in (value.lower() for _, value in _numbered(audio, "rtpmap")):
        raise NotSupportedError("the offer has no Opus at 48 kHz, the only sound we send")
    maps = {number: value.lower() for number, value in _numbered(video, "rtpmap")}
    formats = dict(_numbered(video, "fmtp"))
    found = {"vp8"} if "vp8/90000" in maps.values() else set()
    if any(value == "h264/90000" and _plays_h264(formats.get(number, "")) for number, value in maps.items()):
        found.add("h264")
    if not found:
        raise NotSupportedError("the offer has neither H.264 (baseline, packetization-mode 1) nor VP8")
    return found


def _numbered(section: _Section, name: str) -> list[tuple[str, str]]:
    """("96", "opus/48000/2") of every "a=rtpmap:96 opus/48000/2"."""
    parts = (value.partition(" ") for value in section.attributes.get(name, ()))
    return [(number, rest) for number, _, rest in parts]


def _plays_h264(parameters: str) -> bool:
    """Baseline or constrained baseline with fragmented packets (RFC 6184, section 8.1)."""
    from aiortc.sdp import H264Profile, parse_h264_profile_level_id

    values = dict(part.strip().partition("=")[::2] for part in parameters.lower().split(";"))
    try:
        profile, _ = parse_h264_profile_level_id(values.get("profile-level-id", "42e01f"))
    except ValueError:
        return False
    ours = (H264Profile.PROFILE_CONSTRAINED_BASELINE, H264Profile.PROFILE_BASELINE)
    return values.get("packetization-mode") == "1" and profile in ours


def _clean(session: list[str], chosen: list[_Section]) -> str:
    mids = " ".join(str(section.first("mid")) for section in chosen)
    lines = [line for line in session if not line.startswith("a=group:BUNDLE")] + [f"a=group:BUNDLE {mids}"]
    for section in chosen:
        lines += [line for line in section.lines if not line.startswith(("a=candidate", "a=end-of-candidates"))]
        if not any(name in section.attributes for name in _DIRECTIONS):
            lines.append("a=sendrecv")
    return "".join(f"{line}\r\n" for line in lines)


def _refusal(section: _Section) -> str:
    media, _, *rest = section.lines[0].split()
    lines = [" ".join([media, "0", *rest]), "c=IN IP4 0.0.0.0", "a=inactive"]
    mid = section.first("mid")
    return "\n".join(lines + ([f"a=mid:{mid}"] if mid else []))


def _check_readable(sdp: str) -> None:
    """What the stack's own parser cannot read is the client's mistake, whatever it raises over it."""
    from aiortc.sdp import SessionDescription

    try:
        SessionDescription.parse(sdp)
    except Exception as error:  # it asserts, indexes and converts without a class of its own
        raise BadInputError(f"the SDP offer cannot be read ({type(error).__name__})") from error
