"""What the machine has, and what to do with it."""
