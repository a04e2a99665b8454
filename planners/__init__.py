"""One planner per file; composition only."""
