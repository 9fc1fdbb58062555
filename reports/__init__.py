"""Pages and pictures from results that are handed in."""
