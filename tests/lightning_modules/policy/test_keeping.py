"""What a decoder layer keeps for the backward pass is little, and its numbers are transformers'."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half

from earwitness.lightning_modules.policy.adapters import Lora, with_lora
from earwitness.lightning_modules.policy.keeping import keep_little, read_from_norm, rotated
from earwitness.lightning_modules.policy.layers import Segment, read_in_layers, take_segments
from earwitness.lightning_modules.step import freed_memory

WIDTH, ROWS, LENGTH, LAYERS = 64, 3, 17, 2


def made(dtype=torch.float32, adapted=False) -> tuple:
    """transformers' decoder, and the same weights keeping little."""
    torch.manual_seed(5)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 5 * WIDTH, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11}
    rope = {"rope_parameters": {"mrope_section": [4, 2, 2], "rope_type": "default", "rope_theta": 1e4}}
    config = Qwen2_5OmniTextConfig(**sizes, **heads, **rope, attn_implementation="sdpa")
    theirs = Qwen2_5OmniThinkerTextModel(config).to(dtype).eval()
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
    if adapted:
        theirs.requires_grad_(False)
        theirs = with_lora(theirs, Lora(rank=4, targets=["q_proj", "down_proj", "gate_proj"])).get_base_model()
        for name, weight in theirs.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.1)
    ours = copy.deepcopy(theirs)
    take_segments(ours)
    keep_little(ours)
    return theirs, ours


def read(decoder, states: Tensor, recompute=False) -> Tensor:
    """The decoder's states of rows without padding, by our reading where it has been taken."""
    mask = torch.ones(states.shape[:2], dtype=torch.int64)
    if "forward" in vars(decoder.norm):
        return read_in_layers(decoder, [Segment(states, mask, full=True)], recompute)[0]
    return decoder(inputs_embeds=states, attention_mask=mask, use_cache=False).last_hidden_state


def kept_bytes(decoder, states: Tensor, recompute=False) -> int:
    """Bytes kept for the backward pass, every storage once, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in decoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = read(decoder, states, recompute)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_states_and_gradients_are_transformers(adapted, recompute):
    theirs, ours = made(adapted=adapted)
    states, upstream = torch.randn(ROWS, LENGTH, WIDTH), torch.randn(ROWS, LENGTH, WIDTH)
    found = []
    for decoder in (theirs, ours):
        given = states.clone().requires_grad_()
        out = read(decoder, given, recompute)
        (out * upstream).sum().backward()
        trained = {name: weight.grad for name, weight in decoder.named_parameters() if weight.requires_grad}
        trained.pop("embed_tokens.weight", None)  # the states are given, nothing is looked up
        found.append((out.detach(), given.grad, trained))
    (a, to_a, all_a), (b, to_b, all_b) = found
    assert torch.allclose(a, b, rtol=0, atol=2e-6)
    assert torch.allclose(to_a, to_b, rtol=0, atol=1e-5 * to_a.abs().max())
    assert set(all_a) == set(all_b) and len(all_b) > LAYERS
    for name, grad in all_a.items():
        assert torch.allclose(grad, all_b[name], rtol=0, atol=1e-5 * grad.abs().max()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_part_is_bitwise_transformers(dtype):
    """Norm, MLP and rotary embeddings: the forward pass bit by bit, in 16 bits with the roundings that it has there."""
    theirs, ours = made(dtype)
    states = torch.randn(ROWS, LENGTH, WIDTH).to(dtype)
    for part in ("input_layernorm", "mlp"):
        expected = getattr(theirs.layers[0], part)(states)
        assert torch.equal(getattr(ours.layers[0], part)(states.clone().requires_grad_()), expected), part
    cos, sin = ours.rotary_emb(states, torch.arange(LENGTH).expand(3, ROWS, -1))
    one = [part[0] if part.ndim == 4 else part for part in (cos, sin)]
    for heads in (4, 2):
        query = torch.randn(ROWS, heads, LENGTH, 16).to(dtype)
        expected = query * one[0][:, None] + rotate_half(query) * one[1][:, None]
        assert torch.equal(rotated(query, (cos, sin)), expected)


def test_gradients_in_16_bits_are_no_worse_than_transformers():
    theirs, ours = made(torch.bfloat16)
    exact, _ = made(torch.float32)
    exact.load_state_dict({name: weight.float() for name, weight in theirs.state_dict().items()})
    states, upstream = torch.randn(ROWS, LENGTH, WIDTH).bfloat16(), torch.randn(ROWS, LENGTH, WIDTH)
    gradients = []
    for decoder, dtype in ((exact, torch.float32), (theirs, torch.bfloat16), (ours, torch.bfloat16)):
        given = states.to(dtype, copy=True).requires_grad_()
        (read(decoder, given) * upstream).sum().backward()
        gradients.append(given.grad.float())
    wanted, plain, lean = gradients
    assert (lean - wanted).square().mean() <= 1.1 * (plain - wanted).square().mean()


def test_little_is_kept():
    """Six tenths of what transformers' layers keep; with adapters, too."""
    for adapted in (False, True):
        theirs, ours = made(adapted=adapted)
        states = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
        assert kept_bytes(ours, states) < 0.6 * kept_bytes(theirs, states)


