"""Whatever is done to good input, what comes of it is an InputError or a result that holds what it promises.

Each input is a hash of its number, so that a failure names the one that can be run again. They run in child processes:
a decoder that crashes or hangs is a finding, not the end of the tests. `EARWITNESS_FUZZ=10000` runs all of them, by
default a tenth runs.
"""

import csv
import faulthandler
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from earwitness.curriculum.identity import hash64
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.audio.waves import decode, probe, whole
from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.question import parse_question
from earwitness.datamodules.shards.index import SCHEMA, build_index, read_index, write_index
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.shards.tar import walk_tar
from earwitness.errors import InputError
from earwitness.tests.recordings import WRITTEN, encoded, samples

TOTAL = int(os.environ.get("EARWITNESS_FUZZ", 1_000))
SHARES = {"tar": 0.2, "json": 0.1, "audio": 0.45, "annotations": 0.125, "index": 0.125}
STALL_S, MEMORY = 60, 3 << 30
BLOCK = 512
KINDS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
KINDS |= {"opus": ("OGG", "OPUS"), "float.wav": ("WAV", "FLOAT")}
SPECIAL = [b"\0", b"\xff", b"\n", b'"', b"\\", b",", b"[", b"{", b"../", b"<|im_end|>", b"NaN", b"-Infinity", b"1e999"]
SPECIAL += [
    b"9" * 5_000,
    b"[" * 2_000,
    b"\xed\xa0\xbd",
    b"\\ud83d",
    b"\xef\xbb\xbf",
    b"OggS",
    b"fLaC",
    b"RIFF",
    b"data",
]
SPECIAL += [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0" * 512, b"\x1b[2J", b"\xe2\x80\xa8"]


class Dice:
    """Numbers that depend on the name and the seed alone."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.thrown = name, seed, 0

    def below(self, stop: int) -> int:
        self.thrown += 1
        return hash64(self.name, self.seed, self.thrown) % max(stop, 1)

    def pick(self, options):
        return options[self.below(len(options))]

    def bytes(self, count: int) -> bytes:
        return bytes(self.below(256) for _ in range(count))


def bent(dice: Dice, data: bytes) -> bytes:
    """The bytes with one to three changes."""
    out = bytearray(data)
    for _ in range(1 + dice.below(3)):
        place, size = dice.below(len(out)), 1 + dice.below(dice.pick([4, 64, 1_024]))
        what = dice.below(9)
        if what == 0:
            for _ in range(1 + dice.below(20)):
                if out:
                    out[dice.below(len(out))] ^= 1 << dice.below(8)
        elif what == 1:
            del out[place:]
        elif what == 2:
            del out[place : place + size]
        elif what == 3:
            other = dice.below(len(out))
            first, second = sorted((place, other))
            width = min(size, second - first, len(out) - second)
            a, b = out[first : first + width], out[second : second + width]
            out[first : first + width], out[second : second + width] = b, a
        elif what == 4:
            out[place:place] = dice.bytes(min(size, 40))
        elif what == 5:
            out[place:place] = dice.pick(SPECIAL)
        elif what == 6:
            special = dice.pick(SPECIAL)
            out[place : place + len(special)] = special
        elif what == 7:
            out[place:place] = out[place : place + size]
        else:
            out[place : place + size] = b"\0" * len(out[place : place + size])
    return bytes(out)


def record(name: str, **more) -> dict:
    fixed = {"source_dataset": "fuzz", "id": f"id-{name}-of-one", "question_type": "sound", "answer": "Water"}
    return fixed | {"question": f"What is heard in {name}?", "choices": ["Wind", "Water", "Ein Bär"]} | more


def sound(number: int, kind: str = "flac", samples: int = 800) -> bytes:
    wave = 0.1 * np.random.default_rng(number).normal(size=samples)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16_000, format=KINDS[kind][0], subtype=KINDS[kind][1])
    return buffer.getvalue()


def packed(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Marked:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


SAMPLES = {name: (json.dumps(record(name)).encode(), sound(n)) for n, name in enumerate("abc")}
SAMPLES["m"] = (json.dumps({"questions": [record("m"), record("n"), record("o")]}).encode(), sound(9, "wav"))
ENDINGS = {"m": "wav"}
GOOD = packed([("y.json", json.dumps(record("y")).encode()), ("y.mp3", sound(5, "mp3", 1_600))])


def members_of(name: str) -> list[tuple[str, bytes]]:
    text, data = SAMPLES[name]
    return [(f"{name}.json", text), (f"{name}.{ENDINGS.get(name, 'flac')}", data)]


# Archives.

FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100)]
FIELDS += [(257, 8), (265, 32), (329, 8), (345, 155)]
VALUES = [b"77777777777\0", b"\x80" + b"\0" * 7 + b"\x01\0\0\0", b"\xff" * 12, b"-1", b"0", b"00000001000\0", b" ", b""]
VALUES += [b"../x.json", b"/tmp/x", b"a.json", b"b.flac", b"c.pkl", b"a\nb.json", b"\xff\xfe", b"ustar  \0", b"x" * 155]
VALUES += [b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V", b"N", b"D", b"M", b"\0"]


def with_header(unit: bytes, start: int, width: int, value: bytes, repaired: bool = True) -> bytes:
    """The unit of a header and its content with a field changed, and the checksum made right again."""
    header = bytearray(unit[:BLOCK])
    header[start : start + width] = value[:width].ljust(width, b"\0")
    if repaired and start != 148:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header) + unit[BLOCK:]


def unit_of(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    unit = packed([("x", data)])[: BLOCK + -(-len(data) // BLOCK) * BLOCK]
    return with_header(with_header(unit, 0, 100, name.encode()), 156, 1, kind)


def pax(dice: Dice) -> bytes:
    key = dice.pick(["path", "size", "mtime", "GNU.sparse.size", "linkpath"])
    value = dice.pick(["1", "a.json", "../x", "9" * 9])
    body = f"{key}={value}\n"
    length = dice.pick([len(body) + 3, len(body) + 3, len(body), 0, 999, 99999])
    return unit_of("pax", f"{length:02} {body}".encode(), dice.pick([b"x", b"x", b"g", b"L"]))


def bent_tar(dice: Dice, marker: Path) -> bytes:
    """Members exchanged, lost, doubled, renamed; headers edited; foreign members; then perhaps bytes of the whole."""
    units = [unit_of(name, data) for key in SAMPLES for name, data in members_of(key)]
    for _ in range(dice.below(3)):
        place, other = dice.below(len(units)), dice.below(len(units))
        what = dice.below(8)
        if what == 0:
            units[place], units[other] = units[other], units[place]
        elif what == 1 and len(units) > 2:
            del units[place]
        elif what == 2:
            units.insert(other, units[place])
        elif what == 3:
            units[place] = units[other][:100] + units[place][100:]
            units[place] = with_header(units[place], 136, 12, b"00000000000\0")
        elif what == 4:
            units[place] = units[place][:BLOCK] + bent(dice, units[place][BLOCK:])[: len(units[place]) - BLOCK]
            units[place] += b"\0" * (-len(units[place]) % BLOCK)
        elif what == 5:
            name = dice.pick(["a.pkl", "a.npy", "z.json", "z.flac", "a.txt", "__pycache__/x.pyd", "b.json.gz"])
            units.insert(place, unit_of(name, pickle.dumps(Marked(marker))))
        elif what == 6:
            units.insert(place, pax(dice))
        else:
            for _ in range(1 + dice.below(3)):
                start, width = dice.pick(FIELDS)
                value = dice.pick(VALUES) if dice.below(4) else dice.bytes(width)
                units[place] = with_header(units[place], start, width, value, repaired=bool(dice.below(5)))
    data = b"".join(units) + b"\0" * dice.pick([2 * BLOCK, 2 * BLOCK, 2 * BLOCK, 10_240, BLOCK, 0])
    return data if dice.below(3) else bent(dice, data)


def sound_archive(path: Path) -> dict[str, list[tuple[str, bytes]]] | None:
    """Members by key where the archive is whole, else None; tarfile must find the same members in it."""
    try:
        members = list(walk_tar(path))
    except InputError:
        return None
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        theirs = [(m.offset_data, m.size) for m in tar if m.isreg()]
    assert [(m.offset, m.size) for m in members if not m.name.endswith("/")] == theirs
    by_key: dict[str, list[tuple[str, bytes]]] = {}
    for member in members:
        by_key.setdefault(member.key, []).append((member.name, data[member.offset : member.offset + member.size]))
    by_key["*"] = [(m.key, b"") for m in members]
    return by_key


def expected_in(by_key: dict[str, list[tuple[str, bytes]]]) -> set[str]:
    """Questions that nothing was done to: their two members stand together, and no other text has their identity."""
    texts = b"".join(
        data for key, members in by_key.items() if key != "*" for name, data in members if ".json" in name.lower()
    )
    found = set()
    for key in SAMPLES:
        places = [n for n, (name, _) in enumerate(by_key["*"]) if name == key]
        if sorted(by_key.get(key, [])) == sorted(members_of(key)) and places == [places[0], places[0] + 1]:
            names = re.findall(rb'"id": "([^"]+)"', SAMPLES[key][0])
            found |= {f"fuzz/{name.decode()}" for name in names if texts.count(b'"' + name + b'"') == 1}
    return found


def check_shards(dice: Dice, folder: Path, data: bytes) -> None:
    """Indexes a bent shard beside a good one in both ways, and reads everything back."""
    (folder / "x.tar").write_bytes(data)
    (folder / "y.tar").write_bytes(GOOD)
    index, decoded = folder / "index.arrow", bool(dice.below(2))
    by_key = sound_archive(folder / "x.tar")
    try:
        counts = build_index(str(folder), decode=decoded)
        assert by_key is not None and counts["members"] == counts["indexed"]
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 2_000
    counts = build_index(str(folder), on_bad="quarantine", decode=decoded)
    report = folder / "index.quarantine.jsonl"
    faults = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    assert counts["members"] == counts["indexed"] + counts.get("quarantined", 0)
    assert counts.get("quarantined", 0) == sum(len(fault["members"]) for fault in faults)
    assert (by_key is None) == bool(counts.get("damaged_shards"))
    reader = ShardReader(index)
    keys = [reader.key(row) for row in range(len(reader))]
    assert len(set(keys)) == len(keys) == counts["questions"] and "fuzz/id-y-of-one" in keys
    if by_key is None:
        assert keys == ["fuzz/id-y-of-one"]
    else:
        assert counts["members"] == len(by_key["*"]) + 2
        assert expected_in(by_key) <= set(keys), expected_in(by_key) - set(keys)
    for row, key in enumerate(keys):
        question = reader.question(row)
        assert question.key == key and question.answer in question.choices
        try:
            check_wave(reader.wave(row), reader.num_samples(row))
        except InputError as error:  # damage inside a recording that was not decoded
            assert not decoded and key != "fuzz/id-y-of-one", error
    for path in (index, report):
        path.unlink(missing_ok=True)


def check_wave(wave: np.ndarray, num_samples: int) -> None:
    assert wave.dtype == np.float32 and wave.shape == (num_samples,) and 400 <= num_samples <= 300 * 16_000
    assert np.abs(wave).max() <= 20  # 16 before resampling, which rings


def one_tar(dice: Dice, folder: Path) -> None:
    check_shards(dice, folder, bent_tar(dice, folder.parent / "executed"))


# Texts.

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|\w+')
TOKENS = [
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'" "',
    b"NaN",
    b"1e999",
    b"-0",
    b"9" * 5_000,
    b'"\\ud83d"',
    b'"\\u0000"',
]
TOKENS += [
    b"[" * 990 + b"]" * 990,
    b"[" * 9_999,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b'"<|AUDIO|>"',
    b'"' + b"x" * 9_000 + b'"',
]
TOKENS += [
    b'"questions"',
    b'"choices"',
    b'"split"',
    b'"val"',
    b'"Water"',
    b'"id"',
    b",",
    b":",
    b"[",
    b"]",
    b"{",
    b"}",
    b"'",
]


def bent_text(dice: Dice, text: bytes) -> bytes:
    """JSON with some tokens replaced, doubled or taken away, or bent as bytes."""
    for _ in range(1 + dice.below(3)):
        tokens = [match.span() for match in TOKEN.finditer(text)]
        if not tokens or not dice.below(3):
            text = bent(dice, text)
            continue
        start, end = dice.pick(tokens)
        new = [dice.pick(TOKENS), text[start:end] + b"," + text[start:end], b"", text[slice(*dice.pick(tokens))]]
        text = text[:start] + dice.pick(new) + text[end:]
    return text


def one_json(dice: Dice, folder: Path) -> None:
    key = dice.pick([*SAMPLES])
    members = [member for name in SAMPLES for member in members_of(name)]
    members = [(name, bent_text(dice, data) if name == f"{key}.json" else data) for name, data in members]
    check_shards(dice, folder, packed(members))


# Recordings.

SOUNDS = {kind: [sound(n, kind, 1_600 * (1 + n)) for n in range(2)] for kind in KINDS}
SOUNDS["flac"].append(sound(4, "flac", 20_000))
for written, (muxer, encoder, options, _) in WRITTEN.items():
    rate = 48_000 if encoder == "libopus" else 16_000
    SOUNDS[written] = [
        encoded(samples(rate, seconds, channels), rate, muxer, encoder, options)
        for seconds, channels in ((0.1, 1), (0.3, 2))
    ]


def bent_sound(dice: Dice, kind: str) -> bytes:
    """Bytes bent, or numbers in the header made huge."""
    data = dice.pick(SOUNDS[kind])
    if dice.below(3) == 0:
        out = bytearray(data)
        for _ in range(1 + dice.below(4)):
            place, width = dice.below(dice.pick([64, 256])), dice.pick([1, 2, 4, 8])
            value = dice.pick(
                [(1 << 8 * width) - 1, (1 << 8 * width - 1) - 1, 1 << 8 * width - 1, 0, 1, 200, dice.below(1 << 63)]
            )
            number = (value % (1 << 8 * width)).to_bytes(width, dice.pick(["little", "big"]))
            out[place : place + width] = number
        return bytes(out)
    if kind == "flac" and dice.below(4) == 0:
        out = bytearray(data)
        rate, channels, frames = dice.below(1 << 20), dice.below(8), dice.below(1 << dice.pick([10, 20, 36]))
        out[18:26] = (rate << 44 | channels << 41 | 15 << 36 | frames).to_bytes(8, "big")
        return bytes(out)
    return bent(dice, data)


def one_audio(dice: Dice, folder: Path) -> None:
    """All three readers; what `whole` lets pass is as long as `probe` says, and finite."""
    data = bent_sound(dice, dice.pick([*SOUNDS]))
    found: dict[str, object] = {}
    for read in (probe, decode, whole):
        try:
            read_one = read(data, "clip")
            found[read.__name__] = read_one.wave if read is whole else read_one
        except InputError as error:
            assert str(error).startswith("clip: ") and str(error).isprintable()
    for name in ("decode", "whole"):
        if name in found:
            check_wave(found[name], len(found[name]))
    assert ("whole" in found) == ("probe" in found and "decode" in found and len(found["decode"]) == found["probe"])


# Annotations.

RECORDS = [
    record(str(n), audio_path=f"clips/{n}.wav", split="train", structured_cot=f"Line one,\nand {n}.") for n in range(6)
]


def annotations(kind: str) -> bytes:
    if kind == "json":
        return json.dumps(RECORDS, indent=1).encode()
    if kind == "jsonl":
        return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in RECORDS)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, RECORDS[0])
    writer.writeheader()
    writer.writerows(r | {"choices": json.dumps(r["choices"])} for r in RECORDS)
    return buffer.getvalue().encode()


FILES = {kind: annotations(kind) for kind in ("json", "jsonl", "csv")}
COLUMNS = [None, {"structured_cot": "cot"}, {"choices": ["answer", "question"]}, {"split": "question_type"}]


def one_annotation_file(dice: Dice, folder: Path) -> None:
    kind = dice.pick([*FILES])
    data = bent_text(dice, FILES[kind]) if kind != "csv" or dice.below(2) else bent(dice, FILES[kind])
    path = folder / f"q.{kind}"
    path.write_bytes(data)
    columns = dice.pick(COLUMNS) if not dice.below(4) else None
    faults: list[str] = []
    try:
        read_annotations(path, Fields(columns or {}))
    except InputError as error:
        assert str(path) in str(error) and str(error).isprintable() and len(str(error)) < 2_000
    try:
        rows = read_annotations(path, Fields(columns or {}), faults)
    except InputError:
        rows = []
    for question, audio_path, row, _ in rows:
        assert parse_question(question.record(), "again") == question and audio_path.strip() and row == -1
    if kind == "jsonl" and columns is None and rows:
        lines, ids = Counter(data.split(b"\n")), [row.question.id for row in rows]
        for line, source in zip(FILES[kind].split(b"\n"), RECORDS, strict=False):
            if lines[line] == 1 and data.count(f'"{source["id"]}"'.encode()) == 1:
                assert source["id"] in ids
        assert len(rows) + len(faults) == sum(bool(line.strip()) for line in data.split(b"\n"))


# Index files.


def one_index(dice: Dice, folder: Path) -> None:
    """Bytes bent: refused, or the very same table. Values changed and hashed again: only InputErrors while reading."""
    path = folder / "index.arrow"
    (folder / "x.tar").write_bytes(packed([member for name in SAMPLES for member in members_of(name)]))
    build_index(str(folder))
    table, root, shards = read_index(path)
    if dice.below(2):
        data = path.read_bytes()
        if dice.below(2):  # the numbers of the file's own layout stand at its end
            tail = len(data) - 4_000
            data = data[:tail] + bent(dice, data[tail:])
        else:
            data = bent(dice, data)
        path.write_bytes(data)
        try:
            reader = ShardReader(path)
        except InputError as error:
            assert str(path) in str(error)
            return
        assert read_arrow(path).equals(table) and len(reader) == len(table)
        return
    about = {"root": root, "shards": {name: [shard.size, shard.etag] for name, shard in shards.items()}}
    for _ in range(1 + dice.below(3)):
        name = dice.pick(SCHEMA.names)
        values = table.column(name).to_pylist()
        place = dice.below(len(values))
        if isinstance(values[place], str) or values[place] is None:
            values[place] = dice.pick(
                ["", None, "../x.tar", "y.tar", "x.tar", "/etc/passwd", "a\0b", "pipe:true", "mp3"]
            )
        else:
            values[place] = type(values[place])(dice.pick([0, 1, 2, 400, 1 << 30, 1 << 62, dice.below(9_999), -1]))
        try:
            column = pa.array(values, SCHEMA.field(name).type)
        except (pa.ArrowInvalid, OverflowError):
            continue
        table = table.set_column(SCHEMA.names.index(name), SCHEMA.field(name), column)
    write_index(table, about, path)
    try:
        reader = ShardReader(path)
    except InputError:
        return
    for row in range(len(reader)):
        for read in (reader.question, reader.wave):
            try:
                read(row)
            except InputError as error:
                assert len(str(error)) < 4_000


# Running them.


def child(
    work: Callable[[Dice, Path], None], name: str, seeds: range, folder: Path, progress: Path, memory: int = MEMORY
) -> None:
    """Runs in a process of its own; the seed it works on stands in one file, every failure is a line of another."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    faulthandler.disable()
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()  # with the tests before
    resource.setrlimit(resource.RLIMIT_AS, (there + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    now = os.open(progress, os.O_RDWR | os.O_CREAT)
    for seed in seeds:
        os.pwrite(now, struct.pack("<q", seed), 0)
        try:
            work(Dice(name, seed), folder)
        except BaseException:
            with progress.with_suffix(".failures").open("a") as file:
                file.write(json.dumps({"seed": seed, "why": traceback.format_exc()[-3_000:]}) + "\n")
    os.pwrite(now, struct.pack("<q", -1), 0)


def supervised(
    work: Callable[[Dice, Path], None], name: str, seeds: range, folder: Path, memory: int = MEMORY
) -> list[str]:
    """The failures of a child, that it died or that it stood still among them; after a death a new one goes on."""
    failures, progress, start = [], folder.parent / "progress", seeds.start
    while start < seeds.stop:
        progress.write_bytes(struct.pack("<q", start))
        process = os.fork()
        if not process:
            try:
                child(work, name, range(start, seeds.stop), folder, progress, memory)
            finally:
                os._exit(0)
        at, since, status = start, time.monotonic(), None
        while status is None:
            ended, code = os.waitpid(process, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
                break
            (seed,) = struct.unpack("<q", progress.read_bytes()[:8])
            if seed != at:
                at, since = seed, time.monotonic()
            elif time.monotonic() - since > STALL_S:
                failures.append(f"{name} {at}: stood still for {STALL_S} s")
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                status = 0
            time.sleep(0.01)
        (at,) = struct.unpack("<q", progress.read_bytes()[:8])
        if status:
            failures.append(f"{name} {at}: the process ended with {status}")
        start = seeds.stop if at < 0 else at + 1
    told = progress.with_suffix(".failures")
    failures += (
        [f"{name} {line['seed']}:\n{line['why']}" for line in map(json.loads, told.read_text().splitlines())]
        if told.exists()
        else []
    )
    return failures


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


WORK = {"tar": one_tar, "json": one_json, "audio": one_audio, "annotations": one_annotation_file, "index": one_index}


@pytest.mark.parametrize("name", WORK)
@pytest.mark.timeout(3_600)
def test_bent_input_is_an_input_error_or_holds_what_it_promises(tmp_path, name):
    """Nothing crashes, hangs, takes 3 GiB, is executed, or writes outside the folder it works in."""
    folder = tmp_path / "in" / "shards"
    folder.mkdir(parents=True)
    failures = supervised(WORK[name], name, range(round(TOTAL * SHARES[name])), folder)
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failure[-1_500:] for failure in failures[:5])
    allowed = {"in", "in/shards", "in/progress", "in/shards/x.tar", "in/shards/y.tar", "in/shards/index.arrow"}
    assert tree(tmp_path) <= allowed | {f"in/shards/q.{kind}" for kind in FILES}


def test_the_supervisor_notices_what_it_is_there_for(tmp_path):
    """A wrong kind of error, a crash and a process that ends itself are told apart from a good end, with the seed."""
    (tmp_path / "in").mkdir()

    def work(dice: Dice, folder: Path) -> None:
        if dice.seed == 1:
            raise IndexError("wrong kind")
        if dice.seed == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if dice.seed == 5:
            os._exit(7)

    failures = supervised(work, "made up", range(8), tmp_path / "in")
    assert sorted(failure.partition("\n")[0] for failure in failures) == [
        "made up 1:",
        "made up 3: the process ended with -11",
        "made up 5: the process ended with 7",
    ]
    assert any("IndexError: wrong kind" in failure for failure in failures)
