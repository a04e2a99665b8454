"""Reading, checking and writing data sets, label maps and tables of answers in nnU-Net's raw format."""
