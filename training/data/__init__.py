"""Episodes on disk, and what is learned from them."""
