"""The laws that every reader passes on files in the published formats, and what it says of malformed ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from earwitness.datamodules.sources.audio_files import AudioFiles
from earwitness.datamodules.sources.item import TYPES, Found, Item, license_of, license_tags
from earwitness.datamodules.sources.registry import READERS, read_source, with_audio
from earwitness.errors import InputError
from earwitness.tests.places import SHARED

SAMPLES = SHARED / "data" / "sources"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample files beside the repository")
OPTIONS = {"audiocaps": {"version": "v2"}}


def read(reader: str, folder: Path | None = None, faults: list[str] | None = None, **more) -> tuple[list[Item], Found]:
    found = Found(faults=faults)
    options = OPTIONS.get(reader, {}) | more
    return list(read_source(reader, str(folder or SAMPLES / reader), found, options)), found


@pytest.mark.parametrize("reader", READERS)
def test_identities_are_unique_and_the_same_again(reader):
    items, _ = read(reader)
    assert items and len({item.uid for item in items}) == len(items)
    assert [item.id for item in read(reader)[0]] == [item.id for item in items]


@pytest.mark.parametrize("reader", READERS)
def test_an_item_is_whole(reader):
    """Texts in the right encoding, a licence and a split, types that can be asked; JSON brings it back."""
    for item in read(reader)[0]:
        texts = [*item.texts, *map(str, item.facts.values())]
        assert all(text and text == text.strip() for text in item.texts) and item.names
        assert not any(mark in text for text in texts for mark in ("\ufeff", "\ufffd", "Ã", "\r"))
        assert item.license and item.split in ("train", "val", "test") and set(item.types) <= set(TYPES)
        assert re.fullmatch(r"(youtube|freesound|magnatagatune|libritts):\S+|", item.origin)
        assert Item.of(json.loads(json.dumps(item.record()))) == item


@pytest.mark.parametrize("reader", READERS)
def test_missing_recordings_are_listed_and_every_name_finds_one(reader, tmp_path):
    items, _ = read(reader)
    missing: list[str] = []
    assert list(with_audio(iter(items), AudioFiles(tmp_path), False, missing)) == [] and len(missing) == len(items)
    assert missing[0].startswith(f"{items[0].source}/{items[0].id}\t")
    for number, name in enumerate(items[0].names):
        folder = tmp_path / str(number) / "some where"
        path = folder / (name if name.rpartition(".")[2] in ("wav", "mp3") else f"{name}.FLAC")
        path.parent.mkdir(parents=True)
        path.touch()
        (here,) = with_audio(iter(items[:1]), AudioFiles(tmp_path, str(number)), True, [])
        assert (tmp_path / here.audio).is_file() and here.audio.startswith(f"{number}/")
        assert here.cut == (items[0].at is not None)


def numbers(text: str, line: str) -> list[int]:
    """The whole numbers of the line that begins so."""
    (found,) = [each for each in text.splitlines() if each.startswith(line)]
    return [int(number) for number in re.findall(r"(?<![\w.])\d+(?!\w)", found[len(line) :])]


def test_counts_are_those_of_the_publishers_loaders():
    told = subprocess.run(
        [sys.executable, str(SAMPLES / "check.py")], capture_output=True, text=True, check=True
    ).stdout
    clotho, counted = read("clotho")
    development = [item for item in clotho if item.split == "train"]
    licences = [item.license for item in development]
    assert numbers(told, "clotho dev clips")[:2] == [len(development), sum(len(i.texts) for i in development)]
    kinds = {"zero": "cc0-1.0", "by-nc": "cc-by-nc-3.0", "by": "cc-by-3.0", "sampling+": "sampling+-1.0"}
    assert all(f"'{kind}': {licences.count(name)}" in told for kind, name in kinds.items())
    assert counted.counts["clips"] == 8 and sum(item.at is None for item in development) == 3
    for version, line in (("v1", "audiocaps dataset rows"), ("v2", "audiocaps dataset2.0 rows")):
        _, counted = read("audiocaps", version=version)
        assert numbers(told, line) == [counted.counts["train rows"], counted.counts["train clips"]]
    _, counted = read("musiccaps")
    assert numbers(told, "musiccaps") == [counted.counts[name] for name in ("rows", "train", "aspects")]
    items, counted = read("compa_r")
    assert numbers(told, "compa-r flat") == [
        counted.counts["flat rows"],
        counted.counts["flat rows"] - counted.counts["without audio"],
        counted.counts["nested pairs"],
    ]
    assert len(items) == 6 and len({item.names[0] for item in items}) == counted.counts["clips"] == 2
    _, counted = read("tacos")
    wanted = [counted.counts[name] for name in ("events", "clips", "weak", "metadata")]
    assert wanted == [*numbers(told, "tacos events")[:3], numbers(told, "tacos events")[-1]]
    items, _ = read("speechcraft")
    assert numbers(told, "speechcraft")[0] == len(items)


def test_quirks_are_read_as_they_are_meant():
    clotho = {item.id: item for item in read("clotho")[0]}
    assert (
        clotho["Crowd ambience, eating popcorn.wav"].texts[1] == 'A made-up caption with a "quoted" word, and a comma.'
    )
    assert clotho["A swing is squeaking at night. (Ukraine.wav"].origin == ""
    assert clotho["opening and closing a loft door.wav"].origin == "freesound:250020"
    assert "121006_rain&storm.wav" in clotho["121006_rain&amp;storm.wav"].names
    at = clotho["Distorted AM Radio noise.wav"].at
    assert at == pytest.approx((139264 / 44100, 1293089 / 44100))
    music = {item.id: item for item in read("musiccaps")[0]}
    assert music["-0Gj8-vB1q4"].texts == ("A made-up slow song.",) and music["-0Gj8-vB1q4"].split == "test"
    assert music["-0SdAVK79lg"].texts == ("Made-up guitars play. Somebody claps.",)
    assert "low quality" in {i.id: i for i in read("musiccaps", unheard=True)[0]}["-0Gj8-vB1q4"].texts[0]
    (first, _) = read("lp_musiccaps_mtt")[0]
    assert len(first.texts) == 3 and len(read("lp_musiccaps_mtt", attributes=True)[0][0].texts) == 4
    tacos = read("tacos")[0]
    assert [item.facts["event"] for item in tacos][-1] == 'A made-up "bang"' and len(tacos) == 4
    assert tacos[0].at == (0.0, 15.0) and tacos[-1].split == "test" and tacos[0].license == "cc-by-3.0"
    speech = {item.id: item for item in read("speechcraft")[0]}
    shuffled = speech["174_50561_000015_000002"]
    assert shuffled.facts["labels"]["age"] == "youth adult" and shuffled.facts["transcript"] == "Tags shuffled."
    assert speech["84_121123_000007_000001"].facts["transcript"] == "Made-up words: with a colon."
    assert "emotion" not in speech["84_121123_000008_000000"].facts["labels"]


def test_a_later_file_of_another_form_agrees(tmp_path):
    """The table without header alone gives the same utterances; TACOS's older files name the column caption."""
    shutil.copy(SAMPLES / "speechcraft" / "labels_clusterd.scp", tmp_path)
    items, _ = read("speechcraft", tmp_path)
    assert len(items) == 3 and items[0].facts["transcript"] == "He's \"made up\", isn't he?"
    assert items[0].facts["labels"]["speed"] == "fast" and items[0].facts["labels"]["volume"] == "high"
    shutil.copytree(SAMPLES / "tacos", tmp_path / "tacos")
    (tmp_path / "tacos" / "annotations_weak.csv").unlink()
    assert read("tacos", tmp_path / "tacos")[0][0].texts == ("A made-up road with birds",)


