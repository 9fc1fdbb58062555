"""What SFT learns to say and how it is asked: the answer, or reasoning and then the answer; nothing else is counted."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax

from earwitness.datamodules.batch import Batch
from earwitness.datamodules.batches import reasoning
from earwitness.datamodules.batches.quarantine import read_quarantine
from earwitness.datamodules.batches.requests import EvaluationSpec, Request, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.questions.answers import (
    extract_answer,
    is_right,
    is_well_thought,
    reasoned_text,
    target_text,
)
from earwitness.datamodules.questions.question import Question
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage.files import Reading
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.ranks import Ranks
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.probing import option_accuracy, silent_prompts
from earwitness.tests.commands.test_launch import CONFIG, run, same_weights, script
from earwitness.tests.datamodules.test_datamodule import CHOICES, build, module
from earwitness.tests.trainers import trainer_of

THINK = " Output the thinking process in <think> </think> and final answer in <answer> </answer>."
PAPER = " Output the final answer in <answer> </answer>."
STRUCTURED = "<stage1>It asks for a sound.<stage1><stage2>{n} drops fall.<stage2>"
UNSTRUCTURED = "<simple analysis> Drop number {n}. </simple analysis>\n"
CLIPS = [n % 6 for n in range(24)] + [9, 10]
SPLITS = ["train"] * 24 + ["val"] * 2
SGD = partial(torch.optim.SGD, lr=0.05)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty-four questions of types a and b to train on; all have structured reasoning, those of type a the other."""
    texts = {
        "structured_cot": lambda n: STRUCTURED.format(n=n * 10**n),  # of very different lengths
        "unstructured_cot": lambda n: "" if n % 2 else UNSTRUCTURED.format(n=n),
    }
    return build(tmp_path_factory.mktemp("targets"), CLIPS, SPLITS, **texts)


@pytest.fixture(scope="module")
def tiny(corpus) -> str:
    build_tiny(str(corpus / "q.jsonl"), str(corpus / "tiny"), hidden=64, layers=2, audio_hidden=32, audio_layers=1)
    return str(corpus / "tiny")


def curriculum(**stage) -> dict:
    first = {"name": "first", "algorithm": "sft", "batch_size": 4, "budget": {"epochs": 1}} | stage
    return {"seed": 3, "cells": ["question_type"], "stages": [first]}


def data_of(corpus: Path, kind: str = "structured", stage: dict | None = None, **more) -> AudioQuestions:
    return module(corpus, curriculum=curriculum(**(stage or {})), reasoning=kind, **more)


def fit_data(corpus: Path, tiny: str, kind: str = "structured", stage: dict | None = None, **more) -> AudioQuestions:
    training = TrainingSpec(curriculum(**(stage or {})), "first", reasoning=kind, **more)  # type: ignore[arg-type]
    return AudioQuestions(str(corpus / "index.arrow"), tiny, training=training)


# What is said


def test_the_target_is_the_thinking_and_the_answer_between_the_tags_the_prompt_names():
    text = reasoned_text("  It drips.\nSo it is rain. \n", "Rain")
    assert text == "<think>\nIt drips.\nSo it is rain.\n</think>\n<answer>Rain</answer>"
    assert is_well_thought(text) and extract_answer(text) == "Rain"


@pytest.mark.parametrize("quoted", ["<answer>wind</answer>", "</think>", "<think><answer>", "</answer>"])
def test_tags_within_the_thinking_do_not_change_the_answer(quoted):
    text = reasoned_text(f"Not {quoted}, as it drips.", "rain")
    assert extract_answer(text) == "rain" and is_right(text, "Rain") and not is_right(text, "wind")


@pytest.mark.parametrize(
    ("completion", "well"),
    [
        ("<think>a</think><answer>b</answer>", True),
        (" <think>\na\n</think>\n\n<answer>b</answer>\n", True),
        ("<think>a</think>so <answer>b</answer>", False),
        ("so <think>a</think><answer>b</answer>", False),
        ("<think> \n</think><answer>b</answer>", False),
        ("<think>a<answer>b</answer>", False),
        ("<think>a</think>b", False),
        ("<answer>b</answer>", False),
        ("<think>a</think><think>a</think><answer>b</answer>", False),
        ("<think><answer>b</answer></think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>b</answer>", False),
        ("a</think><answer>b</answer>", False),
        ("", False),
    ],
)
def test_well_thought_is_one_thinking_and_one_answer_and_nothing_beside(completion, well):
    assert is_well_thought(completion) is well


