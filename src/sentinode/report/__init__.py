"""Arrays and statements in, pictures out. No torch."""
