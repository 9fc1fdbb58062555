"""Rewards: what the paper's plugin returns, the other built-in ones by hand, and whom a failure is blamed on."""

from __future__ import annotations

import asyncio
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.built_in_rewards import (
    BUILT_IN,
    accuracy,
    choice,
    contains,
    contribution,
    format,
    format_think,
    heard,
    length,
    mmau,
    shuffled,
)
from earwitness.lightning_modules.objectives.calling import COLUMNS
from earwitness.lightning_modules.objectives.rewards import Rewards, Scored, reward_function
from earwitness.tests import lab_rewards

MINE = "earwitness.tests.lab_rewards."


def columns_of(count: int, **changed) -> dict[str, list]:
    """What the trainer offers, for completions of one group."""
    columns = {
        "solution": ["Rain"] * count, "choices": [["Wind", "Rain"]] * count, "question": ["What is heard?"] * count,
        "question_type": ["sound"] * count, "label": ["strong"] * count, "key": ["clotho/7"] * count,
        "group": [0] * count, "num_tokens": [9] * count, "finished": [True] * count, "max_new_tokens": [128] * count,
        "prompts": ["What is heard? Wind, Rain"] * count, "messages": [[{"role": "user", "content": "?"}]] * count,
        "completion_ids": [[1, 2]] * count, "response_token_ids": [[1, 2]] * count, "answer": ["Rain"] * count,
        "silence": [0.25] * count,
    }  # fmt: skip
    assert tuple(columns) == COLUMNS
    return columns | changed


def score(spec, completions, **changed) -> Scored:
    keys = [f"clotho/{place}" for place in range(len(completions))]
    return Rewards(spec)(completions, columns_of(len(completions), **changed), keys)


def parts_of(scored: Scored) -> dict[str, list]:
    return {name: part.tolist() for name, part in scored.parts.items()}


# ---- the paper's, solution "Rain"
PLUGIN = [
    ("<answer>Rain</answer>", 1, 1),
    ("<answer>rAIN</answer>", 1, 1),
    (" \n<answer>\n Rain </answer>\n", 1, 1),
    ("Rain", 1, 0),
    (" rain\n", 1, 0),
    ("<ANSWER>Rain</ANSWER>", 1, 0),
    ("<answer>Rain</ANSWER>", 1, 0),
    ("It is <answer>Rain</answer>", 1, 0),
    ("<answer>Rain</answer>.", 1, 0),
    ("<answer>Rain</answer><answer>Wind</answer>", 1, 0),
    ("<answer>Wind</answer><answer>Rain</answer>", 0, 0),
    ("<answer>Wind</answer>", 0, 1),
    ("<answer>Rain.</answer>", 0, 1),
    ("<answer></answer>", 0, 1),
    ("<answer>Rain", 0, 0),
    ("Rain</answer>", 0, 0),
    ("<answer><answer>Rain</answer>", 0, 0),
    ("The answer is Rain", 0, 0),
    ("", 0, 0),
]


def test_the_rewards_are_the_plugin_s():
    """Accuracy: the first tagged text (tags in any case, over lines) or all of it, stripped, in lower case. Format:
    one lower-case pair around the stripped whole. A tagged solution is unwrapped too. Total 2 accuracy + 0.5 format.
    """
    said, right, formed = map(list, zip(*PLUGIN, strict=True))
    for truth in ("Rain", "<answer>rain </answer>"):
        scored = score({"accuracy": 2.0, "format": 0.5}, said, solution=[truth] * len(said))
        assert parts_of(scored) == {"accuracy": right, "format": formed}
        assert scored.total.tolist() == [2.0 * a + 0.5 * f for a, f in zip(right, formed, strict=True)]
    assert {part.dtype for part in [scored.total, *scored.parts.values()]} == {torch.float64}


PIECES = st.lists(st.sampled_from(["<answer>", "</answer>", "<ANSWER>", "Rain", "rain", " ", "\n", "Wind", "."]))


@settings(max_examples=200, deadline=None)
@given(PIECES.map("".join), st.sampled_from(["Rain", "<answer>Rain</answer>", "Wind"]))
def test_a_plugin_s_classes_run_unchanged_and_agree(said, truth):
    """Classes with a base class, made without arguments; weights and columns as for the built-in ones."""
    spec = {MINE + "PluginAccuracy": 2.0, MINE + "PluginFormat": 0.5, "accuracy": 1.0, "format": 1.0}
    scored = score(spec, [said], solution=[truth])
    theirs_right, theirs_formed, right, formed = (part.item() for part in scored.parts.values())
    assert (theirs_right, theirs_formed) == (right, formed)
    assert scored.total.item() == 3.0 * right + 1.5 * formed


