"""Compiled block quantisers, one method a file, and what they share: packing, and rows side by side."""
