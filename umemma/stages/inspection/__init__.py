"""The commands that only inspect: the machine, raw files, shards, encoders."""
