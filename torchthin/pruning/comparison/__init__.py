"""Many pruned versions of one model side by side: what each costs, and how good it is."""
