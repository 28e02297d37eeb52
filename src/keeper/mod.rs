//! Floor 4: the Keeper, one plain state machine behind one lock.
