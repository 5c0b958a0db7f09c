"""The stages. Each is one command, one DVC stage, one section of params.yaml, one file; they meet only on disk."""
