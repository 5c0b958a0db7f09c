"""Raw files, WebDataset shards and the loader.

Raw files: `downloader`, `fetcher` (folders, HTTP, Google Drive, Kaggle), `unpacker`,
`raw_folder`. Shards: `shard_plan`, `shard_writer`, `shard_marker`, `shard_index`, `shard_reader`,
and `storage`, which puts them on a disk, S3 or any other URL. Samples: `loader`,
`decoding`, `decoded_cache`.
"""
