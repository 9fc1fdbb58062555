"""A small world of generated sounds: tones, sweeps, pulses and noise, and questions about them with a planted truth.

Four question types (which sound, how high the tone, which comes first, how many pulses), four options each.
Some questions leak their answer in the text, by explicit logic ("the topmost of four notes") or by prior knowledge
("a metronome"); the others can only be heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...curriculum.identity import hash64, uniforms
from ..audio.waves import SAMPLE_RATE
from ..questions.question import Question
from . import balancing
from .balancing import QuestionSpec, World
from .writing import LOGIC, PRIOR, Draft, choose, shuffled, write_corpus

SOUNDS = ("tone", "sweep", "pulses", "noise")
HEIGHTS = ("deep", "low", "high", "shrill")
COUNTS = ("one", "two", "three", "four")
WORDS = {"sound": SOUNDS, "pitch": HEIGHTS, "order": SOUNDS, "count": COUNTS}
ASK = {
    "sound": "Which sound is in the recording?",
    "pitch": "How high is the tone?",
    "order": "Which sound comes first?",
    "count": "How many pulses are there?",
}
CAPTION = {
    "sound": "Caption the sound.",
    "pitch": "Caption the pitch.",
    "order": "Caption the opening.",
    "count": "Caption the number of pulses.",
}
THOUGHT = {
    "sound": "The sound is {}.",
    "pitch": "The tone is {}.",
    "order": "It begins with {}.",
    "count": "There are {} pulses.",
}
KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "sound": {
        "tone": ("a flute", "a tuning fork", "an organ pipe"),
        "sweep": ("a slide whistle", "a racing car going by", "a laser in a film"),
        "pulses": ("a metronome", "a woodpecker", "a ticking clock"),
        "noise": ("a waterfall", "heavy rain", "wind in the trees"),
    },
    "pitch": {
        "deep": ("a ship's horn", "a tuba"),
        "low": ("a humming man", "a cello"),
        "high": ("a violin", "a singing girl"),
        "shrill": ("a piccolo", "a referee's whistle"),
    },
    "count": {
        "one": ("a starting pistol", "a clock at one"),
        "two": ("a heartbeat", "a clock at two"),
        "three": ("a bar of a waltz", "a clock at three"),
        "four": ("a bar of a march", "a clock at four"),
    },
}
LEAKED_HEIGHTS = {
    "deep": "It is the lowest of the four notes.",
    "low": "It is the second lowest of the four notes.",
    "high": "It is the second highest of the four notes.",
    "shrill": "It is the highest of the four notes.",
}
LEAKED_COUNTS = {
    "one": "Two pulses less one pulse.",
    "two": "One pulse and one more.",
    "three": "Two pulses and one more.",
    "four": "Two pulses and two more.",
}


def build_sounds(
    out: str,
    seed: int = 1,
    train: int = 1_280,
    val: int = 192,
    test: int = 480,
    strong_share: float = 0.45,
    listening: int = 2_400,
    reading: int = 600,
    reasoning: float = 0.0,
) -> dict[str, int]:
    """Writes the corpus into the folder `out`, replacing it; returns the numbers of questions and recordings.

    Args:
        train, val, test: questions of the bank per split; val and test are half heard, half leaking, and balanced.
        strong_share: share of the bank's training questions that can only be heard.
        listening: questions for the backbone. reading: questions per voter slice.
        reasoning: share of the bank's training questions that come with a thought to learn, `structured_cot`.
    """
    leaks = {name: (LOGIC, PRIOR) if name in KNOWN else (LOGIC,) for name in WORDS}
    world = World("sounds", seed, tuple(WORDS), WORDS, leaks, lambda spec: draft(spec, seed, reasoning))
    heard = balancing.listening(world, listening)
    jobs = [
        *balancing.bank(world, "train", train, strong_share),
        *balancing.bank(world, "val", val, 0.5),
        *balancing.bank(world, "test", test, 0.5),
        *(world.job(spec) for spec in heard),
        *balancing.reading(world, reading, heard),
    ]
    return write_corpus((job() for job in jobs), out, len(jobs))


def draft(spec: QuestionSpec, seed: int, reasoning: float = 0.0) -> Draft:
    """One question on one clip; the wave depends on (seed, clip) and the answer alone.

    reasoning: share of the bank's training questions that come with a thought.
    """
    question_type, answer, clip = spec.question_type, spec.answer, spec.clip
    name = (seed, spec.source, spec.identifier)
    other = choose([w for w in SOUNDS if w != answer], seed, clip, "other") if question_type == "order" else ""
    ask = (CAPTION if spec.caption else ASK)[question_type]
    if spec.kind == PRIOR:
        ask = f"This is {choose(KNOWN[question_type][answer], *name, 'thing')}. {ask}"
    elif spec.kind == LOGIC:
        ask = f"{_leak(question_type, answer, other)} {ask}"
    choices = shuffled(WORDS[question_type], *name, "choices")
    question = Question(spec.source, spec.identifier, ask, choices, answer, question_type, spec.split)
    if spec.split == "train" and spec.source == "sounds" and uniforms(hash64(*name), 1, "thought")[0] < reasoning:
        question = replace(question, structured_cot=THOUGHT[question_type].format(answer))
    return Draft(question, clip, lambda: _wave(question_type, answer, other, seed, clip), spec.kind)


def _leak(question_type: str, answer: str, other: str) -> str:
    """The sentence that gives the answer away by logic."""
    if question_type == "pitch":
        return LEAKED_HEIGHTS[answer]
    if question_type == "count":
        return LEAKED_COUNTS[answer]
    if question_type == "order":
        return f"It opens with {answer} and closes with {other}."
    return f"Nothing but {answer} is heard."


def _wave(question_type: str, answer: str, other: str, seed: int, clip: str) -> np.ndarray:
    """About 1.5 s at 16 kHz, peak about 0.5, over a faint noise floor."""
    draws = iter(uniforms(hash64(seed, clip), 64, "wave"))
    if question_type == "order":
        parts = [_event(kind, 0.65 + 0.2 * next(draws), draws, seed, clip) for kind in (answer, other)]
        wave = np.concatenate([parts[0], np.zeros(int(0.08 * SAMPLE_RATE)), parts[1]])
    elif question_type == "count":
        wave = _pulse_train(1 + COUNTS.index(answer), 0.24 + 0.08 * next(draws), draws)
    elif question_type == "pitch":
        wave = _tone(answer, 1.0 + 0.5 * next(draws), draws)
    else:
        wave = _event(answer, 1.0 + 0.5 * next(draws), draws, seed, clip)
    lead = np.zeros(int((0.02 + 0.15 * next(draws)) * SAMPLE_RATE))
    wave = np.concatenate([lead, wave * (0.25 + 0.25 * next(draws)), np.zeros(int(0.05 * SAMPLE_RATE))])
    return (wave + 0.002 * _white(len(wave), seed, clip, "floor")).astype(np.float32)


def _event(kind: str, seconds: float, draws: Iterator[float], seed: int, clip: str) -> np.ndarray:
    """One sound of a kind in SOUNDS, [n] at 16 kHz."""
    if kind == "noise":
        return _faded(0.5 * _white(int(seconds * SAMPLE_RATE), seed, clip, kind))
    if kind == "pulses":
        period = 0.10 + 0.05 * next(draws)
        return _pulse_train(max(4, int(seconds / period)), period, draws)
    return _tone(kind, seconds, draws)


def _tone(kind: str, seconds: float, draws: Iterator[float]) -> np.ndarray:
    """A harmonic tone of one of four heights ("tone": of any), or chirps over two octaves, three a second ("sweep")."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    if kind == "sweep":
        up, turn = next(draws) < 0.5, (2.5 + next(draws)) * t % 1
        frequency = (350 + 150 * next(draws)) * 4 ** (turn if up else 1 - turn)
    else:
        height = HEIGHTS.index(kind) if kind in HEIGHTS else int(4 * next(draws))
        frequency = np.full_like(t, 130 * 2.4 ** (height + 0.6 * next(draws)))
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    return _faded(0.8 * np.sin(phase) + 0.2 * np.sin(2 * phase))


def _pulse_train(count: int, period: float, draws: Iterator[float]) -> np.ndarray:
    """`count` short, decaying clicks, one every `period` seconds."""
    n = int(0.06 * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    click = np.exp(-t * 70) * np.sin(2 * np.pi * (900 + 900 * next(draws)) * t)
    wave = np.zeros(int(count * period * SAMPLE_RATE) + n)
    for k in range(count):
        start = int(k * period * SAMPLE_RATE)
        wave[start : start + n] += click
    return wave * 1.2


def _faded(wave: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    """The wave with a linear fade of so many seconds at either end."""
    n = int(seconds * SAMPLE_RATE)
    ramp = np.minimum(1, np.arange(len(wave)) / n)
    return wave * ramp * ramp[::-1]


def _white(count: int, *name: object) -> np.ndarray:
    """Unit-variance noise, uniform rather than Gaussian: half the work, and nobody hears the difference."""
    wave: np.ndarray = (uniforms(hash64(*name), count, "white") - 0.5) * np.sqrt(12)
    return wave
