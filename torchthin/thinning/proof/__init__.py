"""The comparison of a thinned model with what its masked model computes, and the verdict."""
