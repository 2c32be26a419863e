"""Inequalities that can be run: one claim a file, each a function that returns both of its sides as a Bound.

Every claim's module also has `examples(seed)`, the cases that `deca-lab bounds` shows, all of which must hold, and
`broken(seed)`, one case with a hypothesis broken on purpose, whose verdict must be that it fails.
"""
