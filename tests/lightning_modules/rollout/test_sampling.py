"""Completions follow the policy's distribution, depend on their own key alone, and end where the model ends them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.rollout.drawing import draw, pick
from earwitness.lightning_modules.rollout.sampling import completion_keys, sample

QUESTIONS = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?")
RECORDS = [
    {"source_dataset": "s", "id": str(n), "question": text, "answer": "rain", "choices": ["rain", "a dog's bark"]}
    for n, text in enumerate(QUESTIONS)
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "q.jsonl").write_text("\n".join(json.dumps(r | {"audio_path": "x.wav"}) for r in RECORDS))
    size = {"hidden": 64, "layers": 2, "audio_hidden": 32, "audio_layers": 1}
    build_tiny(str(folder / "q.jsonl"), str(folder / "checkpoint"), seed=1, **size)
    return folder / "checkpoint"


@pytest.fixture
def policy(checkpoint) -> OmniPolicy:
    return OmniPolicy(str(checkpoint))


@pytest.fixture
def prompts(policy) -> Prompts:
    """Four prompts of different lengths over three recordings; rows 0 and 2 ask about the same one."""
    questions = [parse_question(r, "test") for r in (*RECORDS, RECORDS[0])]
    clips = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in (4_000, 9_123, 1_000)]
    samples = [Sample(q, q.choices) for q in questions]
    return policy.processor.batch(samples, clips, ["a"] * 4, [1, 0, 1, 2]).prompts


def unpadded(prompts: Prompts, row: int) -> dict[str, torch.Tensor]:
    """One row as transformers' generate takes it."""
    clip = prompts.clip_of_row[row]
    ids = [prompts.prefix_ids[clip][prompts.prefix_mask[clip].bool()]]
    ids = torch.cat([*ids, prompts.suffix_ids[row][prompts.suffix_mask[row].bool()]])[None]
    mask = prompts.feature_mask[clip][None]
    features = prompts.features[clip][None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": features,
        "feature_attention_mask": mask,
    }


def end_with(policy: OmniPolicy, token: int) -> None:
    """Makes this token the end of the turn: a random model never says the real one."""
    policy.processor.eos_id = int(token)


def completion(done, row: int) -> list[int]:
    return done.ids[row][done.mask[row].bool()].tolist()


def test_greedy_is_transformers_generate_with_the_placeholders_suppressed(policy, prompts):
    with torch.no_grad():
        first = sample(policy, prompts, max_new_tokens=12)
    end_with(policy, first.ids[2, 7])  # some rows end early, others run to the limit
    done = sample(policy, prompts, max_new_tokens=12)
    assert done.finished.any() and done.ids.shape == (4, 12)
    for row in range(4):
        inputs = unpadded(prompts, row)
        expected = policy.thinker.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=policy.suppressed.tolist(),
            eos_token_id=list(policy.processor.stop_ids),
            pad_token_id=policy.processor.pad_id,
        )[0, inputs["input_ids"].shape[1] :]
        assert completion(done, row) == expected.tolist()


def test_a_completion_counts_up_to_and_with_its_end(policy, prompts):
    whole = sample(policy, prompts, max_new_tokens=8)
    assert not whole.finished.any() and whole.mask.all() and whole.ids.shape == (4, 8)
    end = int(whole.ids[0, 3])
    end_with(policy, end)
    done = sample(policy, prompts, max_new_tokens=8)
    for row, tokens in enumerate(whole.ids.tolist()):
        length = tokens.index(end) + 1 if end in tokens else 8
        assert completion(done, row) == tokens[:length]
        assert done.mask[row].tolist() == [1] * length + [0] * (done.ids.shape[1] - length)
        assert (done.ids[row, length:] == policy.processor.pad_id).all()
        assert bool(done.finished[row]) == (end in tokens)
    alone = sample(policy, prompts.select(torch.tensor([0])), max_new_tokens=8)
    assert alone.ids.shape == (1, whole.ids[0].tolist().index(end) + 1), "and nothing is read after the last end"


