"""Hugging Face Parquet files and WebDataset shards, converted to a table with media beside it."""
