"""Where shards may lie and how bytes are read from there."""
