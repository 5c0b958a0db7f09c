"""The folds of `manifest`: the options, and which group is in which fold."""
