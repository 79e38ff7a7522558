"""The families, one a file, and the controls."""
