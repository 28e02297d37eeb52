//! Floor 5: sockets, clocks, tasks; carries events in and performs effects.

pub mod coordination;
