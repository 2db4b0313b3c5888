"""Training: feed, augment, the loop, and the colour floor."""
