"""Regression: predicted normal distributions, and what they are worth."""
