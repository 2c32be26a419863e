"""Inequalities that can be run: one claim a file, each a function that returns both of its sides as a Bound."""
