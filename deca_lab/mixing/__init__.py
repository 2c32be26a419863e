"""Who hears whom: a graph becomes a mixing matrix W, a doctor looks at it, and X becomes W X."""
