"""A hyperparameter search: which settings and values there are (space), and its trials (study)."""
