//! Floor 1: the Redis protocol, requests in and replies out. Knows bytes, not meaning.
