"""Stage 2: which index of which axis is tied to which."""