@pytest.mark.parametrize("thought", ["It drips.", "<stage1>x<stage1>", "ends in a word", "1, 2", "> \t", "é", "</"])
def test_the_answer_is_the_same_tokens_whatever_the_reasoning_begins_and_ends_with(corpus, thought):
    processor = OmniProcessor.from_pretrained(corpus / "checkpoint")

    def ids(text: str) -> list[int]:
        return processor.targets([text])[0][0].tolist()

    said, whole = ids(target_text("a dog")), ids(reasoned_text(thought, "a dog"))
    end = [processor.eos_id]
    assert whole[-len(said) :] == said
    assert whole[: -len(said)] + end == ids(f"<think>\n{thought.strip()}\n</think>\n")
    opening = ids("<think>\n")[:-1]
    assert whole[: len(opening)] == opening


# How it is asked


@pytest.mark.parametrize(("kind", "text"), [("structured", STRUCTURED), ("unstructured", UNSTRUCTURED)])
def test_training_on_reasoning_asks_for_it_and_says_it_before_the_answer(corpus, kind, text):
    data = data_of(corpus, kind, pool={"split": "train", "question_type": "a"}, shuffle_options=True)
    batches = list(data.train_dataloader())
    assert sum(map(len, batches)) == 12
    for batch in batches:
        said = data.processor.decode(batch.target_ids, batch.target_mask)
        for row, sample in enumerate(batch.samples):
            n = int(sample.question.id)
            thought = text.format(n=n * 10**n if kind == "structured" else n).strip()
            assert said[row] == f"<think>\n{thought}\n</think>\n<answer>{CHOICES[n % 4]}</answer>"
            asked = data.processor.tokenizer.decode(batch.prompts.suffix_ids[row][batch.prompts.suffix_mask[row] == 1])
            listed = f"Question {n}? Please choose the answer from the following options: {list(sample.choices)}."
            assert asked.startswith(listed + THINK) and sample.style == "think"


def test_reasoning_as_given_is_the_one_that_a_question_has_or_none(corpus):
    """Structured before unstructured; all are asked to think, and a question without thoughts is no fault."""
    whole = Question("s", "1", "Which?", ("a", "b"), "a", "t", structured_cot="S", unstructured_cot="U")
    other, bare = replace(whole, structured_cot=""), replace(whole, structured_cot="", unstructured_cot=" ")
    said = [reasoning.target_of(one, "given") for one in (whole, other, bare)]
    assert said == [reasoned_text("S", "a"), reasoned_text("U", "a"), "<answer>a</answer>"]
    data = data_of(corpus, "given")
    batch = next(iter(data.train_dataloader()))
    assert all(THINK in words for words in asked_in(data, batch))


def test_without_reasoning_everything_is_as_the_paper_has_it(corpus):
    data = data_of(corpus, "none")
    for batch in data.train_dataloader():
        said = data.processor.decode(batch.target_ids, batch.target_mask)
        assert said == [f"<answer>{s.question.answer}</answer>" for s in batch.samples]
        assert all(PAPER in words and THINK not in words for words in asked_in(data, batch))


def asked_in(data: AudioQuestions, batch) -> list[str]:
    return [data.processor.tokenizer.decode(ids) for ids in batch.prompts.suffix_ids]


@pytest.mark.parametrize("thinks", [False, True])
def test_an_evaluation_asks_for_thinking_only_where_it_says_so(corpus, thinks):
    asking = EvaluationSpec({"split": "val"}, reasoning=thinks)
    data = data_of(corpus, "none" if thinks else "structured", validation=asking, evaluation=asking)
    for batch in (*data.val_dataloader(), *data.test_dataloader()):
        assert all((THINK in words) is thinks and (PAPER in words) is not thinks for words in asked_in(data, batch))
        said = data.processor.decode(batch.target_ids, batch.target_mask)
        assert said == [f"<answer>{s.question.answer}</answer>" for s in batch.samples]


