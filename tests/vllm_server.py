"""A real vLLM on the CPU: a server that a test starts and stops, and, run as a program, Python with what vLLM needs.

The environment is vLLM's own. Its CPU build carries another package name than the one it asks for, and its Omni
processor imports torchvision, whose CUDA build finds two of its operators missing beside a CPU torch: a folder put in
front of the server's path mends both. The product needs neither.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_HOOK = """
import importlib.abc, sys

class _Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            library = sys._torchvision_operators = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None

sys.meta_path.insert(0, _Hook())
"""


def write_shim(folder: Path, version: str = "0.32.0") -> Path:
    """The folder for PYTHONPATH."""
    about = folder / f"vllm-{version}+cpu.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (folder / "sitecustomize.py").write_text(_HOOK)
    return folder


def environment(shim: Path) -> dict[str, str]:
    """What vLLM's CPU build needs to run a tiny model in one process."""
    return os.environ | {
        "PYTHONPATH": str(shim),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


class Server:
    """One server; `start` waits until it answers, `kill` ends it as a crash would."""

    def __init__(self, python: str, checkpoint: str, folder: Path) -> None:
        self.python, self.checkpoint, self.folder = python, checkpoint, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen | None = None

    def start(self, limit_s: float = 240.0) -> None:
        """Begins serving as the model "tiny"."""
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.checkpoint]
        command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "1536", "--enforce-eager"]
        command += ["--limit-mm-per-prompt", '{"audio": 1, "image": 0, "video": 0}', "--max-num-seqs", "64"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(write_shim(self.folder / "shim")), start_new_session=True
        )
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/models", timeout=5)
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        text = (self.folder / "server.log").read_text(errors="replace")[-3_000:]
        self.kill()
        raise RuntimeError(f"the server did not come up:\n{text}")

    def kill(self) -> None:
        """SIGKILL to the server and its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def serving(python: str, checkpoint: str, folder: Path) -> Iterator[Server]:
    """A running server that is gone afterwards."""
    server = Server(python, checkpoint, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as shim:
        sys.exit(subprocess.call([sys.executable, *sys.argv[1:]], env=environment(write_shim(Path(shim)))))
