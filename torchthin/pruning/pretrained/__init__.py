"""Folders of transformers: a pruned model written as its own loader reads it, and one that only this package reads."""
