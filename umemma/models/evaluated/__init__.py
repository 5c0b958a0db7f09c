"""What is evaluated: the ensemble and the uni-modal models of a project."""
