"""What is wrong with a set of tiles, before anything is trained on it: numbers and queues in, never torch."""
