"""Tokens per second of the policy's sampler beside Hugging Face `generate`, on the same prompts and weights.

    python benchmarks/sampling.py [CHECKPOINT]            n = 8 completions of 4 prompts, 32 tokens
    python benchmarks/sampling.py [CHECKPOINT] --out FILE  also figures as JSON

Both take turns in one process; CPU seconds, on a GPU those of the wall; the median of the turns, and no completion ends
before the limit. On a GPU also without CUDA graphs, and in how many completions their rounding made another draw.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from grpo_step import widened  # the file beside this one

from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_tiny
from earwitness.lightning_modules.rollout.sampling import sample

PROMPTS, SECONDS = 4, 3.0


def made(folder: Path) -> str:
    """A checkpoint of 55 million random weights and 32,768 words; its folder."""
    record = {"source_dataset": "s", "id": "0", "question": "Which?", "answer": "rain", "choices": ["rain", "bark"]}
    (folder / "q.jsonl").write_text(json.dumps(record | {"audio_path": "x.wav"}) + "\n")
    size: Any = {"hidden": 512, "layers": 8, "audio_hidden": 256, "audio_layers": 4}
    build_tiny(str(folder / "q.jsonl"), str(folder / "made"), **size)
    widened(folder / "made", 32_768)
    return str(folder / "made")


def asked(policy: OmniPolicy) -> Prompts:
    """Questions about noise of one length, so that `generate` has no padding to suffer from."""
    record = {
        "source_dataset": "s",
        "question": "Which sound is heard?",
        "answer": "rain",
        "choices": ["rain", "a bark"],
    }
    questions = [parse_question(record | {"id": str(n)}, "test") for n in range(PROMPTS)]
    clips = [np.random.default_rng(n).normal(0, 0.1, int(SECONDS * 16_000)).astype(np.float32) for n in range(PROMPTS)]
    return policy.processor.batch([Sample(q, q.choices) for q in questions], clips, ["a"] * PROMPTS).prompts


def generate(policy: OmniPolicy, prompts: Prompts, group: int, tokens: int) -> Any:
    """The same by transformers: as many tokens, none of them an end."""
    return policy.thinker.generate(
        input_ids=torch.cat([prompts.prefix_ids, prompts.suffix_ids], 1),
        attention_mask=torch.cat([prompts.prefix_mask, prompts.suffix_mask], 1),
        input_features=prompts.features,
        feature_attention_mask=prompts.feature_mask,
        do_sample=True,
        top_k=0,
        num_return_sequences=group,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        suppress_tokens=policy.suppressed.tolist(),
        pad_token_id=policy.processor.pad_id,
    )


def clock() -> float:
    """Seconds: of the processor, or of the wall once a GPU has done what it was given."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def turns(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of every job, the median of `repeats` turns after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            if turn:
                found[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="a folder; by default a small model made for this")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        policy = OmniPolicy(given.checkpoint or made(Path(folder)), dtype="bfloat16" if on_gpu else "float32")
    policy.processor.eos_id = -1  # nothing ends before the limit
    policy.thinker.generation_config.eos_token_id = None
    policy.to("cuda" if on_gpu else "cpu")
    prompts = asked(policy).to("cuda" if on_gpu else "cpu")
    keys = list(range(PROMPTS * given.group))
    how = {"max_new_tokens": given.tokens, "group_size": given.group, "temperature": 1.0, "keys": keys}
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: sample(policy, prompts, **how),
        "transformers generate": lambda: generate(policy, prompts, given.group, given.tokens),
    }
    if on_gpu:
        jobs["ours without CUDA graphs"] = lambda: sample(policy, prompts, **how, cuda_graphs=False)
    with torch.no_grad():
        seconds = turns(jobs, given.repeats)
    said = PROMPTS * given.group * given.tokens
    figures = {
        "machine": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one core",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(p.numel() for p in policy.parameters()),
        "tokens per second": {name: round(said / value, 1) for name, value in seconds.items()},
        "ratio": round(seconds["transformers generate"] / seconds["ours"], 2),
    }
    if on_gpu:
        with torch.no_grad():
            replayed, plain = (sample(policy, prompts, **how, cuda_graphs=graphs) for graphs in (True, False))
        figures["rows that CUDA graphs changed"] = int((replayed.ids != plain.ids).any(1).sum())
    print(json.dumps(figures, indent=1))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
