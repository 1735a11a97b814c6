"""What is decided: pure functions and values, without I/O, clock, randomness or logging."""
