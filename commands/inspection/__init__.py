"""What an index holds, and which questions a curriculum would train on."""
