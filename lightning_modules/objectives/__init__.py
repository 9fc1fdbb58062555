"""What training optimises: losses, KL estimates, importance weights, rewards and advantages, as pure functions."""
