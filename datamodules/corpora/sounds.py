"""Knows a small world of sounds: tones, sweeps, pulses and noise, and questions about them with a planted truth.

Four question types (which sound, how the pitch moves, which comes first or last, how many pulses), four options each.
Some questions leak their answer in the text, by explicit logic ("starts low and ends high") or by prior knowledge
("a metronome"); the others can only be heard. Three groups, told apart by `source`: `sounds` is the question bank;
`listening` are captions and questions on other clips, what a backbone has heard before; `reading-a` .. `reading-c` are
slices of texts on the same other clips, from which voters learn to answer without listening.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...curriculum.identity import hash64, uniforms
from ..audio import SAMPLE_RATE
from ..question import Question
from .writing import HEARD, LOGIC, PRIOR, Draft, choose, shuffled, write_corpus

SOUNDS = ("tone", "sweep", "pulses", "noise")
MOVES = ("rising", "falling", "steady", "wavering")
COUNTS = ("one", "two", "three", "four")
WORDS = {"sound": SOUNDS, "pitch": MOVES, "order": SOUNDS, "count": COUNTS}
ASK = {
    "sound": "Which sound is in the recording?",
    "pitch": "How does the pitch move?",
    "count": "How many pulses are there?",
}
CAPTION = {"sound": "Caption the sound.", "pitch": "Caption the pitch.", "count": "Caption the number of pulses."}
KNOWN = {
    "sound": {
        "tone": ("a flute", "a tuning fork", "an organ pipe"),
        "sweep": ("a slide whistle", "a racing car going by", "a laser in a film"),
        "pulses": ("a metronome", "a woodpecker", "a ticking clock"),
        "noise": ("a waterfall", "heavy rain", "wind in the trees"),
    },
    "pitch": {
        "rising": ("a rocket taking off", "a kettle coming to the boil"),
        "falling": ("a plane in a dive", "a motor being switched off"),
        "steady": ("a dial tone", "a held organ key"),
        "wavering": ("an ambulance", "a violin played with vibrato"),
    },
    "count": {
        "one": ("a starting pistol", "a clock at one"),
        "two": ("a heartbeat", "a clock at two"),
        "three": ("a bar of a waltz", "a clock at three"),
        "four": ("a bar of a march", "a clock at four"),
    },
}
TOLD_MOVES = {
    "rising": ("The pitch starts low and ends high.", "The end is higher than the start."),
    "falling": ("The pitch starts high and ends low.", "The end is lower than the start."),
    "steady": ("The pitch stays where it is.", "The end is as high as the start."),
    "wavering": ("The pitch goes up and down again and again.", "The pitch swings around its middle."),
}
TOLD_COUNTS = {
    "one": ("There is a pulse and nothing follows.", "There were two pulses, but one was cut."),
    "two": ("There is a pulse and then one more.", "There were three pulses, but one was cut."),
    "three": ("There are two pulses and then one more.", "There were four pulses, but one was cut."),
    "four": ("There are two pulses and then two more.", "There were five pulses, but one was cut."),
}


def build_sounds(
    out: str,
    seed: int = 1,
    train: int = 1_280,
    val: int = 96,
    test: int = 480,
    strong_share: float = 0.45,
    listening: int = 2_400,
    reading: int = 600,
) -> dict:
    """Writes the corpus into the folder `out`.

    Args:
        train, val, test: questions of the bank per split; val and test are half heard, half leaking, and balanced.
        strong_share: share of the bank's training questions that can only be heard.
        listening: questions for the backbone. reading: questions per voter slice.
    """
    drafts = [
        *_bank("train", train, strong_share, seed),
        *_bank("val", val, 0.5, seed),
        *_bank("test", test, 0.5, seed),
        *_listening(listening, seed),
        *_reading(reading, listening, seed),
    ]
    return write_corpus((draft() for draft in drafts), out, len(drafts))


def _bank(split: str, count: int, strong_share: float, seed: int) -> Iterator:
    """Deals strengths evenly, then types and answers in turn, so that every group is balanced over its answers."""
    heard = round(count * strong_share)
    for number in range(count):
        place = number if number < heard else number - heard
        kind = HEARD if number < heard else (LOGIC, PRIOR)[place % 2]
        turn = place if kind == HEARD else place // 2
        types = [t for t in WORDS if kind != PRIOR or t in KNOWN]
        question_type = types[turn % len(types)]
        answer = WORDS[question_type][turn // len(types) % 4]
        yield lambda n=number, k=kind, t=question_type, a=answer: draft(
            "sounds", f"{split}-{n:05d}", split, t, a, k, seed, clip=f"{split}-{n:05d}"
        )


def _listening(count: int, seed: int) -> Iterator:
    for number in range(count):
        question_type = list(WORDS)[number % 4]
        answer = WORDS[question_type][number // 4 % 4]
        yield lambda n=number, t=question_type, a=answer: draft(
            "listening", f"{n:05d}", "train", t, a, HEARD, seed, clip=f"listening-{n:05d}", caption=n // 16 % 2 == 1
        )


def _reading(count: int, clips: int, seed: int) -> Iterator:
    """Texts on the backbone's clips: two thirds leak, one third cannot be answered by reading."""
    for voter in "abc":
        for number in range(count):
            clip = hash64(seed, voter, "reading", number) % clips
            question_type = list(WORDS)[clip % 4]
            answer = WORDS[question_type][clip // 4 % 4]
            kinds = (LOGIC, PRIOR, HEARD) if question_type in KNOWN else (LOGIC, LOGIC, HEARD)
            yield lambda n=number, v=voter, c=clip, t=question_type, a=answer, k=kinds[number % 3]: draft(
                f"reading-{v}", f"{n:05d}", "train", t, a, k, seed, clip=f"listening-{c:05d}"
            )


def draft(
    source: str,
    identifier: str,
    split: str,
    question_type: str,
    answer: str,
    kind: str,
    seed: int,
    clip: str,
    caption: bool = False,
) -> Draft:
    """One question on one clip; the wave depends on (seed, clip) and the answer alone."""
    name = (seed, source, identifier)
    other = choose([w for w in SOUNDS if w != answer], seed, clip, "other") if question_type == "order" else ""
    first = hash64(seed, clip, "first") % 2 == 0
    ask = ("Caption what comes {}." if caption else "Which sound comes {}?").format("first" if first else "last")
    if question_type != "order":
        ask = CAPTION[question_type] if caption else ASK[question_type]
    if kind == PRIOR:
        thing = choose(KNOWN[question_type][answer], *name, "thing")
        ask = f"{choose(('This is', 'The recording is of', 'One hears'), *name, 'lead')} {thing}. {ask}"
    elif kind == LOGIC:
        ask = f"{_told(question_type, answer, other, first, name)} {ask}"
    choices = shuffled(WORDS[question_type], *name, "choices")
    question = Question(source, identifier, ask, choices, answer, question_type, split)
    return Draft(question, clip, lambda: _wave(question_type, answer, other, first, seed, clip), kind)


def _told(question_type: str, answer: str, other: str, first: bool, name: tuple) -> str:
    if question_type == "pitch":
        return choose(TOLD_MOVES[answer], *name, "told")
    if question_type == "count":
        return choose(TOLD_COUNTS[answer], *name, "told")
    if question_type == "order":
        a, b = (answer, other) if first else (other, answer)
        return choose((f"It opens with {a} and closes with {b}.", f"Before {b} there is {a}."), *name, "told")
    rest = ", no ".join(shuffled([w for w in SOUNDS if w != answer], *name, "rest"))
    return choose((f"Nothing but {answer} is heard.", f"There is no {rest}."), *name, "told")


def _wave(question_type: str, answer: str, other: str, first: bool, seed: int, clip: str) -> np.ndarray:
    """About 1.5 s at 16 kHz, peak about 0.5, over a faint noise floor."""
    draws = iter(uniforms(hash64(seed, clip), 64, "wave"))
    if question_type == "order":
        pair = (answer, other) if first else (other, answer)
        parts = [_event(kind, 0.65 + 0.2 * next(draws), draws, seed, clip) for kind in pair]
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
    if kind == "noise":
        return _faded(0.5 * _white(int(seconds * SAMPLE_RATE), seed, clip, kind))
    if kind == "pulses":
        period = 0.10 + 0.05 * next(draws)
        return _pulse_train(max(4, int(seconds / period)), period, draws)
    return _tone(kind, seconds, draws)


def _tone(move: str, seconds: float, draws: Iterator[float]) -> np.ndarray:
    """A harmonic tone whose pitch rises, falls, stays or wavers; "sweep" takes either direction, "tone" stays."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    base, extent = 300 * 2 ** (0.7 * next(draws)), 1.3 + 0.7 * next(draws)
    if move == "sweep":
        move = "rising" if next(draws) < 0.5 else "falling"
    octaves = {
        "rising": extent * t / seconds,
        "falling": extent * (1 - t / seconds),
        "wavering": extent * (0.5 + 0.3 * np.sin(2 * np.pi * (3 + 2 * next(draws)) * t)),
    }.get(move, np.full_like(t, extent * next(draws)))
    phase = 2 * np.pi * np.cumsum(base * 2**octaves) / SAMPLE_RATE
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
    n = int(seconds * SAMPLE_RATE)
    ramp = np.minimum(1, np.arange(len(wave)) / n)
    return wave * ramp * ramp[::-1]


def _white(count: int, *name: object) -> np.ndarray:
    """Unit-variance noise, uniform rather than Gaussian: half the work, and nobody hears the difference."""
    return (uniforms(hash64(*name), count, "white") - 0.5) * np.sqrt(12)
