"""What a curriculum will do, before it does it."""
