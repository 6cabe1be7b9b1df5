"""For users of training frameworks and of transformers. The modules import without them, and need them when they are used."""
