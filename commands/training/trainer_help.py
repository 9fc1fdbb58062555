"""What `earwitness fit --help` says; `--help-all` lists every key, which takes Lightning and torch to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TEXT = """\
usage: earwitness {command} --config FILE [--config FILE ...] [--KEY VALUE ...]

{what}

  --config FILE          a complete YAML file, such as configs/sft.yaml or configs/grpo.yaml; later files and keys win
  --paths.data FOLDER    where shards and labels lie
  --paths.model FOLDER   checkpoint folder or hub id to begin with
  --paths.out FOLDER     where checkpoints, logs and the exported model go
  --ckpt_path FILE       checkpoint to load; without, `fit` continues from the last one of its folder
  --fresh true           `fit` starts anew, whatever checkpoints there are
  --threads N            of torch on the CPU
  --KEY VALUE            any key of the file, as --model.init_args.micro_batch_size 2 or --trainer.max_steps 10
  --print_config         the file as it would be used, with all defaults
  --help-all             every key, with what it means
  --model.help CLASS     the arguments of a class, as earwitness.GRPO; also --data.help, --trainer.help
"""


def short_help(args: Sequence[str], commands: Mapping[str, str]) -> str | None:
    """The help that these words ask for, None where they ask for none. commands: name -> what it does."""
    if len(args) == 2 and args[0] in commands and args[1] in ("-h", "--help"):
        what = commands[args[0]]
        return TEXT.format(command=args[0], what=what[:1].upper() + what[1:] + ".")
    return None


def long_help(args: Sequence[str]) -> list[str]:
    """The words as LightningCLI takes them: `--help-all` is its `--help`."""
    return ["--help" if word == "--help-all" else word for word in args]
