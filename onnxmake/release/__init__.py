"""What leaves the house: a checked build with its papers, and how its receiver verifies them. Host side; `received.py` needs nothing else."""
