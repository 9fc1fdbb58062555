"""Rollouts: engines that sample completions from the policy here, in a vLLM beside it, or on other nodes."""
