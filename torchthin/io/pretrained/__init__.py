"""Models of transformers: which configuration describes one, and what its folder holds."""
