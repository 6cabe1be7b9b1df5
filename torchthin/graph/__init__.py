"""Stage 1: a model and example inputs become a record of ATen ops."""
