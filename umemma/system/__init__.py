"""Files, HTTP, logging, seeds, processes: what carries data around and changes no number."""
