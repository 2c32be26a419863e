"""The two papers as one loop: rounds over blocks over inner steps, moments, and the feedback into them."""
