"""Where shards may lie, and how bytes are read from there: local files, servers, and copies of remote shards."""
