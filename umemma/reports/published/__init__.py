"""Published numbers that stand beside our own in reports: the data file, its rows, a section."""
