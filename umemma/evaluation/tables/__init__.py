"""Tables of logits: how those too large for memory are held, saved, and put together."""
