"""A comparison of methods: its report, in the terminal, as files, and what it took."""
