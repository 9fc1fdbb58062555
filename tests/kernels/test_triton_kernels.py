"""The Triton kernels in the interpreter: the same numbers as float64, nothing written beside, faults are noticed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from earwitness.kernels.linear_logprob import linear_cross_entropy, linear_logprob
from earwitness.tests.places import ROOT

KERNELS = ROOT / "kernels"
BACKENDS = ("triton_rows", "triton_fused")


def case(rows: int, hidden: int, vocabulary: int, dtype=torch.float32, spread: float = 1.0):
    """States, head and targets; `spread` is about the standard deviation of the logits."""
    generator = torch.Generator().manual_seed(rows + hidden + vocabulary)
    states = torch.randn(rows, hidden, generator=generator) * spread / hidden**0.5
    head = torch.randn(vocabulary, hidden, generator=generator)
    return states.to(dtype), head.to(dtype), torch.randint(0, vocabulary, (rows,), generator=generator)


def run(api, states, head, targets, upstream=None, train_head=True, **options):
    """Outputs and gradients in float64, of sum_i upstream_i logprob_i."""
    states, head = states.detach().clone().requires_grad_(), head.detach().clone().requires_grad_(train_head)
    found = api(states, head, targets, return_entropy=True, return_lse=True, **options)
    upstream = torch.linspace(-1, 1, len(targets)) if upstream is None else upstream
    (found.logprob * upstream.to(found.logprob.dtype)).sum().backward()
    parts = [found.logprob, found.entropy, found.lse, states.grad, *([head.grad] if train_head else [])]
    return [part.detach().double() for part in parts]


def check(api, backend: str, states, head, targets, **options) -> None:
    """Values to 2e-5 (entropies 1e-4); gradients no worse than four roundings of the states' type."""
    truth = run(linear_logprob, states.double(), head.double(), targets, **options)
    found = run(api, states, head, targets, backend=backend, **options)
    for name, got, exact in zip(("logprob", "entropy", "lse"), found, truth, strict=False):
        limit = (1e-4 if name == "entropy" else 2e-5) * max(1.0, float(exact.abs().max()) / 30)
        assert float((got - exact).abs().max()) <= limit, name
    unit = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 8e-3}[states.dtype]
    for name, got, exact in zip(("states", "head"), found[3:], truth[3:], strict=False):
        error = float((got - exact).norm()) / max(float(exact.norm()), 1e-9)
        assert error <= 2 * unit, f"{name}: {error}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "temperature", "exclude"),
    [((70, 96, 1000), 1.0, None), ((33, 64, 129), 0.2, [0, 128]), ((1, 8, 5), 1.5, None), ((5, 200, 4099), 0.7, [7])],
    ids=str,
)
def test_ragged_shapes_temperatures_and_types(backend, dtype, shape, temperature, exclude):
    """Rows, widths and vocabularies that no tile divides; several chunks."""
    states, head, targets = case(*shape, dtype=dtype, spread=3.0)
    exclude = None if exclude is None else torch.tensor(exclude)
    if exclude is not None:
        targets = targets.where(~torch.isin(targets, exclude), 1)
    workspace = 24 * 8 * shape[2]
    check(linear_logprob, backend, states, head, targets, temperature=temperature, exclude=exclude,
          max_workspace_bytes=workspace)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_head_gives_the_same_and_two_runs_are_bitwise_equal(backend):
    states, head, targets = case(40, 64, 700)
    frozen = run(linear_logprob, states, head, targets, train_head=False, backend=backend)
    again = run(linear_logprob, states, head, targets, train_head=False, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(frozen, again, strict=True))
    trained = run(linear_logprob, states, head, targets, backend=backend)
    for a, b in zip(frozen, trained, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_masked_shares(backend, share):
    """Ignored tokens give exact zeros in values and gradients; the others are as if alone."""
    states, head, targets = case(40, 32, 300)
    targets = targets.clone()
    targets[: int(40 * share)] = -100
    found = run(linear_logprob, states, head, targets, backend=backend)
    ignored = targets == -100
    assert all(not part[ignored].any() for part in found[:4])
    kept = run(linear_logprob, states[~ignored], head, targets[~ignored], torch.linspace(-1, 1, 40)[~ignored],
               backend=backend)  # fmt: skip
    for a, b in zip(found[:4], kept[:4], strict=True):
        assert torch.equal(a[~ignored], b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gap", [20.0, 60.0, 120.0, 127.0, 140.0, 400.0])
def test_extreme_logits(backend, gap):
    """One logit of 0 and one `gap` nats lower: as target either is exact, also beyond the window of the fused GEMM."""
    head, states = torch.zeros(3, 4), torch.zeros(3, 4)
    head[:, 0], states[:, 0] = torch.tensor([0.0, -1.0, -2.0]), gap
    targets = torch.tensor([0, 1, 2])
    truth = run(linear_logprob, states.double(), head.double(), targets)
    found = run(linear_logprob, states, head, targets, backend=backend)
    for place, (got, exact) in enumerate(zip(found, truth, strict=True)):
        # Entropy and lse are sums of numbers as large as the gap: their last digits count.
        torch.testing.assert_close(got, exact, rtol=3e-6, atol=3e-7 * gap if place in (1, 2) else 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sure_tokens_keep_their_digits(backend):
    """log p of about -1e-6, where 1 - p cancels: relative error of value and gradient below 1e-4."""
    head = torch.eye(4)
    states = torch.zeros(2, 4)
    states[:, 1] = torch.tensor([13.8, 20.0])
    truth = run(linear_logprob, states.double(), head.double(), torch.tensor([1, 1]))
    found = run(linear_logprob, states, head, torch.tensor([1, 1]), backend=backend)
    for place in (0, 3, 4):
        torch.testing.assert_close(found[place], truth[place], rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_written_beside_and_nothing_is_left_unwritten(backend, monkeypatch):
    """Every buffer comes full of NaN with guard rows around it: the rows stay NaN, the result has none."""
    plain, guarded = torch.empty, []

    def poisoned(*size, **options):
        size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        if not options.get("dtype", torch.float32).is_floating_point or len(size) == 0:
            return plain(*size, **options)
        whole = plain(size[0] + 16, *size[1:], **options).fill_(torch.nan)
        guarded.append(whole)
        return whole[8:-8]

    states, head, targets = case(37, 40, 515, dtype=torch.bfloat16)
    expected = run(linear_logprob, states, head, targets, backend=backend)
    monkeypatch.setattr(torch, "empty", poisoned)
    found = run(linear_logprob, states, head, targets, backend=backend)
    assert guarded and all(part[:8].isnan().all() and part[-8:].isnan().all() for part in guarded)
    assert all(torch.equal(a, b) and not a.isnan().any() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", *BACKENDS])
def test_the_fused_loss_is_the_loss_of_the_log_probs(backend):
    states, head, targets = case(21, 16, 130)
    targets[3] = -100
    parts = []
    for fused in (True, False):
        x, w = states.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            loss = linear_cross_entropy(x, w, targets, backend=backend, num_items=50, temperature=0.7)
        else:
            loss = -linear_logprob(x, w, targets, backend=backend, temperature=0.7).logprob.sum() / 50
        (3 * loss).backward()
        parts.append((loss.detach(), x.grad, w.grad))
    for a, b in zip(*parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def mutant(tmp_path: Path, file: str, old: str, new: str) -> ModuleType:
    """The kernels with one fault, as a package of their own."""
    folder = tmp_path / "mutant"
    shutil.copytree(KERNELS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / file).read_text()
    assert text.count(old) >= 1, f"{file} has no {old!r}"
    (folder / file).write_text(text.replace(old, new))
    name = f"mutant_{abs(hash((file, old, new)))}"
    spec = importlib.util.spec_from_file_location(name, folder / "linear_logprob.py")
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    spec = importlib.util.spec_from_file_location(f"{name}.linear_logprob", folder / "linear_logprob.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FUSED, ROWS = "triton_fused", "triton_rows"
SCALE = "(temperature * numerators.total)"
FAULTS = {  # file, what is there, what is put in its place, the backend that must notice
    "the vocabulary's edge, fused": (f"{FUSED}.py", "(columns[None, :] < V) & ", "", FUSED),
    "the vocabulary's edge, rows": (f"{ROWS}.py", 'other=float("-inf")', "other=0.0", ROWS),
    "no temperature in the gradient": (
        "numerators.py",
        f"scale = 1 / {SCALE}",
        "scale = 1 / numerators.total",
        "torch",
    ),
    "no temperature in the head's": ("numerators.py", f"(gain / {SCALE})", "(gain / numerators.total)", "torch"),
    "the target is not zeroed, fused": (f"{FUSED}.py", "(columns[None, :] != target[:, None]) & ", "", FUSED),
    "the target is not zeroed, rows": (f"{ROWS}.py", "(columns != target, tl.exp2", "(columns >= 0, tl.exp2", ROWS),
    "the target is not zeroed, torch": ("numerators.py", "e.scatter_(1, target, 0.0)", "e.clone()", "torch"),
    "excluded ids count": (f"{FUSED}.py", "live = live & (barred == 0)[None, :]", "live = live", FUSED),
    "a chunk is dropped": ("functions.py", "range(0, len(rows), self", "range(0, len(rows) - 1, self", "torch"),
    "overflow is not mended": (f"{FUSED}.py", "if outside.any() else numerators", "if False else numerators", FUSED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_deliberate_fault_is_noticed(fault, tmp_path):
    file, old, new, backend = FAULTS[fault]
    broken = mutant(tmp_path, file, old, new).linear_logprob
    states, head, targets = case(17, 24, 203, spread=3.0)
    options = {"temperature": 0.6, "max_workspace_bytes": 4 * 8 * 203}
    if "excluded" in fault:
        options["exclude"] = torch.tensor([5, 6])
        targets = targets.where(~torch.isin(targets, options["exclude"]), 1)
    if "overflow" in fault:
        states = states * 100
    check(linear_logprob, backend, states, head, targets, **options)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        check(broken, backend, states, head, targets, **options)


def test_every_kernel_compiles_for_hopper_within_its_bounds():
    """Registers, shared memory, no spills, Tensor Core and bulk-copy instructions; read from the machine code."""
    script = Path(__file__).with_name("compile_gate.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all kernels within bounds" in done.stdout