def test_grpo_is_asked_to_think_and_needs_no_reasoning_to_learn_from(corpus):
    """Half of the questions have no unstructured reasoning: SFT refuses them, GRPO thinks for itself."""
    data = data_of(corpus, "unstructured", {"algorithm": "grpo"})
    for batch in data.train_dataloader():
        assert all(THINK in words for words in asked_in(data, batch))
    sft = {"name": "a", "algorithm": "sft", "batch_size": 4, "pool": {"question_type": "a"}}
    grpo = {"name": "b", "algorithm": "grpo", "batch_size": 4, "pool": {"question_type": "b"}}
    turns = {"name": "both", "interleave": {"steps": 4, "share": {"b": 0.5}}, "stages": [sft, grpo]}
    both = {"seed": 3, "cells": ["question_type"], "stages": [turns]}
    data = module(corpus, curriculum=both, stage="both", reasoning="unstructured")
    kinds = set()
    for batch in data.train_dataloader():
        said = data.processor.decode(batch.target_ids, batch.target_mask)
        kinds |= {(batch.stage, text.startswith("<think>\n<simple analysis>")) for text in said}
        assert all(THINK in words for words in asked_in(data, batch))
    assert kinds == {("a", True), ("b", False)}


def test_a_silent_probe_asks_in_the_words_of_the_batch_and_scores_answers_alone(corpus, tiny):
    data = fit_data(corpus, tiny, shuffle_options=True)
    data.setup("fit")
    batch, policy = data.builder.batch(data.training_data.request(0)), OmniPolicy(tiny)
    silent = silent_prompts(policy, batch)
    assert torch.equal(silent.prompts.suffix_ids, batch.prompts.suffix_ids) and THINK in asked_in(data, silent)[0]
    said = policy.processor.decode(silent.target_ids, silent.target_mask)
    assert said == [target_text(s.question.answer) for s in batch.samples]
    found, sample = option_accuracy(policy, silent, slice(0, 1)), batch.samples[0]
    scores = []
    for choice in sample.choices:
        ids, mask = policy.processor.targets([f"<answer>{choice}</answer>"])
        with torch.no_grad():
            scores.append(policy(silent.prompts.select(slice(0, 1)), ids, mask).logprob.double().sum())
    right = sample.choices.index(sample.question.answer)
    assert float(found[0]) == pytest.approx(float(torch.stack(scores).softmax(0)[right]), abs=1e-5)


# What is missing


def numbers(corpus: Path) -> list[int]:
    """The training questions' numbers in the order of the index."""
    reader = ShardReader(corpus / "index.arrow")
    found = [int(reader.key(row).partition("/")[2]) for row in range(len(reader))]
    return [n for n in found if n < 24]


def test_questions_without_the_reasoning_are_counted_before_training(corpus):
    first = next(n for n in numbers(corpus) if n % 2)
    with pytest.raises(InputError) as error:
        data_of(corpus, "unstructured")
    assert str(error.value) == (
        f"stage 'first': 12 of 24 questions checked have no unstructured_cot to learn from, s/{first:02} the first; "
        "give a pool where all have it (by source, or a column of the label table), or set training.reasoning: none"
    )
    assert data_of(corpus, "unstructured", {"pool": {"question_type": "a"}}).num_steps == 3
    with pytest.raises(InputError, match=r"^stage 'first': 5 of 5 questions checked have no unstructured_cot"):
        data_of(corpus, "unstructured", {"pool": {"question_type": "b"}, "budget": {"samples": 5}})
    assert data_of(corpus, "unstructured", rank=1, world=2).num_steps == 6, "one rank looks for all"


@pytest.mark.parametrize("workers", [0, 1])
def test_one_that_was_not_looked_at_stops_the_run_and_nothing_stands_in_for_it(corpus, tmp_path, monkeypatch, workers):
    """Looking at no question leaves the batch itself to find it."""
    monkeypatch.setattr(reasoning, "_MOST_CHECKED", 0)
    bad = Reading(quarantine=str(tmp_path / "bad"))
    data = data_of(corpus, "unstructured", num_workers=workers, reading=bad)
    with pytest.raises(InputError) as error:
        list(data.train_dataloader())
    first = next(s for s in data.training_data.request(0).rows if not data.reader.question(int(s)).unstructured_cot)
    assert str(error.value).startswith(
        f"{data.reader.key(int(first))} has no unstructured_cot to learn from; give a pool"
    )
    assert read_quarantine(tmp_path / "bad") == []


