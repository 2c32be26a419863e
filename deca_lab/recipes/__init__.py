"""The papers' experiments by name, each a readable file of knobs that says how sure every figure is."""
