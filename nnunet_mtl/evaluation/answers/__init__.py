"""What is measured on image-level answers: discrimination, calibration, intervals, differences between runs."""