def test_of_many_questions_some_are_looked_at_from_the_first_to_the_last(corpus, monkeypatch):
    monkeypatch.setattr(reasoning, "_MOST_CHECKED", 5)
    with pytest.raises(InputError, match="of 5 questions checked") as error:
        data_of(corpus, "unstructured")
    looked = [numbers(corpus)[k] for k in (0, 5, 11, 17, 23)]  # 23 / 4 = 5.75 apart, rounded down
    lacking = [n for n in looked if n % 2]
    assert f" {len(lacking)} of 5 questions checked" in str(error.value)
    assert f" s/{lacking[0]:02} the first" in str(error.value)


def test_other_kinds_of_reasoning_and_another_kind_than_the_checkpoints_are_refused(corpus):
    with pytest.raises(InputError, match="reasoning must be one of none, structured, unstructured, given; got 'both'"):
        data_of(corpus, "both")
    state = data_of(corpus, "structured").state_dict()
    with pytest.raises(InputError, match="'reasoning' changed since the checkpoint: it was structured, is none"):
        data_of(corpus, "none").load_state_dict(state)


# What counts


class Bench:
    """What `SFT.training_step` needs of a module: gradients are added up, none is applied; logs are kept."""

    def __init__(self, policy, size: int = 8) -> None:
        self.net, self.size, self.logged, self.ranks = policy, size, {}, Ranks()

    def micro_batches(self, rows: int) -> list[slice]:
        return [slice(i, min(i + self.size, rows)) for i in range(0, rows, self.size)]

    def update_policy(self, losses, step: int, samples=()) -> dict[str, float]:
        total = 0.0
        for loss_of in losses:
            loss = loss_of()
            if loss.requires_grad:
                loss.backward()
            total += float(loss.detach())
        return {"train/loss": total}

    def batch_metrics(self, batch) -> dict[str, float]:
        return {}

    def log_dict(self, values: dict[str, float], **_) -> None:
        self.logged |= values

    def log(self, *_, **__) -> None:
        pass


def batch_of(processor: OmniProcessor, data: AudioQuestions, rows: list[int], weights: list[float]):
    """A training batch of these rows of the index, with structured reasoning."""
    own = {"rows": np.array(rows), "weights": np.array(weights), "passes": np.zeros(len(rows), np.int64)}
    return data.builder.batch(Request(**vars(data.training_data.request(0)) | own))


def test_the_positions_that_count_are_those_of_the_target_by_hand():
    """Position t has log-prob -2^t. Targets of 3, 5 and 2 tokens of weights 1, 0.5 and 0, padded to 5.

    1 x (1 + 2 + 4) + 0.5 x (1 + 2 + 4 + 8 + 16) = 22.5, over the 3 + 5 tokens of what is real; padding adds nothing.
    """
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    widths = []

    def net(prompts, ids, own, said):
        widths.append(ids.shape[1])
        assert torch.equal(ids > 0, own > 0) and own.sum(1).tolist() == said.lengths
        return SimpleNamespace(logprob=-(2.0 ** torch.arange(ids.shape[1])).expand(ids.shape))

    net.dropout, net.sharded, net.head = nullcontext, False, torch.zeros(1)
    net.check_targets, net.counted = lambda *_: None, lambda prompts: prompts
    labels = ("weak", "", "strong")
    samples = [SimpleNamespace(weight=w, label=label) for w, label in zip([1.0, 0.5, 0.0], labels, strict=True)]
    prompts = SimpleNamespace(select=lambda rows: rows)
    batch = Batch(prompts, mask * 7, mask, torch.tensor([1.0, 0.5, 0.0]), samples, step=0)
    for size, expected in ((8, [5]), (2, [5, 2]), (1, [3, 5, 2])):
        widths.clear()
        bench = Bench(net, size)
        SFT.training_step(bench, batch, 0)
        assert bench.logged["train/loss"] == pytest.approx(22.5 / 8, abs=1e-6)
        assert widths == expected, "no micro-batch is wider than its longest target"
        assert bench.logged["loss/weak"] == pytest.approx(7 / 3) and bench.logged["loss/unlabelled"] == 31 / 5
        assert "loss/strong" not in bench.logged


