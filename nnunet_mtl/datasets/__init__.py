"""Data sets in nnU-Net's raw format: phantoms and public scans."""
