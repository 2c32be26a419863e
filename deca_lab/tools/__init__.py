"""What only developers run: how the shipped base was made, and which families of models train."""
