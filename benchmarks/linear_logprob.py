"""Log-probs with and without the logits: time, peak memory and accuracy, beside peers, in one run.

    python benchmarks/linear_logprob.py                      on a GPU the published shapes, else the CPU comparison
    python benchmarks/linear_logprob.py --out FOLDER         also figures as JSON and a table as text
    python benchmarks/linear_logprob.py --quick              fewer shapes and repetitions

GPU: medians of CUDA events with the providers taking turns in every repetition, so that clocks drift for all alike. Two
floors: the least number of products at 790 TFLOP/s, and the library's bare products of the same shapes timed in the
same turns. Targets have a probability of about one half: random logits would flatter whoever skips small ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peers import Step, providers  # the file beside this one
from torch import Tensor

from earwitness.kernels.linear_logprob import linear_logprob

SHAPES = {"7B": (3_584, 152_064), "3B": (2_048, 151_936)}
PEAK_FLOPS = 790e12  # bf16 products of an H100/H200, in short bursts
GPU_MODES = ("forward", "frozen", "trainable", "cross entropy", "grpo")
CPU_MODES = (*GPU_MODES[1:], "truncated")


def data(rows: int, hidden: int, vocabulary: int, device: str, dtype: torch.dtype, seed: int = 0):
    """States that point towards their targets: p(target) about one half, logits up to about 25."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.randn(vocabulary, hidden, generator=generator, device=device, dtype=dtype) * 0.02
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=device)
    noise = torch.randn(rows, hidden, generator=generator, device=device, dtype=dtype)
    pull = torch.rand(rows, 1, generator=generator, device=device, dtype=dtype) * 24
    own = weight[targets]
    return noise + own * pull / own.float().square().sum(1, keepdim=True).to(dtype), weight, targets


def once(step: Step, mode: str, x: Tensor, w: Tensor, t: Tensor) -> None:
    """One forward, and backward where the mode has one; gradients are dropped."""
    if mode == "forward":
        with torch.no_grad():
            step(x, w, t)
        return
    x.requires_grad_()
    w.requires_grad_(mode not in ("frozen",))
    step(x, w, t).backward()
    x.grad = w.grad = None


def products(mode: str, rows: int, hidden: int, vocabulary: int, x: Tensor, w: Tensor) -> Callable[[], None]:
    """The bare library products of a mode: one, two or three."""
    logits = torch.empty(min(rows, 2_304), vocabulary, device=x.device, dtype=x.dtype).normal_()

    def job() -> None:
        for start in range(0, rows, len(logits)):
            part = x.detach()[start : start + len(logits)]
            torch.mm(part, w.detach().T, out=logits[: len(part)])
            if mode != "forward":
                torch.mm(logits[: len(part)], w.detach())
            if mode not in ("forward", "frozen"):
                torch.mm(logits[: len(part)].T, part)

    return job


def on_gpu(quick: bool) -> list[dict[str, Any]]:
    """Every shape and mode; providers take turns."""
    rows_of = (8_192,) if quick else (1_024, 8_192)
    repeats, found = (8 if quick else 15), []
    for model, (hidden, vocabulary) in SHAPES.items():
        for rows in rows_of:
            for mode in GPU_MODES:
                found += one_mode(mode, model, rows, hidden, vocabulary, repeats)
    return found


def one_mode(mode: str, model: str, rows: int, hidden: int, vocabulary: int, repeats: int) -> list[dict[str, Any]]:
    """All providers of one mode and shape."""
    sets = [data(rows, hidden, vocabulary, "cuda", torch.bfloat16, seed) for seed in range(2)]
    steps, missing = providers(mode, "cuda")
    bare = products(mode, rows, hidden, vocabulary, *sets[0][:2])

    def job(step: Step, k: int) -> None:
        once(step, mode, *sets[k % 2])

    jobs: dict[str, Callable[[int], None]] = {name: partial(job, step) for name, step in steps.items()}
    jobs["bare products"] = lambda _: bare()
    found = turns(jobs, repeats, {"model": model, "rows": rows, "mode": mode, "missing": missing})
    flops = {"forward": 2, "frozen": 4}.get(mode, 6) * rows * hidden * vocabulary
    for entry in found:
        if "ms" in entry:
            entry["x 790 TFLOP/s"] = entry["ms"] / (1e3 * flops / PEAK_FLOPS)
    torch.cuda.empty_cache()
    return found


