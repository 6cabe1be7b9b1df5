"""Recovery: what a thinned model gets back from inputs without labels."""
