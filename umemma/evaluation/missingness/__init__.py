"""Protocols of missingness: who loses what how often, and what is then left of a model."""
