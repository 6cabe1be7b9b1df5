"""`Pruner` as callbacks of training frameworks. The modules import without them; their classes are made when asked for."""
