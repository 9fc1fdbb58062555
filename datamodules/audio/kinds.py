"""Kinds of sound files, told by their first bytes and never by their names; and what it is that is none of them."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import InputError
from .mp3 import Data, finds_frames


class Kind(NamedTuple):
    """A kind of sound file: its name, how FFmpeg calls its demuxer, and its extensions, the usual one first."""

    name: str
    demuxer: str
    extensions: tuple[str, ...]


_ID3 = 10  # bytes of the header of an ID3v2 tag
_WAV, _W64 = Kind("wav", "wav", ("wav",)), Kind("w64", "w64", ("w64",))
_FLAC, _OGG = Kind("flac", "flac", ("flac",)), Kind("ogg", "ogg", ("ogg", "opus", "oga"))
_MP3, _AAC = Kind("mp3", "mp3", ("mp3", "mp2")), Kind("aac", "aac", ("aac",))
_MP4, _WEBM = Kind("mp4", "mov", ("m4a", "mp4", "mov")), Kind("webm", "matroska", ("webm", "mka", "mkv"))
_AIFF, _AU = Kind("aiff", "aiff", ("aiff", "aif", "aifc")), Kind("au", "au", ("au", "snd"))
_CAF, _WMA = Kind("caf", "caf", ("caf",)), Kind("wma", "asf", ("wma",))
KINDS = (_WAV, _W64, _FLAC, _OGG, _MP3, _AAC, _MP4, _WEBM, _AIFF, _AU, _CAF, _WMA)
EXTENSIONS = tuple(extension for kind in KINDS for extension in kind.extensions)
READABLE = "wav, flac, mp3, ogg, opus, m4a, aac, webm, aiff, au, caf, w64 and wma are read"
_MARKS = (
    (b"fLaC", _FLAC),
    (b"OggS", _OGG),
    (b"RF64", _WAV),
    (b"BW64", _WAV),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", _W64),
    (b"\x1a\x45\xdf\xa3", _WEBM),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", _WMA),
    (b".snd", _AU),
    (b"caff", _CAF),
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|\?xml|error)", re.IGNORECASE)


def kind_of(data: Data, where: str) -> tuple[Kind, int]:
    """The kind of a sound file, and where it begins behind ID3 tags; raises InputError that says what else it is."""
    head = bytes(data[:16])
    begin = 0
    while head[:3] == b"ID3" and len(head) >= _ID3 and max(head[6:10]) < 0x80:
        begin += _ID3 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (_ID3 if head[5] & 0x10 else 0)
        head = bytes(data[begin : begin + 16])
    kind = _marked(head)
    if begin and kind not in (None, _FLAC, _AAC):  # what other kinds hold behind a tag, players do not find
        raise InputError(f"{where}: not a readable recording (a {kind.name} file behind an ID3 tag); convert it")
    if kind is None and finds_frames(data, begin):
        kind = _MP3
    if kind is None:
        raise InputError(f"{where}: not a readable recording ({_what_it_is(data)})")
    return kind, begin


def _marked(head: bytes) -> Kind | None:
    """The kind that 16 bytes begin; None for mp3, which has no mark of its own, and for what is unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _WAV
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _AIFF
    if head[4:8] in _BOXES:
        return _MP4
    if head[:1] == b"\xff" and len(head) > 6 and head[1] & 0xF6 == 0xF0:
        return _AAC
    return None


def _what_it_is(data: Data) -> str:
    """What a file that is no recording seems to be, and the way out where there is one."""
    head = bytes(data[:512])
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the recording itself; fetch it with `git lfs pull`"
    if head.startswith(b"version https://hawser"):
        return "a Git LFS pointer, not the recording itself; fetch it with `git lfs pull`"
    if _MARKUP.match(head):
        return "an HTML or XML page, such as a server sends in place of a file; download it again"
    if head.lstrip()[:1] in (b"{", b"[") and b'"' in head:
        return "JSON text, such as a server's error; download it again"
    for mark, name in _OTHERS:
        if head.startswith(mark):
            return f"{name}; {READABLE}"
    if not any(head):
        return "it begins with zeros alone; was it only set aside, and never written?"
    if not re.search(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]", head):
        return f"a text; {READABLE}"
    return f"of no known kind; {READABLE}"


_OTHERS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a png picture"),
    (b"\xff\xd8\xff", "a jpeg picture"),
    (b"%PDF", "a pdf document"),
    (b"#!AMR", "an amr recording"),
    (b"MThd", "a midi file, which holds notes and no sound"),
    (b"wvpk", "a WavPack recording"),
    (b"MAC ", "a Monkey's Audio recording"),
    (b"RIFF", "a RIFF file that is no wav"),
    (b"\x93NUMPY", "a numpy array"),
    (b"PAR1", "a Parquet file"),
)
