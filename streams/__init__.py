"""What is decided and done: the pure core, the stages around it, and the composition root."""
