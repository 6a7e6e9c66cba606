"""The packed store: its shards, its index, its splits."""
