"""A trainer that only trains: no logs, no validation, no checkpoints unless asked for."""

from __future__ import annotations

from pathlib import Path

import lightning as L


def trainer_of(tmp_path: Path, max_steps: int = -1, **options) -> L.Trainer:
    """On the CPU, one pass, at most `max_steps`."""
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=max_steps,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **{"limit_val_batches": 0, "enable_checkpointing": False, "enable_progress_bar": False, **options},
    )
