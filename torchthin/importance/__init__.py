"""Importance: weights -> one score per channel of a group; higher = keep."""
