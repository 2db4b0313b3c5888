"""Pixels: from a folder of images to a packed store, and who of it trains. No torch."""
