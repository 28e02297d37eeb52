//! Floor 2: what each command means, one row per command.