# ---- other rules of right and wrong
@pytest.mark.parametrize(
    ("completion", "by_choice", "by_contains", "by_mmau"),
    [
        ("B", 1, 0, 0),
        ("<answer>B. Heavy rain</answer>", 1, 1, 1),
        ("Heavy rain", 1, 1, 1),
        ("(B)", 1, 0, 0),
        ("A. Wind", 0, 0, 0),
        ("It is heavy rain, I think", 0, 1, 1),
        ("rain, and heavy", 0, 0, 1),
        ("Heavy rain, not wind", 0, 0, 0),
        ("C", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_rules_of_answers_are_rewards(completion, by_choice, by_contains, by_mmau):
    """Options: A Wind, B Heavy rain. Letters, names of one option alone, and words in any order."""
    given = {"solution": ["Heavy rain"], "choices": [["Wind", "Heavy rain"]]}
    scored = score({"choice": 1.0, "contains": 1.0, "mmau": 1.0}, [completion], **given)
    assert parts_of(scored) == {"choice": [by_choice], "contains": [by_contains], "mmau": [by_mmau]}
    assert choice(["A"] * 2, ["Wind"] * 2, [["Wind", "Rain"], ["Rain", "Wind"]]) == [1.0, 0.0]
    assert contains(["Wind"], ["Wind"], [["Wind"]], other=1) == mmau(["Wind"], ["Wind"], [["Wind"]], other=1) == [1.0]


@pytest.mark.parametrize(
    ("completion", "formed"),
    [
        ("<think>It drips.</think><answer>Rain</answer>", 1),
        (" <think>\nIt\ndrips.</think>\n\n<answer>Rain\n</answer>\n", 1),
        ("<think></think><answer></answer>", 0),
        ("<answer>Rain</answer>", 0),
        ("<think>It drips.</think>", 0),
        ("<answer>Rain</answer><think>It drips.</think>", 0),
        ("<think>It drips.</think> so <answer>Rain</answer>", 0),
        ("So <think>It drips.</think><answer>Rain</answer>", 0),
        ("<think>It drips.</think><answer>Rain</answer>.", 0),
        ("<THINK>It drips.</THINK><answer>Rain</answer>", 0),
        ("<think>It drips.<think></think><answer>Rain</answer>", 0),
        ("<think>It</think><think>drips.</think><answer>Rain</answer>", 0),
        ("<think>It drips.</think><answer>Rain</answer><answer>Rain</answer>", 0),
        ("<think>It <answer>drips</answer>.</think><answer>Rain</answer>", 0),
        ("<think>It drips.<answer>Rain</answer></think>", 0),
        ("", 0),
    ],
)
def test_thoughts_then_the_answer(completion, formed):
    assert format_think([completion, completion], solution=["Rain"] * 2) == [formed, formed]


# ---- length
@pytest.mark.parametrize(
    ("tokens", "finished", "buffer", "expected"),
    [
        (0, True, 0.2, 0.0),
        (80, True, 0.2, 0.0),
        (85, True, 0.2, -0.25),
        (90, True, 0.2, -0.5),
        (100, True, 0.2, -1.0),
        (100, False, 0.2, -1.0),
        (3, False, 0.2, -1.0),
        (60, True, 0.5, -0.2),
        (25, True, 1.0, -0.25),
        (100, True, 0.0, 0.0),
        (130, True, 0.2, -1.0),
    ],
)
def test_the_soft_overlong_punishment_by_hand(tokens, finished, buffer, expected):
    """100 tokens allowed, the last 20 of them the buffer: 80 + 20 x share of the punishment."""
    given = {"num_tokens": [tokens], "finished": [finished], "max_new_tokens": [100]}
    scored = score({"length": {"weight": 2.0, "buffer": buffer}}, ["..."], **given)
    assert scored.parts["length"].item() == pytest.approx(expected, abs=1e-12)
    assert scored.total.item() == pytest.approx(2 * expected, abs=1e-12)
    if buffer == 0.2:
        assert length(["..."], **given) == [pytest.approx(expected, abs=1e-12)]


def test_a_buffer_is_a_share():
    with pytest.raises(InputError, match=r"reward 'length' raised ValueError: buffer is a share .* got 20\.0"):
        score({"length": {"weight": 1.0, "buffer": 20.0}}, ["..."])


# ---- what the audio added
def test_contribution_and_heard_by_hand():
    """Right and wrong with a quarter known in silence; not scorable where silence is not known."""
    given = {"solution": ["Rain"] * 3, "silence": [0.25, 0.25, None]}
    assert contribution(["Rain", "Wind", "Rain"], **given) == [0.75, -0.25, None]
    assert heard(["Rain", "Wind", "Rain"], **given) == [0.75, 0.0, None]
    scored = score({"contribution": 1.0, "heard": 2.0}, ["Rain", "Wind", "Rain"], silence=[0.25, 0.25, None])
    assert scored.total[:2].tolist() == [2.25, -0.25] and scored.total[2].isnan()


def test_silence_is_asked_for_by_those_that_need_it():
    needing = [name for name in BUILT_IN if Rewards({name: 1.0}).needs_silence]
    assert needing == ["contribution", "heard"]
    assert Rewards({MINE + "Scaled": 0.0, "accuracy": 1.0}).needs_silence
    assert not Rewards({"accuracy": 1.0, MINE + "length": 1.0}).needs_silence


THOUGHT, SAID = "<think>\nI hear rain.\n</think>\n<answer>{}</answer>", "<answer>{}</answer>"


@pytest.mark.parametrize(
    ("completions", "given", "expected"),
    [
        ([THOUGHT.format("Rain"), THOUGHT.format("dog"), SAID.format("rain"), SAID.format("dog")], {}, [1, 0, 2, -1]),
        # Three of four at once: 2 (0.75 - 0.5) = 0.5 of the bonus is gone; of four, all of it.
        ([SAID.format("rain"), SAID.format("dog"), "rain", THOUGHT.format("rain")], {}, [1.5, -0.5, -0.5, 1]),
        ([SAID.format("rain"), SAID.format("dog")], {}, [1, 0]),
        ([SAID.format("rain"), SAID.format("dog")], {"balance": 1.0}, [2, -1]),
        ([SAID.format("rain"), SAID.format("dog")], {"strength": 0.5}, [1.75, -0.75]),
        (["<think> </think>" + SAID.format("rain"), THOUGHT.format("dog")], {}, [2, 0]),
    ],
)
def test_thinking_or_not_by_hand(completions, given, expected):
    """Answering at once pays where it is right more often than not, less as more do."""
    rewards = BUILT_IN["adaptive_thinking"](completions, ["rain"] * len(completions), **given)
    assert rewards == pytest.approx(expected)
    for wrong in ({"balance": 1.5}, {"strength": -1.0}):
        with pytest.raises(ValueError, match="balance is a share"):
            BUILT_IN["adaptive_thinking"](["rain"], ["rain"], **wrong)


def test_brief_thoughts_by_hand():
    """Three words are thought; without thoughts, with too many or a wrong answer there is nothing."""
    completions = [THOUGHT.format("rain"), f" {THOUGHT.format('rain')} ", THOUGHT.format("dog"), SAID.format("rain")]
    assert BUILT_IN["brief_thought"](completions, ["rain"] * 4, most=3) == [1, 1, 0, 0]
    assert BUILT_IN["brief_thought"](completions, ["rain"] * 4, most=2) == [0, 0, 0, 0]


def test_shuffled_rewards_by_hand():
    """Groups 5: R W R, 2: W R, 8: R alone; each gets the next one's of its group."""
    said = ["Rain", "Wind", "Wind", "Rain", "Rain", "Rain"]
    group = [5, 2, 5, 2, 5, 8]
    assert shuffled(said, ["Rain"] * 6, group) == [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["Rain", "Wind"]), st.integers(0, 3)), max_size=20))
