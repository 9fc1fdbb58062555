"""A run from the command line, and its export: the model at its end, and the same one from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earwitness.commands.cli import main
from earwitness.tests.whole_omni import build_whole

CONFIG = """
paths: {{data: {root}, model: {source}, out: {out}}}
threads: 1
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  logger: false
  limit_val_batches: 0
  num_sanity_val_steps: 0
  callbacks:
    - {{class_path: earwitness.ExportPolicy, init_args: {{folder: "{model}", form: {form}}}}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: "${{paths.out}}/checkpoints", save_top_k: 0, save_last: true, every_n_train_steps: 1}}
model:
  class_path: earwitness.SFT
  init_args:
    policy: {{class_path: earwitness.OmniPolicy, init_args: {{checkpoint: "${{paths.model}}", lora: {{rank: 2}}}}}}
    optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.5}}}}
data:
  class_path: earwitness.AudioQuestions
  init_args:
    index: ${{paths.data}}/shards/index.arrow
    labels: ${{paths.data}}/labels.arrow
    training:
      stage: sft
      curriculum:
        cells: [label]
        stages: [{{name: sft, algorithm: sft, pool: {{label: weak}}, batch_size: 4, budget: {{steps: 2}}}}]
"""


def write_config(small, folder: Path, source: Path, model: Path, form: str) -> str:
    text = CONFIG.format(root=small.root, source=source, out=folder / "run", model=model, form=form)
    (folder / "config.yaml").write_text(text)
    return str(folder / "config.yaml")


def test_a_checkpoint_is_exported_as_the_model_at_the_end_was(small, tmp_path, capsys):
    source, run = tmp_path / "omni", tmp_path / "run"
    build_whole(small.tiny, source)
    main(["fit", "--config", write_config(small, tmp_path, source, run / "model", "full-omni")])
    capsys.readouterr()
    named = ["--config", str(tmp_path / "config.yaml")]
    main(["export", str(run), "--to", str(tmp_path / "again"), "--full-omni", *named])
    assert capsys.readouterr().out.startswith(f"step 2, full-omni {tmp_path}/again, tensors 2")
    one, other, before = (load_file(f / "model.safetensors") for f in (run / "model", tmp_path / "again", source))
    assert one.keys() == other.keys() == before.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {n.split(".")[-2] for n in one if not torch.equal(one[n], before[n])} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    main(["export", str(run / "checkpoints" / "last.ckpt"), "--to", str(tmp_path / "adapter"), "--adapter", *named])
    assert capsys.readouterr().out == f"step 2, adapter {tmp_path}/adapter, tensors 16\n"


@pytest.mark.parametrize(
    ("form", "model", "sentence"),
    [
        ("merged", "tiny", "the model that training started from is here; name another folder"),
        ("full-omni", "new", 'has no talker or token2wav in safetensors files; export it as "merged"'),
        ("whole", "new", "no form 'whole'; there are merged, full-omni, adapter"),
    ],
)
def test_what_could_not_be_written_at_the_end_is_refused_at_the_start(small, tmp_path, capsys, form, model, sentence):
    tiny = Path(small.tiny)
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", write_config(small, tmp_path, tiny, tiny.with_name(model), form)])
    assert end.value.code in (1, 2) and sentence in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tiny.iterdir()}
    assert not [*(tmp_path / "run" / "checkpoints").glob("step-*")], "nothing was trained"
