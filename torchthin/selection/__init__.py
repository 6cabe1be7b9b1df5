"""Budgets: a cut that keeps parameters and MACs below what was asked, and as close to it as channels allow."""