def test_a_completion_that_ends_with_its_last_token_is_finished(policy, prompts):
    one = prompts.select(torch.tensor([1]))
    tokens = sample(policy, one, max_new_tokens=6).ids[0].tolist()
    length = max(map(tokens.index, tokens)) + 1  # up to the last token that is new
    end_with(policy, tokens[length - 1])
    assert length > 1
    assert sample(policy, one, max_new_tokens=length).finished.tolist() == [True]
    assert sample(policy, one, max_new_tokens=length - 1).finished.tolist() == [False]


def test_a_completion_does_not_depend_on_the_batch_it_is_sampled_in(policy, prompts):
    """Its key decides it: alone, in another order, beside other prompts, or in a larger group."""
    keys = completion_keys([11, 12, 13, 14], 3, "seed", 0)
    how = {"max_new_tokens": 6, "temperature": 1.0}
    end_with(policy, sample(policy, prompts, group_size=3, keys=keys, **how).ids[4, 3])
    whole = sample(policy, prompts, group_size=3, keys=keys, **how)
    assert whole.prompt_of_row.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and whole.finished.any()
    assert len({tuple(completion(whole, n)) for n in range(12)}) == 12
    for row in range(4):
        alone = sample(policy, prompts.select(torch.tensor([row])), group_size=3, keys=keys[3 * row :][:3], **how)
        assert [completion(alone, n) for n in range(3)] == [completion(whole, 3 * row + n) for n in range(3)]
    order = torch.tensor([2, 0, 3])
    some = sample(policy, prompts.select(order), keys=[keys[3 * row + 1] for row in order], **how)
    assert [completion(some, i) for i in range(3)] == [completion(whole, 3 * row + 1) for row in order.tolist()]


def test_keys_are_by_name_prompt_and_number():
    keys = completion_keys([5, 6], 3, "seed", 1)
    assert len(set(keys)) == 6
    assert completion_keys([6], 3, "seed", 1) == keys[3:] and completion_keys([5, 6], 2, "seed", 1)[:2] == keys[:2]
    assert not set(keys) & set(completion_keys([5, 6], 3, "seed", 2))


@pytest.mark.parametrize("keys", [None, [1, 2, 3, 4], list(range(9))])
def test_sampling_wants_one_key_per_completion(policy, prompts, keys):
    with pytest.raises(ValueError, match=r"^sampling needs one key per completion, 8$"):
        sample(policy, prompts, max_new_tokens=1, group_size=2, temperature=1.0, keys=keys)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_are_as_frequent_as_their_probabilities(policy, prompts, temperature):
    """Pearson's chi-square over the tokens expected at least five times, the rest together: its mean is the degrees
    of freedom d, its standard deviation sqrt(2 d). The keys are fixed, so the number is too.
    """
    one, count = prompts.select(torch.tensor([1])), 3_000
    with torch.no_grad():
        logits = policy.logits(policy.read(one).last)[0]
    expected = count * (logits.double() / temperature).softmax(-1)
    keys = completion_keys([1], count, "chi-square")
    tokens = [
        sample(policy, one, max_new_tokens=1, group_size=500, temperature=temperature, keys=keys[i : i + 500]).ids[:, 0]
        for i in range(0, count, 500)
    ]
    seen = torch.cat(tokens).bincount(minlength=len(expected)).double()
    often = expected >= 5
    seen = torch.cat([seen[often], seen[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    freedom = len(seen) - 1
    assert freedom > 20
    assert abs(float(((seen - expected) ** 2 / expected).sum()) - freedom) < 3 * (2 * freedom) ** 0.5


def test_draws_invert_the_distribution_function():
    """Probabilities 0, 1/2, 0, 1/4, 1/4: the draw 0 takes the first token that can occur, and 1 - 2^-53 the last."""
    logits = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25]).log().expand(7, -1)
    draws = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.751, 0.99, 1 - 2.0**-53], dtype=torch.float64)
    assert pick(logits, draws)[0].tolist() == [1, 1, 3, 3, 4, 4, 4]
    halves = torch.tensor([[0.0, 2.0]]).log1p().expand(2, -1)  # 1 : 3, and 1 : 9 at temperature 1/2
    assert pick(halves, torch.tensor([0.2, 0.26], dtype=torch.float64))[0].tolist() == [0, 1]
    assert pick(halves / 0.5, torch.tensor([0.09, 0.2], dtype=torch.float64))[0].tolist() == [0, 1]
    assert draw(logits, 0.0, None, 0, 1.0).token.tolist() == [1] * 7


