//! Floor 1: the keyspace and the mutations that are its only way in.
