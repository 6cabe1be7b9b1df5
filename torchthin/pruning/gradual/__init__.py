"""Masks that grow while the user trains: when (schedule), what (channels or weights), the same on every process."""