@pytest.mark.parametrize("vocabulary", [40_000, 40_192])
def test_a_large_vocabulary_is_drawn_from_a_few_rows_at_a_time(vocabulary):
    """20 rows, more than are looked at together: bitwise the tokens and log-probs of every row by itself."""
    generator = torch.Generator().manual_seed(3)
    logits, numbers = torch.randn(20, vocabulary, generator=generator), torch.rand(20, generator=generator).double()
    drawn = draw(logits, 0.7, numbers, 0, 1.0)
    alone = [draw(logits[row : row + 1], 0.7, numbers[row : row + 1], 0, 1.0) for row in range(20)]
    assert torch.equal(drawn.token, torch.cat([one.token for one in alone]))
    assert torch.equal(drawn.logprob, torch.cat([one.logprob for one in alone]))
    exact = torch.log_softmax(logits.double() / 0.7, -1)
    assert torch.allclose(drawn.logprob.double(), exact.gather(1, drawn.token[:, None]).squeeze(1), rtol=0, atol=2e-6)
    below = exact.exp().cumsum(1).gather(1, drawn.token[:, None]).squeeze(1)
    assert (below > numbers - 1e-6).all() and (
        below - exact.exp().gather(1, drawn.token[:, None])[:, 0] <= numbers + 1e-6
    ).all()


def test_placeholders_are_never_sampled_however_likely(policy, prompts):
    """Their rows of the head point where the hidden state points, so that each beats every other token by far."""
    with torch.no_grad():
        last = policy.read(prompts).last
        policy.head[policy.suppressed] = last.mean(0)
        assert torch.isin((last @ policy.head.T).argmax(-1), policy.suppressed).all()
    greedy = sample(policy, prompts, max_new_tokens=6)
    drawn = sample(policy, prompts, max_new_tokens=6, group_size=50, temperature=2.0, keys=list(range(200)))
    for done in (greedy, drawn):
        assert not torch.isin(done.ids[done.mask.bool()], policy.suppressed).any()


@pytest.mark.parametrize("size", [1, 2])
def test_the_policys_log_probs_are_those_the_tokens_were_drawn_with(policy, prompts, size):
    """So that the first importance ratio is 1: the log-prob of each token, computed while sampling step by step."""
    keys = completion_keys([1, 2, 3, 4], size, 0)
    done = sample(policy, prompts, max_new_tokens=5, group_size=size, temperature=0.8, keys=keys)
    with torch.no_grad():
        logprob = policy(prompts, done.ids, done.mask, done.prompt_of_row, temperature=0.8).logprob
        state = policy.read(prompts).expand(done.prompt_of_row)
        for position in range(5):
            step = (policy.logits(state.last) / 0.8).log_softmax(-1).gather(1, done.ids[:, position, None])[:, 0]
            torch.testing.assert_close(logprob[:, position], step, rtol=0, atol=1e-5)
            ones = torch.ones(len(done.ids), 1, dtype=torch.long)
            state, _ = policy.extend(state, policy.embed(done.ids[:, position, None]), ones)


def test_a_selection_keeps_the_completions_of_its_prompts(policy, prompts):
    keys = completion_keys([1, 2, 3, 4], 2, 0)
    done = sample(policy, prompts, max_new_tokens=7, group_size=2, temperature=1.0, keys=keys)
    end_with(policy, done.ids[5, 2])
    done = sample(policy, prompts, max_new_tokens=7, group_size=2, temperature=1.0, keys=keys)
    rows = torch.arange(4, 6)
    part = done.select(rows, first_prompt=2)
    assert part.prompt_of_row.tolist() == [0, 0] and torch.equal(part.finished, done.finished[rows])
    assert [completion(part, n) for n in range(2)] == [completion(done, n) for n in (4, 5)]
    assert part.mask.any(0).all(), "no column is padding alone"


def test_sampling_works_in_training_mode_with_gradient_checkpointing(checkpoint, policy, prompts):
    saving = OmniPolicy(str(checkpoint), gradient_checkpointing=True).train()
    expected = sample(policy, prompts, max_new_tokens=3)
    assert torch.equal(sample(saving, prompts, max_new_tokens=3).ids, expected.ids)
