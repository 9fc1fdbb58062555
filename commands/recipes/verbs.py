"""The verbs of a recipe's steps: the trainer's commands, and functions by name and module."""

from __future__ import annotations

TRAINER_VERBS = ("fit", "validate", "test", "predict")
FUNCTIONS = {
    "build_sounds": "earwitness.datamodules.corpora.sounds",
    "build_spoken_digits": "earwitness.datamodules.corpora.spoken_digits",
    "shard": "earwitness.datamodules.shards.packing",
    "build_index": "earwitness.datamodules.shards.index",
    "build_tiny": "earwitness.lightning_modules.policy.tiny",
    "label": "earwitness.curriculum.contribution.labels",
    "published_labels": "earwitness.curriculum.contribution.labels",
    "label_by_voters": "earwitness.commands.recipes.jobs",
    "ask_benchmarks": "earwitness.commands.recipes.jobs",
    "score_table": "earwitness.commands.evaluation.score_table",
    "evaluate": "earwitness.curriculum.evaluation.evaluate",
    "build_report": "earwitness.reports.run_page",
}
