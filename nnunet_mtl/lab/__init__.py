"""What no user's training imports: phantoms, demonstration, probe, and the comparison of methods."""
