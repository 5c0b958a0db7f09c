"""Raw files, WebDataset shards and the loader."""