def test_layers_that_are_computed_again_keep_what_enters_them_alone():
    _, ours = made()
    states = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    own = states.numel() * 4
    assert kept_bytes(ours, states, recompute=True) < (LAYERS + 3) * own


def test_two_backward_passes_over_one_graph_agree():
    _, ours = made()
    states = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    total = read(ours, states).square().sum()
    first = torch.autograd.grad(total, [states, *ours.layers.parameters()], retain_graph=True)
    second = torch.autograd.grad(total, [states, *ours.layers.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("around", ["checkpoint", "save_on_cpu"])
def test_hooks_around_see_each_tensor_once(adapted, around):
    """A decoder within a checkpoint, or whose kept tensors lie elsewhere, has the gradients that it has alone."""
    _, ours = made(adapted=adapted)
    found = []
    for within in (False, True):
        torch.manual_seed(3)
        states = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
        if within and around == "checkpoint":
            out = checkpoint(read, ours, states, use_reentrant=False)
        elif within:
            with torch.autograd.graph.save_on_cpu():
                out = read(ours, states)
        else:
            out = read(ours, states)
        weights = [weight for weight in ours.layers.parameters() if weight.requires_grad]
        found.append(torch.autograd.grad(out.square().sum(), [states, *weights]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_keeps_the_states_in_another_order_has_them_in_it():
    """Not every layer keeps what it read as it read it: one may keep the transpose, or the bits as integers."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states, weight):
            ctx.save_for_backward(states.T, states.view(torch.int32), weight)
            return states @ weight

        @staticmethod
        def backward(ctx, grad):
            turned, bits, weight = ctx.saved_tensors
            assert torch.equal(turned.T.view(torch.int32), bits)
            return grad @ weight.T, turned @ grad

    _, ours = made()
    norm = ours.layers[0].input_layernorm
    states, weight = torch.randn(5, WIDTH, requires_grad=True), torch.randn(WIDTH, 7, requires_grad=True)
    found = []
    for product in (torch.matmul, Product.apply):
        normed = norm(states)
        with read_from_norm(normed):
            out = product(normed, weight)
        found.append(torch.autograd.grad(out.square().sum(), [states, weight]))
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*found, strict=True))


def test_layers_whose_parts_are_not_known_stay_as_they_are():
    """Norms of other formulas, an MLP of experts, another activation."""
    for change in (
        lambda layer: setattr(layer, "input_layernorm", nn.LayerNorm(WIDTH)),
        lambda layer: setattr(layer, "mlp", nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
        lambda layer: setattr(layer.mlp, "act_fn", nn.GELU()),
    ):
        theirs, _ = made()
        change(theirs.layers[1])
        ours = copy.deepcopy(theirs)
        take_segments(ours)
        keep_little(ours)
        states = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
        assert torch.allclose(read(ours, states), read(theirs, states), rtol=0, atol=2e-6)


PAGES = """
import resource, torch
from earwitness.lightning_modules.step.freed_memory import keep_freed_memory

def pages():
    torch.empty(1 << 26).fill_(1.0)  # 256 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages(), keep_freed_memory(), pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_large_tensor_needs_new_pages_once():
    """On a CPU the process keeps what a step let go of, for the next one."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    without, can, within = done.stdout.split()
    assert can == "True" and int(without) > 10_000 and int(within) < 100


@pytest.mark.parametrize("most", [1 << 25, 1 << 40])
def test_a_threshold_that_the_library_refuses_does_not_stay_where_it_began(most, monkeypatch):
    """Older versions refuse a threshold above 32 MiB, and setting anything stops it from growing by itself."""
    threshold, trim = [1 << 17], [1 << 17]

    def mallopt(option, value):
        if option == -3 and value > most:
            return 0
        (threshold if option == -3 else trim)[0] = value
        return 1

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: type("Library", (), {"mallopt": staticmethod(mallopt)}))
    assert freed_memory.keep_freed_memory() == (most > 1 << 30)
    assert threshold[0] == min(most, 1 << 30) and trim[0] == 1 << 30
