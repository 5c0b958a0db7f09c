"""Which modality decided: what each adds to an answer."""
