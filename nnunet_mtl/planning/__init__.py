"""Plans, splits and the copy of the task block that training reads."""
