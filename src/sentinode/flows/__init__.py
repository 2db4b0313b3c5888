"""Commands that string several rooms together."""
