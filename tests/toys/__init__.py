"""Toy data, models and servers that several tests share."""