# reader, file, what is done to its bytes, what the message says beside the file's name
MALFORMED = [
    (
        "clotho",
        "clotho_captions_development.csv",
        lambda b: b.replace(b"caption_3", b"caption3", 1),
        "no column caption_3",
    ),
    ("clotho", "clotho_captions_development.csv", lambda b: b[: b.rindex(b'"')], "unexpected end of data"),
    ("clotho", "clotho_metadata_development.csv", lambda b: b.replace(b"[139264, 1293089]", b"[139264]"), "start_end"),
    (
        "clotho",
        "clotho_metadata_development.csv",
        lambda b: b.replace(b"20100402", b"2010"),
        "is not in clotho_metadata",
    ),
    (
        "audiocaps",
        "dataset2.0/train.csv",
        lambda b: b.replace(b",130,", b",soon,", 1),
        ":2: start_time must be a number",
    ),
    ("audiocaps", "dataset2.0/train.csv", lambda b: b.replace(b"r1nicOVtvkQ", b"r1nic", 1), ":2: needs an audiocap_id"),
    ("audiocaps", "dataset2.0/train.csv", lambda b: b + b"1,2\n", ":8: has 2 fields"),
    ("audiocaps", "dataset2.0/val.csv", lambda b: b.decode().encode("utf-16"), "not utf-8"),
    ("musiccaps", "musiccaps-public.csv", lambda b: b.replace(b"['dance']", b"dance"), "aspect_list must be a list"),
    ("lp_musiccaps_mtt", "train-00000-of-00001.parquet", lambda b: b[:2_000], "not a readable Parquet file"),
    ("compa_r", "flat.json", lambda b: b.replace(b'"output": "Text."', b'"output": 7'), "[3]: needs audio_id"),
    ("compa_r", "nested.json", lambda b: b[:300], "nested.json"),
    (
        "tacos",
        "annotations_strong.csv",
        lambda b: b.replace(b"4.812", b"-1"),
        ":2: needs filename, text and 0 <= onset",
    ),
    ("tacos", "annotations_strong.csv", lambda b: b.replace(b"offset", b"end", 1), "no column offset"),
    (
        "speechcraft",
        "labels_dict.json",
        lambda b: b.replace(b"pitch:low", b"pitch low"),
        "'pitch low' is not name:value",
    ),
    ("speechcraft", "labels_clusterd.scp", lambda b: b"a\tb\n" + b, ":1: has 2 fields between tabs"),
    ("speechcraft", "description_plain.json", lambda b: b.replace(b"}", b""), "not JSON"),
]