def test_shuffled_rewards_are_the_group_s_own(pairs):
    """A control: per group the same rewards, so the same spread, and going round once per member gives each its own."""
    said, group = [s for s, _ in pairs], [g for _, g in pairs]
    truth = ["Rain"] * len(said)
    right, moved = accuracy(said, truth), shuffled(said, truth, group)
    for number in set(group):
        mine = [place for place, g in enumerate(group) if g == number]
        assert [moved[place] for place in mine] == [right[place] for place in mine[1:] + mine[:1]]


# ---- weighing
def test_a_completion_is_scored_by_the_functions_that_can():
    """None leaves a function out of the sum; where no function scored, the reward is NaN, and its part too."""
    spec = {MINE + "only_even": 2.0, MINE + "not_first": 0.5, MINE + "constant": 0.0}
    scored = score(spec, ["a", "b", "c", "d"])
    assert scored.total.tolist() == [2.0, 0.25, 2.25, 0.25]
    assert scored.parts[MINE + "only_even"].isnan().tolist() == [False, True, False, True]
    assert scored.parts[MINE + "constant"].tolist() == [0.7] * 4
    alone = score({MINE + "none_at_one": -2.0, MINE + "not_first": 1.0}, ["a", "b", "c"])
    assert alone.total.isnan().tolist() == [True, False, False] and alone.total[1:].tolist() == [0.5, -1.5]


