"""Questions about real recordings of spoken digits: which digit, who speaks, which comes when, how many.

Reads a tar of `recordings/{digit}_{speaker}_{n}.wav` (the layout of the Free Spoken Digit Dataset) in place; nothing is
extracted. Recordings 5 to 9 of every speaker and digit are held out for the test split; 10 to 12 are for validation,
13 to 29 for the bank's training questions and the rest for `listening`. Temporal and counting questions join several
recordings of one speaker. Weak questions leak by logic ("the number after four") or prior knowledge ("the legs of a
spider").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...boundary.files import open_regular
from ...curriculum.identity import hash64, uniforms
from ...errors import InputError
from ..audio.waves import SAMPLE_RATE, decode
from ..questions.question import Question
from ..shards.tar import walk_tar
from . import balancing
from .balancing import QuestionSpec, World
from .writing import LOGIC, PRIOR, Draft, choose, shuffled, write_corpus

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = {"yweweler": "yves"}  # as one would say it; the other speakers go by the names in the files
COUNTS = ("one", "two", "three", "four")
ORDINALS = ("first", "second", "last")
RANGES = {"test": range(5, 10), "val": range(10, 13), "train": range(13, 30), "listening": range(30, 1_000)}
TURNS = 4 * ("digit",) + ("speaker",) + 4 * ("digit",) + ("order",) + 4 * ("digit",) + ("count",)
KNOWN = (
    ("the goals of a goalless half", "the wheels of a sledge"),
    ("the noses on a face", "the suns in our sky"),
    ("the wheels of a bicycle", "the wings of a bird"),
    ("the sides of a triangle", "the colours of a traffic light"),
    ("the wheels of a car", "the legs of a horse"),
    ("the fingers of a hand", "the rings of the Olympic flag"),
    ("the legs of an insect", "the faces of a cube"),
    ("the days of a week", "the colours of a rainbow"),
    ("the legs of a spider", "the arms of an octopus"),
    ("the lives of a cat", "the symphonies of Beethoven"),
)
LEAKED_COUNTS = {
    "one": "Two digits less one.",
    "two": "One digit and one more.",
    "three": "Two digits and one more.",
    "four": "Two digits and two more.",
}
_NAME = re.compile(r"(?:.*/)?(\d)_([a-z]+)_(\d+)\.wav")
Clips = Mapping[tuple[str, str], Mapping[int, np.ndarray]]


def build_spoken_digits(
    source: str,
    out: str,
    seed: int = 1,
    train: int = 1_800,
    val: int = 240,
    test: int = 960,
    strong_share: float = 0.5,
    listening: int = 3_600,
    reading: int = 400,
) -> dict[str, int]:
    """Writes the corpus into the folder `out`, replacing it; returns the numbers of questions and recordings.

    Args:
        source: the tar of recordings.
        train, val, test, strong_share, listening, reading: as in `build_sounds`.

    Raises InputError where the tar is damaged or lacks recordings.
    """
    clips = read_recordings(source)
    speakers = tuple(sorted({speaker for _, speaker in clips}))
    answers = {"digit": DIGITS, "speaker": speakers, "order": DIGITS, "count": COUNTS}
    leaks = {"digit": (LOGIC, PRIOR), "speaker": (LOGIC,), "order": (LOGIC,), "count": (LOGIC,)}
    world = World("digits", seed, TURNS, answers, leaks, lambda spec: draft(spec, clips, answers, seed))
    heard = balancing.listening(world, listening)
    jobs = [
        *balancing.bank(world, "train", train, strong_share),
        *balancing.bank(world, "val", val, 0.5),
        *balancing.bank(world, "test", test, 0.5),
        *(world.job(spec) for spec in heard),
        *balancing.reading(world, reading, heard),
    ]
    return write_corpus((job() for job in jobs), out, len(jobs))


def read_recordings(source: str) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """(digit word, speaker) -> recording number -> wave [n] at 16 kHz, read from the tar without extracting it.

    Raises InputError where not all ten digits by at least four speakers are there.
    """
    clips: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    members = list(walk_tar(source))
    with open_regular(source) as file:
        for member in members:
            if found := _NAME.fullmatch(member.name):
                file.seek(member.offset)
                wave = decode(file.read(member.size), f"{source}:{member.name}")
                key = (DIGITS[int(found[1])], NAMES.get(found[2], found[2]))
                clips.setdefault(key, {})[int(found[3])] = wave
    speakers = {speaker for _, speaker in clips}
    if len(speakers) < 4 or len(clips) != len(speakers) * len(DIGITS):
        raise InputError(f"{source}: needs recordings/DIGIT_SPEAKER_N.wav of all ten digits by at least four speakers")
    return clips


def draft(spec: QuestionSpec, clips: Clips, answers: Mapping[str, Sequence[str]], seed: int) -> Draft:
    """One question; which recordings it joins depends on (seed, clip) and the answer alone."""
    name, question_type, answer = (seed, spec.source, spec.identifier), spec.question_type, spec.answer
    speakers = answers["speaker"]
    speaker = answer if question_type == "speaker" else choose(speakers, seed, spec.clip, "speaker")
    spoken, ask = _spoken(question_type, answer, seed, spec.clip)
    if spec.caption:
        ask = {"digit": "Write down the digit.", "speaker": "Name the speaker."}.get(question_type, ask)
    if spec.kind == PRIOR:
        ask = f"The speaker counts {choose(KNOWN[DIGITS.index(answer)], *name, 'thing')}. {ask}"
    elif spec.kind == LOGIC:
        ask = f"{_leak(question_type, answer, ask)} {ask}"
    others = shuffled([word for word in answers[question_type] if word != answer], *name, "others")[:3]
    choices = shuffled((answer, *others), *name, "choices")
    question = Question(spec.source, spec.identifier, ask, choices, answer, question_type, spec.split)
    part = "listening" if spec.clip.startswith("listening") else spec.split
    return Draft(question, spec.clip, lambda: _wave(spoken, speaker, part, clips, seed, spec.clip), spec.kind)


def _spoken(question_type: str, answer: str, seed: int, clip: str) -> tuple[tuple[str, ...], str]:
    """The digits that are spoken, and the question about them."""
    if question_type == "digit":
        return (answer,), "Which digit is spoken?"
    if question_type == "speaker":
        return (choose(DIGITS, seed, clip, "digit"),), "Who is speaking?"
    if question_type == "count":
        return tuple(
            choose(DIGITS, seed, clip, k) for k in range(1 + COUNTS.index(answer))
        ), "How many digits are spoken?"
    place = hash64(seed, clip, "place") % 3
    length = 3 if place == 1 else 2 + hash64(seed, clip, "length") % 2
    digits = list(shuffled([d for d in DIGITS if d != answer], seed, clip, "digits")[:length])
    digits[(0, 1, -1)[place]] = answer
    return tuple(digits), f"Which digit comes {ORDINALS[place]}?"


def _leak(question_type: str, answer: str, ask: str) -> str:
    """The sentence that gives the answer away by logic."""
    if question_type == "speaker":
        return f"The speaker is called {answer}."
    if question_type == "count":
        return LEAKED_COUNTS[answer]
    if question_type == "order":
        return f"The digit that comes {ask.rpartition(' ')[2].rstrip('?')} is {answer}."
    place = DIGITS.index(answer)
    return f"It is the number after {DIGITS[place - 1]}." if place else "It is the number before one."


def _wave(spoken: tuple[str, ...], speaker: str, part: str, clips: Clips, seed: int, clip: str) -> np.ndarray:
    """The recordings one after the other, with pauses of 0.10 to 0.20 s."""
    pauses = uniforms(hash64(seed, clip), len(spoken) + 1, "pauses")
    parts = []
    for number, digit in enumerate(spoken):
        takes = [n for n in sorted(clips[digit, speaker]) if n in RANGES[part]]
        if not takes:
            raise InputError(f"no recording of {digit!r} by {speaker!r} numbered in {RANGES[part]} for {part}")
        take = takes[hash64(seed, clip, "take", number) % len(takes)]
        parts += [np.zeros(int((0.1 + 0.1 * pauses[number]) * SAMPLE_RATE), np.float32), clips[digit, speaker][take]]
    parts.append(np.zeros(int(0.1 * SAMPLE_RATE), np.float32))
    return np.concatenate(parts)