@pytest.mark.parametrize(("reader", "name", "change", "said"), MALFORMED, ids=lambda v: v if isinstance(v, str) else "")
def test_a_malformed_file_is_named(reader, name, change, said, tmp_path):
    folder = tmp_path / reader
    shutil.copytree(SAMPLES / reader, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as told:
        read(reader, folder)
    assert said in str(told.value) and (path.name in str(told.value) or str(folder) in str(told.value))


def test_a_bad_record_can_be_left_out(tmp_path):
    shutil.copytree(SAMPLES / "tacos", tmp_path / "tacos")
    path = tmp_path / "tacos" / "annotations_strong.csv"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"4.812", b"-1"))
    faults: list[str] = []
    items, counted = read("tacos", tmp_path / "tacos", faults)
    assert len(faults) == 1 and counted.counts["events"] == 4 and len(items) == 4


def test_wrong_names_are_told():
    with pytest.raises(InputError, match="did you mean 'audiocaps'"):
        read("audiocap")
    with pytest.raises(InputError, match="no such folder of annotation files"):
        read("clotho", Path("nowhere"))
    with pytest.raises(InputError, match="version of AudioCaps is v1 or v2"):
        read("audiocaps", version="v3")
    for reader in READERS:
        with pytest.raises(InputError):
            read(reader, SAMPLES / ("tacos" if reader != "tacos" else "clotho"))


def test_licences_are_words():
    assert license_of("http://creativecommons.org/licenses/by-nc/3.0/") == "cc-by-nc-3.0"
    assert license_of("") == "unstated" and "nc" in license_tags("MIT (card), CC-BY-NC-4.0 (repository)")
    assert license_tags("sampling+-1.0") >= {"sampling+"} and "nc" not in license_tags("unstated concert")
