"""What can happen to a message: it is compressed, lost, late or noisy, or goes to another process."""
