"""What is measured on one region of one case: overlap, surface distances, volumes, lesions."""
