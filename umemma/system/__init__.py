"""Files, HTTP, logs, processes and seeds: what carries data around and computes no result."""