def test_a_steps_loss_is_that_of_whole_sequences_read_one_by_one_from_raw_logits(corpus, tiny):
    """Every sample alone and unpadded through transformers' own forward; placeholders have no probability.

    What is summed are the log-probs of the reasoning, the answer and the end of the turn, and of no token before.
    """
    data = fit_data(corpus, tiny)
    data.setup("fit")
    policy = OmniPolicy(tiny)
    batch = batch_of(policy.processor, data, [0, 3, 5, 9], [1.0, 0.25, 2.0, 0.0])
    assert len(set(batch.target_mask.sum(1).tolist())) == 4, "all of different lengths"
    bench = Bench(policy, 3)
    SFT.training_step(bench, batch, 0)
    total, count = 0.0, 0
    for row, sample in enumerate(batch.samples[:3]):
        one = batch.prompts.select(slice(row, row + 1))
        thought = sample.question.structured_cot
        said = f"<think>\n{thought}\n</think>\n<answer>{sample.question.answer}</answer><|im_end|>"
        ids = policy.processor.tokenizer(said, add_special_tokens=False, return_tensors="pt")["input_ids"]
        whole = torch.cat([one.prefix_ids, one.suffix_ids, ids], 1)
        with torch.no_grad():
            logits = policy.thinker(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                input_features=one.features,
                feature_attention_mask=one.feature_mask,
            ).logits
        logits[..., policy.suppressed] = -torch.inf
        length = ids.shape[1]
        each = log_softmax(logits[0, -length - 1 : -1].double(), -1)[torch.arange(length), ids[0]]
        total, count = total - float(batch.weights[row]) * float(each.sum()), count + length
    assert bench.logged["train/loss"] == pytest.approx(total / count, rel=1e-5)


def gradient(policy: OmniPolicy) -> torch.Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.parameters()])


