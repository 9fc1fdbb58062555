"""`earwitness serve`: a vLLM that samples for training processes on other nodes."""

from __future__ import annotations

import argparse
import json

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments; all but the address are those of `VllmEngine`."""
    parser.add_argument("checkpoint", help="folder or hub id of the model; training processes send their weights")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for other nodes")
    parser.add_argument("--port", type=int, default=8437, help="0 for a free one")
    parser.add_argument(
        "--without-token", action="store_true", help="serve anyone who reaches another host than 127.0.0.1"
    )
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9, help="share of the GPU's memory")
    parser.add_argument("--max-model-len", type=int, default=4096, help="positions of a prompt and its completion")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs that share the model")
    parser.add_argument("--dtype", default="auto", help="of vLLM's weights, e.g. bfloat16; auto: vLLM decides")
    parser.add_argument("--enforce-eager", action="store_true", help="no CUDA graphs: slower, starts sooner")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="completions sampled at once")
    parser.add_argument(
        "--sync",
        choices=("merged", "adapter"),
        default="merged",
        help="what training processes send: all weights with the adapters added, or the adapters alone",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument("--options", default="{}", metavar="JSON", help="more of vLLM's: '{\"max_lora_rank\": 32}'")


def run(args: argparse.Namespace) -> None:
    """Serves until it is stopped; see `rollout/server.py`."""
    from ..lightning_modules.rollout.server import serve
    from ..lightning_modules.rollout.vllm_engine import VllmEngine

    try:
        options = json.loads(args.options)
    except ValueError as error:
        raise InputError(f"--options: not JSON ({error})") from None
    if not isinstance(options, dict):
        raise InputError("--options: a JSON object of vLLM's argument names is needed")
    ours = ("command", "checkpoint", "host", "port", "without_token")
    named = {name: value for name, value in vars(args).items() if name not in ours}
    engine = VllmEngine(**named | {"options": options})
    serve(args.checkpoint, engine, args.host, args.port, args.without_token)
