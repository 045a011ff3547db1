"""What can be recommended and what people did: readers, policies, splits, statistics and the built-in demo world."""
