"""What only developers run: how the shipped base was made."""
