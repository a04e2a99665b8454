"""What one network per task does with data sets: extract, merge predictions, complete labels."""
