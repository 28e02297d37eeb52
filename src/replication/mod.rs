//! Floor 3: the log and how it travels.
