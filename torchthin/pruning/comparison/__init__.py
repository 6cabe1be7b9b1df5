"""Many ways to cut one model, side by side: what each costs, and what it leaves of the model."""
