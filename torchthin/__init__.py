"""Prune any PyTorch model to a sparsity target, make it physically smaller, and prove the result."""
