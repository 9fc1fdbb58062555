"""The policy, a Qwen2.5-Omni thinker: its checkpoints, its log-probs, states to sample from, weights for engines."""
