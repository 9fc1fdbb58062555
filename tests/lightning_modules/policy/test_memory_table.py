"""The table of docs/scale.md is what the dry run counts."""

from __future__ import annotations

import pytest

from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.memory import Lengths, measured, memory_of
from earwitness.tests.lightning_modules.policy.test_memory import published
from earwitness.tests.places import ROOT

QUICK = "7B, full, GRPO"
ROWS = {
    cells[1].strip(): [cell.strip() for cell in cells[2:6]]
    for cells in (line.split("|") for line in (ROOT / "docs" / "scale.md").read_text().splitlines())
    if len(cells) == 7 and cells[1].strip()[1:3] == "B,"
}


def shown(needs, numbers, grpo: bool, gather: str = "auto") -> str:
    """GB for these numbers of GPUs, as the table says them: one that is more than 80 does not fit."""
    totals = [memory_of(needs, number, grpo, 2, gather, False).total / 1e9 for number in numbers]
    return " / ".join(f"{total:.0f}" + (": no" if total > 80 else "") for total in totals)


@pytest.mark.parametrize("row", [row if row == QUICK else pytest.param(row, marks=pytest.mark.long) for row in ROWS])
def test_the_table_is_what_is_counted(row):
    size, trained, algorithm, *more = row.split(", ")
    grpo = algorithm == "GRPO"
    lengths = Lengths(1, 30.0, said=128, group=8, samples=True, rollout=4) if grpo else Lengths(4, 30.0)
    policy = {"dtype": "bfloat16", "gradient_checkpointing": more == ["recomputed"]}
    policy |= {"lora": Lora()} if trained == "LoRA" else {}
    alone, divided = (measured(published(size), policy, lengths, strategy) for strategy in ("ddp", "fsdp2"))
    activations = f"{memory_of(divided, 8, grpo, 2, 'step', False).activations / 1e9:.1f}"
    found = [shown(alone, (8,), grpo), *(shown(divided, (8, 32), grpo, how) for how in ("layer", "step")), activations]
    assert found == ROWS[row]


def test_the_table_has_ten_rows():
    assert len(ROWS) == 10 and QUICK in ROWS
