"""The pose student, its synthetic data, its training and its score."""
