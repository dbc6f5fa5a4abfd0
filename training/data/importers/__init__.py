"""Readers of recorded data in other formats, one file a format; `training.import_episodes` uses
them."""
