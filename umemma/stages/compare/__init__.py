"""The stages of a comparison: its models and results (cells), and their table."""
