"""Frames of MPEG audio: how many there are, how many were announced, and whether the last one is whole.

An mp3 has no header of its own. Its first frame may be silent and hold a count of the others (Xing, Info or VBRI); else
the frames themselves are all there is to count. Field layout: ISO/IEC 11172-3, section 2.4.1.3, and 13818-3.
"""

from __future__ import annotations

from mmap import mmap
from typing import NamedTuple

Data = bytes | mmap  # of a whole file

_BITRATES = {  # kbit/s by (MPEG 1?, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
_SEARCH = 1 << 16  # bytes of something else before the first frame


class Frame(NamedTuple):
    """A frame's place in the file, its size in bytes, and its sample rate in Hz."""

    at: int
    size: int
    rate: int


def frame_at(data: Data, at: int) -> Frame | None:
    """The frame that begins at a place, by its four bytes of header; None where none does, or its size is free."""
    head = bytes(data[at : at + 4])
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    bits = 1_000 * _BITRATES[version == 3, layer][bitrate]
    hertz = _RATES[rate] >> (3 - version if version else 2)
    if layer == 1:
        return Frame(at, (12 * bits // hertz + padding) * 4, hertz)
    return Frame(at, (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding, hertz)


def finds_frames(data: Data, begin: int = 0) -> bool:
    """Whether frames begin there, or behind up to 64 KiB of something else: three in a row, or all to the end."""
    return _first(data, begin) is not None


def _first(data: Data, begin: int) -> Frame | None:
    place, end = data.find(b"\xff", begin), min(len(data), begin + _SEARCH)
    while 0 <= place < end:
        found = frame_at(data, place)
        if found is not None and _followed(data, found):
            return found
        place = data.find(b"\xff", place + 1)
    return None


def _followed(data: Data, first: Frame) -> bool:
    """Whether two more frames of the same rate stand behind a frame, as far as the file goes."""
    at = first.at + first.size
    for number in range(2):
        following = frame_at(data, at)
        if following is None or following.rate != first.rate:
            return at == len(data) or (number > 0 and (at >= len(data) - 3 or _is_tag(data, at)))
        at += following.size
    return True


def cut_off_mp3(data: Data, begin: int = 0) -> str:
    """Why an mp3 cannot be whole: fewer frames than announced, or half a frame at the end; "" where nothing shows.

    What lies between frames is skipped, as decoders do. A file without a count that was cut between two frames is as
    good as any other.
    """
    first = _first(data, begin)
    if first is None:
        return ""
    announced, count, at = _announced(data, first), 0, first.at
    while True:
        frame = frame_at(data, at)
        if frame is None:
            at = _next(data, at)
            if at < 0:
                break
            continue
        if frame.at + frame.size > len(data):
            return "the mp3 file is cut off; its last frame is not whole"
        count += 1
        at += frame.size
    if announced and count < announced:
        return f"the mp3 file is cut off; it holds {count} of the {announced} frames that it announces"
    return ""


def _next(data: Data, at: int) -> int:
    """Where the next frame stands that another or the end follows; -1 for none. Tags are passed over whole."""
    if data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = bytes(data[at + 6 : at + 10])
        return at + 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) if max(size) < 0x80 else -1
    if data[at : at + 3] == b"TAG" and len(data) - at <= 128:
        return -1
    place = data.find(b"\xff", at + 1)
    while place >= 0:
        frame = frame_at(data, place)
        if frame is not None and _followed(data, frame):
            return place
        place = data.find(b"\xff", place + 1)
    return -1


def _is_tag(data: Data, at: int) -> bool:
    return bytes(data[at : at + 12]).startswith(_TAGS)


def _announced(data: Data, first: Frame) -> int:
    """Frames that the first one announces (Xing, Info or VBRI), with itself or without; 0 where it does not."""
    body = bytes(data[first.at : first.at + min(first.size, 200)])
    for mark in (b"Xing", b"Info"):
        place = body.find(mark, 4, 48)
        if place >= 0 and body[place + 7 : place + 8] and body[place + 7] & 1:
            return int.from_bytes(body[place + 8 : place + 12], "big")
    if body[36:40] == b"VBRI":
        return int.from_bytes(body[50:54], "big")
    return 0
