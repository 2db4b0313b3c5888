"""The networks, and the one forward pass that training and prediction share."""
