"""A run from its config to its history: prepared, measured, accounted for, checkpointed and exported."""
