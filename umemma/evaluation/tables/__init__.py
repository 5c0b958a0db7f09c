"""Tables of numbers, and how those are held and saved that are too large for memory."""
