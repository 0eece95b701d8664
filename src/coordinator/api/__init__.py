"""Contents to follow."""
