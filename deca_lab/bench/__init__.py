"""How fast this machine runs the lab, beside loops, floors, other packages and slow links."""
