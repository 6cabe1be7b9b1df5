"""The search for a recipe by trial: constraints, a trial, and remedies where it fails."""
