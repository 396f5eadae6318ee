"""Workflows of Olive, read as targets: JSON in, the table that a target file has out."""
