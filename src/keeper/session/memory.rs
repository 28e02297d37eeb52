//! MEMORY STATS and MEMORY DOCTOR: where this node's memory is, and what looks wrong with it.
//!
//! The fields have Redis's names. What the Keeper cannot know (the allocator, buffers of connections) is absent.

use crate::keeper::Keeper;
use crate::resp::Reply;
use crate::store::Eviction;

use super::{Answer, Flow};

/// Share of `memory.max_bytes`, in percent, from which the doctor warns.
const FULL_PERCENT: usize = 90;

impl Keeper {
    pub(super) fn memory_stats(&self, reply: &mut Reply<'_>) -> Answer {
        let (data, backlog, keys) = (self.store.used_memory(), self.log.bytes(), self.store.len());
        let clients = self.piles.bytes();
        let total = data + backlog + clients;
        let numbers = [
            ("total.allocated", total),
            ("replication.backlog", backlog),
            ("clients.normal", clients),
            ("overhead.total", backlog + clients),
            ("keys.count", keys),
            ("keys.bytes-per-key", data.checked_div(keys).unwrap_or(0)),
            ("dataset.bytes", data),
        ];
        reply.map(numbers.len() + 1);
        for (name, number) in numbers {
            reply.bulk(name.as_bytes());
            reply.integer(number as i64);
        }
        reply.bulk(b"dataset.percentage");
        reply.double(data as f64 * 100.0 / total.max(1) as f64);
        Ok(Flow::Done)
    }

    pub(super) fn memory_doctor(&self, reply: &mut Reply<'_>) -> Answer {
        let (data, backlog, limit) = (self.store.used_memory(), self.log.bytes(), self.settings().max_memory as usize);
        let mut findings = Vec::new();
        // Where keys are evicted, the limit is where the data is meant to be.
        let refuses = self.settings().eviction == Eviction::NoEviction;
        if refuses && limit > 0 && data / FULL_PERCENT >= limit / 100 {
            findings.push(format!("The data takes {data} of at most {limit} bytes (memory.max_bytes)."));
        }
        if self.log.bytes_after(self.acked) > backlog / 2 + (1 << 20) {
            findings.push("Most of the backlog waits for the replicas: they, or the network, are too slow.".into());
        }
        if self.store.segments_overgrown() > 0 {
            findings.push("Keys do not separate by their hash: somebody may know the hash key.".into());
        }
        if findings.is_empty() {
            findings.push("Nothing looks wrong.".into());
        }
        reply.verbatim("txt", findings.join("\n").as_bytes());
        Ok(Flow::Done)
    }
}
