"""What people are told of: alerts out of the store's outbox to their channels, and digests."""
