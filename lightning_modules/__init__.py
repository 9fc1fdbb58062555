"""Training as LightningModules around one Qwen2.5-Omni policy: objectives, policy, rollout, SFT, GRPO, callbacks."""