def test_a_sample_of_weight_two_is_the_sample_twice_apart_from_the_denominator(corpus, tiny):
    """The sums of the gradients agree; once they are divided by the tokens of two samples, once by those of three."""
    data = fit_data(corpus, tiny)
    data.setup("fit")
    grads, tokens = [], []
    for rows, weights in (([2, 7], [2.0, 1.0]), ([2, 2, 7], [1.0, 1.0, 1.0]), ([2, 7, 7], [2.0, 1.0, 0.0])):
        policy = OmniPolicy(tiny)
        batch = batch_of(policy.processor, data, rows, weights)
        SFT.training_step(Bench(policy), batch, 0)
        grads.append(gradient(policy))
        tokens.append(int(batch.target_mask[batch.weights > 0].sum()))
    assert tokens[0] == tokens[2] < tokens[1] and grads[0].abs().max() > 1e-3
    torch.testing.assert_close(grads[0] * tokens[0], grads[1] * tokens[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(grads[2], grads[0], rtol=0, atol=1e-6)
    one = grads[0] / grads[1]
    assert float(one[grads[1].abs() > 1e-3].median()) == pytest.approx(tokens[1] / tokens[0], rel=1e-3)


# What trains, and that the split is no matter


def weights_of(policy: OmniPolicy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_steps_on_reasoning_are_the_same_for_every_micro_batch_size(corpus, tiny, tmp_path, adapters):
    ends = []
    stage = {"budget": {"samples": 11}, "loss_weight": {"shares": {"a": 0.75, "b": 0.25}}}
    for size in (1, 3, 4):
        torch.manual_seed(0)  # of the adapters' beginning
        make = partial(OmniPolicy, tiny, lora=Lora(rank=4) if adapters else None)
        fitted = SFT(make, SGD, max_grad_norm=1e3, micro_batch_size=size)
        fitted.configure_model()
        start = weights_of(fitted.net)
        data = fit_data(corpus, tiny, "structured", stage, shuffle_options=True, sort_by_length=True)
        trainer_of(tmp_path).fit(fitted, data)
        ends.append(weights_of(fitted.net))
        moved = {name for name, value in ends[-1].items() if not torch.equal(value, start[name])}
        assert moved and all(("lora" in name) is adapters for name in moved)
    assert max(float((ends[0][name] - start[name]).abs().max()) for name in start) > 1e-3
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], atol=1e-6, rtol=0)


def test_training_the_projector_changes_its_weights_alone_and_all_of_them(corpus, tiny, tmp_path):
    fitted = SFT(partial(OmniPolicy, tiny, train=["projector"]), SGD)
    trainer_of(tmp_path, 1).fit(fitted, fit_data(corpus, tiny))
    start = weights_of(OmniPolicy(tiny))
    changed = {name for name, value in weights_of(fitted.net).items() if not torch.equal(value, start[name])}
    assert changed == {name for name in start if ".proj." in name and "audio_tower" in name and "layers" not in name}
    assert changed == {"thinker.audio_tower.proj.weight", "thinker.audio_tower.proj.bias"}


# What is logged


EQUAL = ("train/loss", "train/grad_norm", "loss/", "seen/", "data/share/")  # padding and times depend on the ranks
SHARES = [f"data/share/{label}" for label in ("weak", "strong", "unlabelled")]


def test_what_is_new_in_a_step_and_its_labels_are_logged(small, tmp_path):
    """Nine questions twice in batches of four: the third holds the last new one and three again, the last two of four.

    Questions of weight 0 fill up the last batch; they are neither new nor again, and no part of the shares.
    """
    stage = {"name": "s", "algorithm": "sft", "batch_size": 4, "budget": {"samples": 9, "epochs": 2}}
    training = TrainingSpec({"seed": 5, "cells": ["label"], "stages": [stage]}, "s")
    data = AudioQuestions(small.index, small.tiny, small.labels, training, EvaluationSpec({"split": "val"}))
    logged, labels = [], []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
            labels.append(Counter(s.label for s, w in zip(batch.samples, batch.weights, strict=True) if w > 0))

    trainer_of(tmp_path, callbacks=[Watch()]).fit(SFT(partial(OmniPolicy, small.tiny), SGD), data)
    assert [step["seen/unique"] for step in logged] == [4, 4, 1, 0, 0]
    assert [step["seen/repeat"] for step in logged] == [0, 0, 3, 4, 2]
    assert len({tuple(each.items()) for each in labels}) > 1 and sum(labels[-1].values()) == 2
    for step, each in zip(logged, labels, strict=True):
        expected = [each["weak"], each["strong"], 0]
        assert [step[name] for name in SHARES] == pytest.approx([n / sum(expected) for n in expected])


@pytest.mark.slow
def test_two_processes_train_adapters_and_log_what_one_does(small, tmp_path):
    """Also where one rank's share of the last batch is padding alone; `test_launch.py` does it with full weights."""
    logs = []
    for name, words in (("one", [sys.executable, "-m", "earwitness"]), ("two", [script("earwitness")])):
        out = tmp_path / name
        text = CONFIG.format(root=small.root, tiny=small.tiny, out=out, module="SFT", stage="sft", more="")
        text = text.replace("pool: {label: strong}, ", "").replace("{samples: 7}", "{samples: 7, epochs: 3}")
        assert text.count("epochs: 3") == text.count("stage: sft\n") == 1
        out.with_suffix(".yaml").write_text(text.replace("stage: sft\n", "stage: sft\n      shuffle_options: true\n"))
        more = ["--trainer.devices", "2", "--trainer.strategy", "ddp"] if name == "two" else []
        lora = ["--seed_everything", "1", "--model.init_args.policy.init_args.lora.rank", "4"]
        run(*words, "fit", "--config", str(out.with_suffix(".yaml")), *lora, *more)
        (path,) = (out / "log").rglob("metrics.csv")
        rows = [row for row in csv.DictReader(path.open()) if row["train/loss"]]
        logs.append([{n: float(v) for n, v in row.items() if v and n.startswith(EQUAL)} for row in rows])
    same_weights(tmp_path / "one", tmp_path / "two")
    trained = load_file(tmp_path / "one" / "model" / "model.safetensors")
    start = load_file(Path(small.tiny) / "model.safetensors")
    assert max(float((trained[name] - start[name]).abs().max()) for name in start) > 1e-5
    one, two = logs
    assert [row["seen/unique"] for row in one] == [4, 3, 0, 0, 0, 0]
    assert [row["seen/repeat"] for row in one] == [0, 1, 4, 4, 4, 1], "21 presentations"
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, abs=1e-5) and sum(a[name] for name in SHARES) == pytest.approx(1)