def turns(jobs: dict[str, Callable[[int], None]], repeats: int, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Median milliseconds and peak extra memory of every job, in rotating order; a failure is reported, not hidden."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    peaks, failed = dict.fromkeys(jobs, 0), {}
    for k in range(repeats + 2):
        names = list(jobs)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            if name in failed:
                continue
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            try:
                start.record()
                jobs[name](k)
                stop.record()
                torch.cuda.synchronize()
            except Exception as error:  # a peer that cannot run here: whatever it raises is its result
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                torch.cuda.empty_cache()
                continue
            if k >= 2:  # the first two compile and fill caches
                times[name].append(start.elapsed_time(stop))
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() - base)
    bare = median(times["bare products"]) if times["bare products"] else float("nan")
    out = []
    for name, values in times.items():
        entry = {**where, "provider": name}
        if name in failed:
            entry["failed"] = failed[name]
        else:
            ordered = sorted(values)
            spread = [ordered[len(ordered) // 5], ordered[-1 - len(ordered) // 5]]
            entry |= {"ms": median(values), "p20, p80": spread, "x bare": median(values) / bare}
            entry["peak extra GiB"] = peaks[name] / (1 << 30)
        out.append(entry)
    return out


def accuracy() -> list[dict[str, Any]]:
    """Largest error of log-probs and relative error of the states' gradient against float64, 256 rows, per provider."""
    hidden, vocabulary = SHAPES["7B"]
    x, w, t = data(256, hidden, vocabulary, "cuda", torch.bfloat16, 7)
    exact = run_logprob("torch", x.double(), w.double(), t)
    found = []
    for name in ("torch", "triton_rows", "triton_fused"):
        first, second = run_logprob(name, x, w, t), run_logprob(name, x, w, t)
        found.append(
            {
                "accuracy of": name,
                "logprob max": float((first[0] - exact[0]).abs().max()),
                "gradient": float((first[1] - exact[1]).norm() / exact[1].norm()),
                "bitwise equal twice": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
            }
        )
    bf16 = torch.log_softmax((x @ w.T).float(), -1).gather(1, t[:, None]).squeeze(1).double()
    return [*found, {"accuracy of": "torch naive", "logprob max": float((bf16 - exact[0]).abs().max())}]


def run_logprob(backend: str, x: Tensor, w: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs and the gradient of their sum by the states, in float64."""
    x = x.detach().clone().requires_grad_()
    logprob = linear_logprob(x, w.detach(), t, backend=backend).logprob
    logprob.sum().backward()
    assert x.grad is not None
    return logprob.detach().double(), x.grad.double()


def on_cpu(rounds: int, rows: int, hidden: int, vocabulary: int) -> list[dict[str, Any]]:
    """CPU seconds and peak extra memory of every provider, in turns, each in its own process; the best of all rounds.

    Ratios are to `torch naive`, where a mode has no such to the first of ours.
    """
    import tempfile

    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for mode in CPU_MODES:
                for name in providers(mode, "cpu")[0]:
                    out = f"{folder}/one.json"
                    words = ["--one", f"{mode}:{name}", "--shape", f"{rows},{hidden},{vocabulary}", "--out", out]
                    subprocess.run([sys.executable, __file__, *words], check=True)
                    found.setdefault(mode, {}).setdefault(name, []).append(json.loads(Path(out).read_text()))
    out_rows: list[dict[str, Any]] = []
    for mode, of_name in found.items():
        best = {name: {k: min(r[k] for r in runs) for k in ("s", "GiB")} for name, runs in of_name.items()}
        base = best.get("torch naive", next(iter(best.values())))
        for name, figures in best.items():
            ratio = {f"x {k}": round(value / base[k], 3) for k, value in figures.items()}
            out_rows.append({"mode": mode, "provider": name, **figures, **ratio})
        if missing := providers(mode, "cpu")[1]:
            out_rows.append({"mode": mode, "missing": ", ".join(missing)})
    return out_rows


def one_on_cpu(mode: str, name: str, rows: int, hidden: int, vocabulary: int) -> dict[str, float]:
    """In a fresh process: memory beyond inputs and gradients at its peak, CPU seconds of the fastest of three steps."""
    x, w, t = data(rows, hidden, vocabulary, "cpu", torch.float32)
    step = providers(mode, "cpu")[0][name]
    x.requires_grad_()
    w.requires_grad_(mode not in ("frozen", "truncated"))
    before = resident(fresh_peak=True)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        step(x, w, t).backward()
        seconds.append(time.process_time() - start)
        kept = sum(p.grad.nbytes for p in (x, w) if p.grad is not None)
        x.grad = w.grad = None
    return {"s": min(seconds), "GiB": (resident() - before - kept) / (1 << 30)}


def resident(fresh_peak: bool = False) -> int:
    """Bytes that the process has held at most so far; from now on, where the peak begins anew, as Linux has it."""
    import resource

    if fresh_peak and Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5")
    if Path("/proc/self/status").is_file():
        held = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        if held:
            return int(held[0].split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in ("trl", "liger-kernel", "cut-cross-entropy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu_named() -> str:
    """The kind of processor, and how much of it is used."""
    threads = torch.get_num_threads()
    return f"{platform.machine()}, " + ("one core" if threads == 1 else f"{threads} threads")


def main() -> None:
    """Measures, prints a table, writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shape", default="1024,512,152064", help="rows, width, vocabulary of the CPU comparison")
    parser.add_argument("--rounds", type=int, default=1, help="of the CPU comparison; the best of two steps each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows, hidden, vocabulary = (int(n) for n in options.shape.split(","))
    if options.one:
        mode, name = options.one.split(":")
        Path(options.out).write_text(json.dumps(one_on_cpu(mode, name, rows, hidden, vocabulary)))
        return
    gpu = torch.cuda.is_available()
    about = versions() | {
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if gpu else cpu_named(),
    }
    if gpu:
        import triton

        about["triton"] = triton.__version__
    else:
        about["rows x width x vocabulary"] = f"{rows:,} x {hidden:,} x {vocabulary:,}"
    figures = on_gpu(options.quick) + accuracy() if gpu else on_cpu(options.rounds, rows, hidden, vocabulary)
    lines = [", ".join(f"{k} {v}" for k, v in about.items())]
    for entry in figures:
        lines.append("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()))
    print("\n".join(lines))
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"linear_logprob-{'gpu' if gpu else 'cpu'}"
        (folder / f"{name}.json").write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