def test_numbers_of_every_kind_are_numbers():
    """True, and numbers of numpy and torch; a whole array too."""
    scored = score({MINE + "scalars": 1.0}, list("abcdef"))
    assert scored.parts[MINE + "scalars"].tolist()[:5] == [1.0, 1.0, 0.5, 2.0, 0.25] and scored.total[5].isnan()
    assert score({MINE + "array": 2.0}, list("abc")).total.tolist() == [0.0, 2.0, 4.0]
    assert score({"accuracy": 1.0}, []).total.tolist() == []


def test_a_function_cannot_change_what_the_next_one_sees():
    said = ["Rain", "Wind"]
    columns = columns_of(2)
    scored = Rewards({MINE + "greedy": 1.0, "accuracy": 1.0})(said, columns, ["a/1", "a/2"])
    assert scored.total.tolist() == [2.0, 1.0] and said == ["Rain", "Wind"] and columns == columns_of(2)


# ---- async functions
def test_async_functions_run_at_the_same_time():
    """Each of the two waits for the other, which comes only where they run together; plain ones beside them."""
    lab_rewards.met.clear()
    scored = score({MINE + "meets_first": 1.0, "accuracy": 1.0, MINE + "meets_second": 10.0}, ["Rain", "Wind"])
    assert scored.total.tolist() == [23.0, 22.0]


def test_async_functions_run_within_a_running_loop_and_keep_theirs():
    """A notebook has a loop that runs; a client opened in the first step is of use in the second."""
    lab_rewards.client.clear()

    async def step():
        return score({MINE + "keeps_a_client": 1.0, MINE + "Scaled": {"weight": 1.0, "factor": 4.0}}, ["a"])

    assert asyncio.run(step()).total.tolist() == [2.0]
    assert asyncio.run(step()).total.tolist() == [2.0]
    assert score({MINE + "keeps_a_client": 1.0}, ["a", "b"]).total.tolist() == [1.0, 1.0]


def test_rewards_can_be_pickled():
    """A launcher that spawns its ranks sends the module, with its rewards, to them."""
    spec = {"accuracy": 2.0, MINE + "PluginFormat": 1.0, "length": {"weight": 1.0, "buffer": 0.5}}
    rewards = pickle.loads(pickle.dumps(Rewards(spec)))
    scored = rewards(["Rain"], columns_of(1, num_tokens=[96]), ["a/1"])
    assert scored.total.item() == 1.5 and rewards.weights == {
        "accuracy": 2.0,
        MINE + "PluginFormat": 1.0,
        "length": 1.0,
    }


# ---- failures: edge case 15
LONG = "bad " * 30


LAB = r".*/lab_rewards\.py, line \d+"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises_on_bad", f"raised KeyError: 'what is bad' in {LAB} for sample 'clotho/2', completion 'bad bad"),
        ("raises_later", f"raised KeyError: 'what is bad' in {LAB} for sample 'clotho/2', completion 'bad bad"),
        (
            "raises_on_two",
            f"raised RuntimeError: too many in {LAB} for all 4 completions at once, and for none of them",
        ),
        ("drops_bad", "returned 0 values for 1 completions, for sample 'clotho/2', completion 'bad bad"),
        ("one_value", "returned 1 values for 4 completions, for all 4 completions at once, and for none of them alone"),
        (
            "asks_for_path",
            f"raised KeyError: 'audio_path' in {LAB} for sample 'clotho/0', completion 'one'; the columns .*silence$",
        ),
        ("says_nothing", "returned None, not a list of numbers, for sample 'clotho/0', completion 'one'"),
        (
            "nan_for_bad",
            "returned nan for sample 'clotho/2', completion 'bad bad .*; a finite number or None is needed",
        ),
        (
            "text_for_bad",
            "returned '1' for sample 'clotho/2', completion 'bad bad .*; a finite number or None is needed",
        ),
    ],
)
def test_a_failure_names_the_function_and_the_sample(name, message):
    """Edge case 15: it raises, returns another number of values, or something that is no number."""
    with pytest.raises(InputError, match=f"^reward '{MINE}{name}' {message}") as caught:
        score({"accuracy": 1.0, MINE + name: 1.0, MINE + "constant": 1.0}, ["one", "two", LONG, "bad four"])
    assert LONG[:80] in str(caught.value) or "bad" not in message
    assert LONG[:81] not in str(caught.value)


