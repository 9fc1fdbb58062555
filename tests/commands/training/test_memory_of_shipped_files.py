"""`earwitness plan configs/sft.yaml --memory` needs neither the model nor the hub."""

from __future__ import annotations

import transformers

from earwitness.commands.training.memory_table import show_memory
from earwitness.tests.places import ROOT


def test_a_published_name_is_known_without_the_hub(monkeypatch, capsys):
    """SFT of 7B with LoRA, 4 questions of 30 s: 20 GB, as docs/scale.md says, of which the weights are 17.9."""
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", None)
    more = ["model.init_args.policy.init_args.gradient_checkpointing=true"]
    show_memory(str(ROOT / "configs" / "sft.yaml"), more, 8, ["ddp"], 30.0, 80.0)
    first, names, row, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("Qwen/Qwen2.5-Omni-7B: LoRA of rank 16, recomputed")
    needs = dict(zip(names.split()[1:], map(float, row.split()[1:]), strict=True))
    assert needs["weights"] == 17.9 and round(needs["total"]) == 20
