"""Analog Devices' MAX78000 and MAX78002: costs, mapping, selection by cycles, ai8x layers and files, synthesis."""