def test_a_failure_is_looked_for_with_the_sample_s_own_columns():
    with pytest.raises(InputError, match=r"raised KeyError: 'what is bad' in .* for sample 'clotho/1', completion 'b'"):
        score({MINE + "raises_on_bad_solution": 1.0}, ["a", "b", "c"], solution=["fine", "bad", "fine"])


def test_infinity_is_no_reward():
    with pytest.raises(InputError, match=r"returned inf for sample 'clotho/1', completion 'b'"):
        score({MINE + "Scaled": 1.0}, ["a", "b"], silence=[0.0, math.inf])


def test_columns_belong_to_completions():
    for keys, count in ((["a/1"], 2), (["a/1", "a/2"], 3)):
        with pytest.raises(AssertionError):
            Rewards({"format": 1.0})(["a", "b"], columns_of(count), keys)


# ---- finding
def test_reward_functions_are_found_by_name_and_import_path():
    assert reward_function("accuracy") is accuracy and reward_function("format") is format
    assert reward_function("earwitness.lightning_modules.objectives.built_in_rewards.heard") is heard
    assert reward_function("math.fsum") is math.fsum
    assert isinstance(reward_function(MINE + "PluginAccuracy"), lab_rewards.PluginAccuracy)
    assert list(BUILT_IN) == ["accuracy", "format", "choice", "contains", "mmau", "format_think", "length",
                              "contribution", "heard", "adaptive_thinking", "brief_thought", "shuffled"]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("acuracy", "rewards: unknown name 'acuracy'; did you mean 'accuracy'"),
        ("no_such_module.reward", r"cannot import 'no_such_module\.reward' \(No module named 'no_such_module'\)"),
        ("math.reward", r"cannot import 'math\.reward'"),
        ("math.pi", r"rewards: 'math\.pi' is not a function"),
        (MINE + "NeedsArguments", r"NeedsArguments' cannot be made without arguments \(TypeError: .*'path'\)"),
        (MINE + "NotCallable", "an instance of .*NotCallable' is not a function; it needs a method __call__"),
    ],
)
def test_a_reward_function_that_is_not_there_is_named(path, message):
    with pytest.raises(InputError, match=message):
        reward_function(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, r"rewards: at least one is needed"),
        ({"accuracy": None}, "rewards: 'accuracy' needs a weight, a finite number or .*; got None"),
        ({"accuracy": True}, "got True"),
        ({"accuracy": "2"}, "got '2'"),
        ({"accuracy": math.nan}, "got nan"),
        ({"length": {"buffer": 0.2}}, "rewards: 'length' needs a weight.* got None"),
        ({"length": {"weight": 1.0, "bufer": 0.2}}, "'length' has no argument 'bufer'; it takes .*buffer"),
        ({"length": {"weight": 1.0, "finished": []}}, "'length': 'finished' is a column of the batch, not an argument"),
        ({"format": {"weight": 1.0, "completions": []}}, "'format' has no argument 'completions'; it takes none"),
        ({MINE + "Scaled": {"weight": 1.0, "power": 2}}, "has no argument 'power'; it takes silence, factor"),
        (
            {MINE + "needs_teacher": 1.0},
            "needs_teacher' asks for 'teacher', which is no column; there are completions, solution, .*messages",
        ),
    ],
)
def test_a_weight_or_an_argument_that_cannot_be_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        Rewards(spec)


# ---- how functions are called
def test_other_trainers_signatures_are_called_by_name():
    """TRL's documented order, ms-swift's columns, any first name, no `**`, and an argument where a column is not."""
    spec = dict.fromkeys((MINE + name for name in ("trl", "SwiftORM", "any_first_name", "no_stars")), 1.0)
    scored = score(spec | {MINE + "needs_teacher": {"weight": 1.0, "teacher": "me"}}, ["Rain", "Wind"])
    assert [part.tolist() for part in scored.parts.values()] == [[2.0, 2.0], [1.0, 0.0], [4.0, 4.0], [1.0, 0.0], [1, 1]]


def test_a_function_that_names_silence_gets_it():
    assert Rewards({MINE + "quiet": 1.0}).needs_silence and not Rewards({MINE + "trl": 1.0}).needs_silence
