"""What the trainers are methods of: their papers, where the task enters, and what they cost; all of it computed."""
