"""Many runs, and what they say: sweeps, comparisons with equal budgets, and the papers' findings."""
