"""Per-token log-probabilities from hidden states and the lm_head, without the [N, V] logits.

    logprob[i] = log softmax(hidden[i] @ weight.T / temperature)[targets[i]]

Ignored tokens are dropped before the first product. One GEMM is 2NHV operations, N tokens, H wide, V words:

    frozen head (LoRA)                4NHV   d logprob / d hidden is formed in the forward pass, for any loss on top
    trainable head, a loss known here 6NHV   `linear_cross_entropy`, `linear_grpo_loss`: gradients in the forward pass
    trainable head, any loss on top   8NHV   numerators are made again in the backward pass

Backends make the softmax numerators of a chunk of rows (see numerators.py): `torch` anywhere, `triton_rows` and
`triton_fused` on NVIDIA GPUs. Results are bitwise equal from run to run: no atomics, nothing tuned at run time.
"""

from __future__ import annotations

from .core import LogProbOutput, TokenLoss, linear_logprob, linear_token_loss
from .losses import linear_cross_entropy, linear_grpo_loss

__all__ = [
    "LogProbOutput",
    "TokenLoss",
    "linear_cross_entropy",
    "linear_grpo_loss",
    "linear_logprob",
    "linear_token_loss",
]
