"""Encoders of numbers, trained from scratch: of vectors, tables and series."""
