"""What voters are asked, and their answers kept."""
