"""Reward functions that tests name by their import path."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import torch


def length(completions, **columns):
    """Longer is better: gives every group a spread of rewards even to an untrained model."""
    return [float(len(text)) for text in completions]


def constant(completions, **columns):
    """The same for everybody."""
    return [0.7] * len(completions)


def reinforce(logprob, old, advantages, mask, *, denominator, clip=None, penalty=None, correction=None, weights=None):
    """A user's loss: -A log-prob, by tokens."""
    return -(advantages[:, None] * logprob * mask).sum() / denominator


def by_words(logprob, old, advantages, mask, *, denominator, **_):
    """A user's loss with a denominator that nobody counts."""
    raise AssertionError("never called")


reinforce.denominator = "tokens"
by_words.denominator = "words"


class ORM:
    """The base class that a reward plugin's classes have; it says nothing."""

    def __call__(self, **kwargs):
        """A subclass's work."""
        raise NotImplementedError


class PluginAccuracy(ORM):
    """The paper's accuracy, as its plugin has it: tagged text, or all of it, in lower case."""

    def __call__(self, completions, solution, **kwargs):
        """1.0 or 0.0 per completion."""
        scores = []
        for said, truth in zip(completions, solution, strict=True):
            texts = []
            for text in (said, truth):
                tagged = re.search("<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
                texts.append((tagged.group(1) if tagged else text).strip().lower())
            scores.append(1.0 if texts[0] == texts[1] else 0.0)
        return scores


class PluginFormat(ORM):
    """The paper's format: one lower-case pair of tags around the stripped whole."""

    def __call__(self, completions, **kwargs):
        """1.0 or 0.0 per completion."""
        scores = []
        for said in completions:
            text = said.strip()
            ends = text.startswith("<answer>") and text.endswith("</answer>")
            scores.append(1.0 if ends and text.count("<answer>") == text.count("</answer>") == 1 else 0.0)
        return scores


class Scaled:
    """An instance with an async call, an argument and a wish for the accuracy under silence."""

    needs_silence = True

    async def __call__(self, completions, silence, *, factor=1.0, **columns):
        """factor x silence."""
        await asyncio.sleep(0)
        return [factor * value for value in silence]


class NeedsArguments:
    """Cannot be made without one."""

    def __init__(self, path):
        self.path = path


class NotCallable:
    """Its instances are no functions."""


met: dict = {}


async def _meet(name, other, completions):
    met.setdefault(name, asyncio.Event()).set()
    await asyncio.wait_for(met.setdefault(other, asyncio.Event()).wait(), timeout=5)
    return [float(len(met))] * len(completions)


async def meets_first(completions, **columns):
    """Ends only while the other one runs."""
    return await _meet("first", "second", completions)


async def meets_second(completions, **columns):
    """Ends only while the other one runs."""
    return await _meet("second", "first", completions)


client: list = []


async def keeps_a_client(completions, **columns):
    """A client belongs to the event loop on which it was made."""
    if not client:
        client.append(asyncio.get_running_loop())
    return [float(client[0] is asyncio.get_running_loop())] * len(completions)


def greedy(completions, solution, **columns):
    """Empties what it is given."""
    count = len(completions)
    completions.clear()
    solution.clear()
    return [1.0] * count


def scalars(completions, **columns):
    """Whatever a number may be."""
    return [True, np.bool_(True), np.float32(0.5), np.int64(2), torch.tensor(0.25), None][: len(completions)]


def array(completions, **columns):
    """An array of numpy."""
    return np.arange(len(completions), dtype=np.float32)


def raises_on_bad(completions, **columns):
    """Fails for a completion that says so."""
    if "bad" in "".join(completions):
        raise KeyError("what is bad")
    return [1.0] * len(completions)


async def raises_later(completions, **columns):
    """The same, later."""
    await asyncio.sleep(0)
    return raises_on_bad(completions)


def raises_on_bad_solution(completions, solution, **columns):
    """Fails for a solution that says so."""
    return raises_on_bad(solution)


def raises_on_two(completions, **columns):
    """Fails for several completions at once."""
    if len(completions) > 1:
        raise RuntimeError("too many")
    return [1.0]


def drops_bad(completions, **columns):
    """One value less for a completion that says so."""
    return [1.0 for said in completions if "bad" not in said]


def one_value(completions, **columns):
    """One value whatever it is given."""
    return [1.0]


def needs_teacher(completions, teacher):
    """Wants a column that nobody has, and no other."""
    return [1.0] * len(completions)


def says_nothing(completions, **columns):
    """Forgets to return."""


def nan_for_bad(completions, **columns):
    """NaN for a completion that says so."""
    return [float("nan") if "bad" in said else 1.0 for said in completions]


def text_for_bad(completions, **columns):
    """Text for a completion that says so."""
    return ["1" if "bad" in said else 1.0 for said in completions]


def only_even(completions, **columns):
    """Cannot score what stands at an odd place; 1 for the rest."""
    return [None if place % 2 else 1.0 for place in range(len(completions))]


def not_first(completions, **columns):
    """Cannot score the first; 0.5 for the rest."""
    return [None] * min(len(completions), 1) + [0.5] * (len(completions) - 1)


def none_at_one(completions, **columns):
    """Cannot score the first two; 1 for the rest."""
    return [None] * min(len(completions), 2) + [1.0] * (len(completions) - 2)


def asks_for_path(completions, **kwargs):
    """Reads a column that other datasets have."""
    return [float(len(path)) for path in kwargs["audio_path"]]


def trl(prompts, completions, **kwargs):
    """TRL's documented order; 2 where both are what they should be."""
    return [
        float(prompt.startswith("What")) + float(text in ("Rain", "Wind"))
        for prompt, text in zip(prompts, completions, strict=True)
    ]


class SwiftORM(ORM):
    """What ms-swift's functions read."""

    def __call__(self, completions, messages, response_token_ids, answer, **kwargs):
        """1 where the answer was given."""
        assert all(turns[0]["role"] == "user" for turns in messages) and response_token_ids[0] == [1, 2]
        return [float(text == truth) for text, truth in zip(completions, answer, strict=True)]


def any_first_name(texts, **columns):
    """The completions by position."""
    return [float(len(text)) for text in texts]


def no_stars(completions, solution):
    """Only what it needs."""
    return [float(text == truth) for text, truth in zip(completions, solution, strict=True)]


def quiet(completions, silence):
    """Asks for `silence` by its name alone."""
    return [1 - value for value in silence]
