"""Where a run stands, and what it does with what was observed."""
