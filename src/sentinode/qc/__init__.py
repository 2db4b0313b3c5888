"""What is wrong with a store before anything is trained on it; never torch."""
