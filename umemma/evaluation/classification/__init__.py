"""What belongs to tasks with classes alone: their metrics, and how probabilities become answers."""
