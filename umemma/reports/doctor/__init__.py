"""The report of `umemma doctor`: its data, the advice that follows, and the terminal."""
