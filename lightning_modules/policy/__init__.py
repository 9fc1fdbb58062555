"""The Qwen2.5-Omni thinker as a policy: checkpoints in the published layout, log-probs, states to sample from."""
