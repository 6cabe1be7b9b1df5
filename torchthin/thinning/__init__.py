"""Stages 6 and 7: a selection becomes a recipe, the recipe a smaller model that was tried before it is applied."""
