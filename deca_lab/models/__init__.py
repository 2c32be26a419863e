"""Any causal language model of transformers, the lab's own in base/, and what of it trains: all, adapters, factors."""
