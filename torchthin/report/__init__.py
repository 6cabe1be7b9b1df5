"""Reports: facts about a pruning run as values, and their text. Text knows facts, never the reverse."""
