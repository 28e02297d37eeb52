//! INFO, ROLE and DATAKEEPER STATUS: what operators and monitoring are told.
//!
//! INFO has the sections and field names of Redis 7.2 as far as they mean something here, and a section of our own. What the
//! Keeper cannot know (figures of the allocator, of connections' buffers) is absent, never made up. Field names are unique over
//! all sections, because clients read them into one map. Statistics per command are in two sections that have to be
//! asked for, by name or with `all`.

use std::fmt::{Display, Write};

use crate::base::clock::Now;
use crate::cluster::role::Role;
use crate::command::REDIS_VERSION;
use crate::keeper::pubsub::Kind;
use crate::keeper::{Keeper, ProcessFigures, SWEEP_MS};
use crate::replication::in_sync::may_commit;
use crate::resp::{Args, Reply};

use super::view::hex_id;
use super::{Answer, Flow, Session, parameters};

/// What writes the fields of a section.
type Section = fn(&Keeper, Now, &mut Fields);

/// The sections in their order, each with its title.
const SECTIONS: &[(&str, Section)] = &[
    ("Server", Keeper::info_server),
    ("Clients", Keeper::info_clients),
    ("Memory", Keeper::info_memory),
    ("Persistence", Keeper::info_persistence),
    ("Stats", Keeper::info_stats),
    ("Replication", Keeper::info_replication),
    ("CPU", Keeper::info_cpu),
    ("Modules", |_, _, _| {}),
    ("Commandstats", Keeper::info_commands),
    ("Errorstats", Keeper::info_errors),
    ("Latencystats", Keeper::info_latencies),
    ("Cluster", |_, _, fields| fields.put("cluster_enabled", 1)),
    ("Keyspace", Keeper::info_keyspace),
    ("DataKeeper", Keeper::info_datakeeper),
];

/// What a client at the Sentinel port is shown, as Redis's Sentinel does.
const AT_SENTINEL: &[(&str, Section)] = &[
    ("Server", Keeper::info_server),
    ("Clients", Keeper::info_clients),
    ("CPU", Keeper::info_cpu),
    ("Stats", Keeper::info_stats),
    ("Sentinel", Keeper::info_sentinel),
];

/// Those that are shown only if somebody asks for them.
const ON_DEMAND: &[&str] = &["Commandstats", "Latencystats"];

/// Text of `key:value` lines.
#[derive(Default)]
struct Fields {
    text: String,
    /// They are for a client at the Sentinel port.
    at_sentinel: bool,
    /// What the operating system said, once a section has asked: the Keeper's lock is held meanwhile.
    process: Option<Option<ProcessFigures>>,
}

impl Fields {
    fn title(&mut self, title: &str) {
        let gap = if self.text.is_empty() { "" } else { "\r\n" };
        write!(self.text, "{gap}# {title}\r\n").expect("a String takes any text");
    }

    fn put(&mut self, key: impl Display, value: impl Display) {
        write!(self.text, "{key}:{value}\r\n").expect("a String takes any text");
    }

    fn process(&mut self, keeper: &Keeper) -> Option<ProcessFigures> {
        *self.process.get_or_insert_with(|| (keeper.config.process)())
    }

    /// A number of bytes, also for people.
    fn put_bytes(&mut self, key: &str, bytes: usize) {
        self.put(key, bytes);
        self.put(format_args!("{key}_human"), human(bytes));
    }
}

/// Bytes as Redis shows them to people.
fn human(bytes: usize) -> String {
    let units = [("B", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    match units.iter().rev().find(|(_, shift)| bytes >> shift > 0).copied().unwrap_or(units[0]) {
        (unit, 0) => format!("{bytes}{unit}"),
        (unit, shift) => format!("{:.2}{unit}", bytes as f64 / (1u64 << shift) as f64),
    }
}

impl Keeper {
    pub(super) fn info(&self, now: Now, session: &Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let wanted = args.tail(1);
        let asked = |name: &str| wanted.iter().any(|arg| arg.eq_ignore_ascii_case(name.as_bytes()));
        let all = asked("all") || asked("everything");
        let default = wanted.is_empty() || asked("default");
        let mut fields = Fields { at_sentinel: session.at_sentinel, ..Fields::default() };
        let sections = if session.at_sentinel { AT_SENTINEL } else { SECTIONS };
        for (title, write) in sections {
            if all || asked(title) || default && !ON_DEMAND.contains(title) {
                fields.title(title);
                write(self, now, &mut fields);
            }
        }
        reply.verbatim("txt", fields.text.as_bytes());
        Ok(Flow::Done)
    }

    fn info_server(&self, now: Now, fields: &mut Fields) {
        let up_s = now.boot.ms_since(self.stats.since) / 1_000;
        let several_threads = self.config.parameters.iter().any(|(name, value)| name == "io-threads" && value != "1");
        fields.put("redis_version", REDIS_VERSION);
        fields.put("datakeeper_version", env!("CARGO_PKG_VERSION"));
        fields.put("redis_git_sha1", "00000000");
        fields.put("redis_git_dirty", 0);
        fields.put("redis_mode", if fields.at_sentinel { "sentinel" } else { "cluster" });
        fields.put("arch_bits", usize::BITS);
        fields.put("process_id", self.config.process_id);
        fields.put("run_id", self.run_id());
        let sentinel_addr = self.config.sentinel_addr.as_ref().filter(|_| fields.at_sentinel);
        fields.put("tcp_port", super::host_and_port(sentinel_addr.unwrap_or(&self.config.client_addr)).1);
        fields.put("server_time_usec", now.wall.0 * 1_000);
        fields.put("uptime_in_seconds", up_s);
        fields.put("uptime_in_days", up_s / 86_400);
        fields.put("hz", 1_000 / SWEEP_MS);
        fields.put("configured_hz", 1_000 / SWEEP_MS);
        fields.put("io_threads_active", u8::from(several_threads));
        fields.put("config_file", self.config.config_file.as_deref().unwrap_or(""));
    }

    fn info_sentinel(&self, now: Now, fields: &mut Fields) {
        let view = self.view(now);
        let masters = view.leader();
        fields.put("sentinel_masters", masters.iter().count());
        fields.put("sentinel_tilt", 0);
        fields.put("sentinel_tilt_since_seconds", -1);
        fields.put("sentinel_running_scripts", 0);
        fields.put("sentinel_scripts_queue_length", 0);
        fields.put("sentinel_simulate_failure_flags", 0);
        if let Some(leader) = masters {
            let status = match (view.confirmed, leader.live) {
                (true, _) => "ok",
                (false, true) => "sdown",
                (false, false) => "odown",
            };
            let (cluster, host, port) = (&self.config.cluster, &leader.host, leader.port);
            let (replicas, sentinels) = (view.replicas().count(), view.nodes.len());
            fields.put(
                "master0",
                format_args!(
                    "name={cluster},status={status},address={host}:{port},slaves={replicas},sentinels={sentinels}"
                ),
            );
        }
    }

    fn info_clients(&self, now: Now, fields: &mut Fields) {
        // As in Redis, who waits for the end of a pause is blocked, too.
        let paused = self.paused(now, false).into_iter().flat_map(|until| self.waiting.until(until));
        let paused = paused.filter(|conn| !self.blocked.contains(conn)).count();
        let blocked = self.blocked.iter().filter(|conn| self.waiting.contains(**conn)).count() + paused;
        fields.put("connected_clients", self.sessions.connected());
        fields.put("cluster_connections", self.links.len());
        fields.put("maxclients", self.config.clients_max);
        fields.put("blocked_clients", blocked);
        fields.put("tracking_clients", self.tracking.clients());
        fields.put("waiting_clients", self.waiting.len() - blocked);
    }

    fn info_memory(&self, _now: Now, fields: &mut Fields) {
        let (used, backlog) = (self.used_memory(), self.log.bytes());
        let process = fields.process(self);
        fields.put_bytes("used_memory", used);
        if let Some(process) = process {
            fields.put_bytes("used_memory_rss", process.resident);
        }
        fields.put_bytes("used_memory_peak", self.stats.memory_peak.max(used));
        if let Some(process) = process {
            let ratio = process.resident as f64 / (used + backlog).max(1) as f64;
            fields.put_bytes("total_system_memory", process.machine);
            fields.put("mem_fragmentation_ratio", format_args!("{ratio:.2}"));
        }
        fields.put_bytes("maxmemory", self.settings().max_memory as usize);
        fields.put("maxmemory_policy", self.settings().eviction.as_str());
        fields.put("mem_replication_backlog", backlog);
        fields.put("mem_clients_normal", self.piles.bytes());
    }

    fn info_persistence(&self, _now: Now, fields: &mut Fields) {
        fields.put("loading", u8::from(self.is_loading()));
        fields.put("async_loading", 0);
        fields.put("rdb_bgsave_in_progress", 0);
        fields.put("rdb_last_bgsave_status", "ok");
        fields.put("rdb_last_bgsave_time_sec", -1);
        fields.put("rdb_current_bgsave_time_sec", -1);
        fields.put("rdb_saves", 0);
        fields.put("aof_enabled", 0);
        fields.put("aof_rewrite_in_progress", 0);
        fields.put("aof_rewrite_scheduled", 0);
        fields.put("aof_last_rewrite_time_sec", -1);
        fields.put("aof_current_rewrite_time_sec", -1);
        fields.put("aof_last_bgrewrite_status", "ok");
        fields.put("aof_rewrites", 0);
        fields.put("aof_last_write_status", "ok");
    }

    fn info_stats(&self, _now: Now, fields: &mut Fields) {
        fields.put("total_connections_received", self.stats.connections);
        fields.put("total_commands_processed", self.stats.commands);
        let rates = self.stats.rates();
        let kib = |bytes: u64| format!("{:.2}", bytes as f64 / 1_024.0);
        fields.put("instantaneous_ops_per_sec", rates.commands);
        fields.put("total_net_input_bytes", self.stats.bytes_in);
        fields.put("total_net_output_bytes", self.stats.bytes_out);
        fields.put("instantaneous_input_kbps", kib(rates.bytes_in));
        fields.put("instantaneous_output_kbps", kib(rates.bytes_out));
        fields.put("rejected_connections", self.stats.rejected);
        fields.put("sync_full", self.stats.full_syncs_served);
        fields.put("sync_partial_ok", self.stats.partial_syncs);
        fields.put("sync_partial_err", self.stats.partial_syncs_refused);
        fields.put("expired_keys", self.stats.expired_keys);
        fields.put("evicted_keys", self.stats.evicted_keys);
        fields.put("keyspace_hits", self.stats.hits);
        fields.put("keyspace_misses", self.stats.misses);
        fields.put("pubsub_channels", self.pubsub.names(Kind::Channel));
        fields.put("pubsub_patterns", self.pubsub.names(Kind::Pattern));
        fields.put("pubsubshard_channels", self.pubsub.names(Kind::Shard));
        fields.put("latest_fork_usec", 0);
        fields.put("total_forks", 0);
        let (keys, items, prefixes) = self.tracking.sizes();
        fields.put("tracking_total_keys", keys);
        fields.put("tracking_total_items", items);
        fields.put("tracking_total_prefixes", prefixes);
        fields.put("client_output_buffer_limit_disconnections", self.stats.overrun_closed);
        fields.put("total_error_replies", self.stats.errors + self.stats.redirects);
        fields.put("total_redirects", self.stats.redirects);
    }

    fn info_replication(&self, now: Now, fields: &mut Fields) {
        let view = self.view(now);
        let master = self.is_sure_leader(now);
        fields.put("role", if master { "master" } else { "slave" });
        if !master {
            let leader = view.leader().filter(|leader| !leader.me);
            let up = view.confirmed && !self.is_loading();
            fields.put("master_host", leader.map_or("", |leader| &leader.host));
            fields.put("master_port", leader.map_or(0, |leader| leader.port));
            fields.put("master_link_status", if up { "up" } else { "down" });
            if let Some(heard) = leader.and_then(|leader| leader.heard) {
                fields.put("master_last_io_seconds_ago", now.boot.ms_since(heard) / 1_000);
            }
            fields.put("master_sync_in_progress", u8::from(self.intake.is_some()));
            fields.put("slave_read_repl_offset", self.log.end());
            fields.put("slave_repl_offset", self.applied);
            fields.put("slave_read_only", 1);
            fields.put("replica_announced", 1);
        }
        let linked: Vec<_> = view.replicas().filter(|_| self.leading.is_some()).filter(|r| r.heard.is_some()).collect();
        fields.put("connected_slaves", linked.len());
        for (i, node) in linked.iter().enumerate() {
            let state = if node.serves { "online" } else { "send_bulk" };
            let lag_s = node.heard.map_or(0, |heard| now.boot.ms_since(heard) / 1_000);
            fields.put(
                format_args!("slave{i}"),
                format_args!("ip={},port={},state={state},offset={},lag={lag_s}", node.host, node.port, node.offset),
            );
        }
        let dataset = self.dataset.map_or_else(|| self.run_id(), |dataset| hex_id("dataset", &[&dataset.to_string()]));
        let (base, end) = (self.log.base().offset, self.log.end());
        fields.put("master_failover_state", self.failover_state());
        fields.put("master_replid", dataset);
        fields.put("master_replid2", "0".repeat(40));
        fields.put("master_repl_offset", if self.role.leads() { end } else { self.applied });
        fields.put("second_repl_offset", -1);
        fields.put("repl_backlog_active", 1);
        fields.put("repl_backlog_size", self.config.backlog_bytes);
        fields.put("repl_backlog_first_byte_offset", base.next());
        fields.put("repl_backlog_histlen", end.0 - base.0);
    }

    fn info_cpu(&self, _now: Now, fields: &mut Fields) {
        let Some(process) = fields.process(self) else { return };
        let seconds = |ms: u64| format!("{}.{:06}", ms / 1_000, ms % 1_000 * 1_000);
        fields.put("used_cpu_sys", seconds(process.system_ms));
        fields.put("used_cpu_user", seconds(process.user_ms));
        fields.put("used_cpu_sys_children", seconds(0));
        fields.put("used_cpu_user_children", seconds(0));
    }

    fn info_errors(&self, _now: Now, fields: &mut Fields) {
        let moved = Some(("MOVED", self.stats.redirects)).filter(|(_, count)| *count > 0);
        for (code, count) in self.stats.errors_by_code().chain(moved) {
            fields.put(format_args!("errorstat_{code}"), format_args!("count={count}"));
        }
    }

    fn info_commands(&self, _now: Now, fields: &mut Fields) {
        for (spec, row) in self.calls.rows().filter(|(_, row)| row.calls + row.rejected + row.failed > 0) {
            let (calls, usec) = (row.calls, row.nanos / 1_000);
            let each = if calls == 0 { 0.0 } else { row.nanos as f64 / 1_000.0 / calls as f64 };
            let (rejected, failed) = (row.rejected, row.failed);
            fields.put(
                format_args!("cmdstat_{}", spec.name),
                format_args!(
                    "calls={calls},usec={usec},usec_per_call={each:.2},rejected_calls={rejected},failed_calls={failed}"
                ),
            );
        }
    }

    fn info_latencies(&self, _now: Now, fields: &mut Fields) {
        for (spec, row) in self.calls.rows() {
            let Some(histogram) = &row.histogram else { continue };
            let micros = |percent| histogram.percentile(percent) as f64 / 1_000.0;
            fields.put(
                format_args!("latency_percentiles_usec_{}", spec.name),
                format_args!("p50={:.3},p99={:.3},p99.9={:.3}", micros(50.0), micros(99.0), micros(99.9)),
            );
        }
    }

    fn info_keyspace(&self, _now: Now, fields: &mut Fields) {
        let (keys, expires) = (self.store.len(), self.store.expires());
        if keys > 0 {
            let ttl = self.store.mean_ttl_ms(self.clock).map_or(String::new(), |ms| format!(",avg_ttl={ms}"));
            fields.put("db0", format_args!("keys={keys},expires={expires}{ttl}"));
        }
    }

    fn info_datakeeper(&self, now: Now, fields: &mut Fields) {
        let status = self.status(now);
        let state = self.known.as_ref().map(|k| &k.state);
        let in_sync: Vec<&str> = state.iter().flat_map(|s| &s.in_sync).map(|member| member.id.as_str()).collect();
        let writable = state.is_some_and(|s| may_commit(s, self.pending.as_ref().map(|p| &p.want)));
        fields.put("cluster_name", &status.cluster);
        fields.put("node_name", &status.node);
        fields.put("node_role", &status.role);
        fields.put("dataset", status.dataset.map_or_else(String::new, |dataset| dataset.to_string()));
        fields.put("epoch", status.epoch);
        fields.put("leader", status.leader.as_ref().map_or("", |leader| leader.as_str()));
        fields.put("in_sync", in_sync.join(","));
        fields.put("wall_clock_ahead_ms", status.wall_clock_ahead_ms);
        fields.put("in_sync_size", in_sync.len());
        fields.put("in_sync_peak", status.peak_in_sync);
        fields.put("min_in_sync", parameters::min_in_sync(status.min_in_sync));
        fields.put("min_in_sync_effective", status.min_in_sync_effective);
        fields.put("enough_in_sync", u8::from(writable));
        fields.put("acks", parameters::acks(self.config.acks));
        fields.put("read_mode", parameters::read_mode(self.config.read_mode));
        if self.role == Role::Leader {
            fields.put("lease_held", u8::from(self.holds_lease(now)));
        }
        fields.put("log_end", self.log.end());
        fields.put("log_applied", self.applied);
        fields.put("log_acked", self.acked);
        if self.leading.is_none() && self.following.is_some() {
            fields.put("staleness_ms", self.staleness_ms(now));
        }
        fields.put("held_batches", self.holds.len());
        let others = status.nodes.iter().filter(|node| node.id != self.me.id);
        for node in others.filter(|_| self.leading.is_some()) {
            let Some(lag_entries) = node.lag_entries else { continue };
            let percent = node.sync_progress.map_or(100, |progress| progress.percent);
            fields.put(
                format_args!("follower_{}", node.id),
                format_args!(
                    "in_sync={},lag_entries={lag_entries},lag_ms={},sync_percent={percent}",
                    u8::from(node.in_sync),
                    node.lag_ms.unwrap_or(0)
                ),
            );
        }
        if let Some(intake) = &self.intake {
            let own = self.resync_progress(now);
            fields.put("full_resync_keys", intake.keys);
            fields.put("full_resync_bytes", intake.bytes);
            fields.put("full_resync_percent", own.map_or(0, |progress| progress.percent));
            fields.put("full_resync_bytes_per_s", own.map_or(0, |progress| progress.bytes_per_s));
        }
        fields.put("full_resyncs", self.stats.full_resyncs);
        fields.put("entries_applied", self.stats.entries_applied);
        fields.put("link_bytes_sent", self.stats.link_bytes);
        fields.put("unknown_commands", self.unknown.total());
        for (i, (command, library, calls)) in self.unknown.counts().enumerate() {
            fields.put(format_args!("unknown_{i}"), format_args!("command={command},library={library},calls={calls}"));
        }
        fields.put("forwarded_commands", self.stats.forwarded);
        fields.put("forwarded_unknown", self.stats.forwarded_unknown);
        fields.put("published_dropped", self.stats.published_dropped);
        fields.put("coordinator_connected", u8::from(status.coordinator.connected));
        fields.put("resets", status.resets);
        fields.put("halted", self.halted().unwrap_or(""));
    }

    /// What tells one life of this process from the next.
    fn run_id(&self) -> String {
        hex_id("run", &[&self.config.cluster, self.me.id.as_str(), &self.config.started.to_string()])
    }

    pub(super) fn role_command(&self, now: Now, reply: &mut Reply<'_>) -> Answer {
        let view = self.view(now);
        if self.is_sure_leader(now) {
            let linked: Vec<_> = view.replicas().filter(|replica| replica.heard.is_some()).collect();
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(self.log.end().0 as i64);
            reply.array(linked.len());
            for replica in linked {
                reply.array(3);
                reply.bulk(replica.host.as_bytes());
                reply.bulk(replica.port.to_string().as_bytes());
                reply.bulk(replica.offset.to_string().as_bytes());
            }
            return Ok(Flow::Done);
        }
        let leader = view.leader().filter(|leader| !leader.me);
        let state = match leader {
            Some(_) if view.confirmed && self.intake.is_some() => "sync",
            Some(_) if view.confirmed => "connected",
            Some(_) => "connecting",
            None => "connect",
        };
        reply.array(5);
        reply.bulk(b"slave");
        reply.bulk(leader.map_or("", |leader| &leader.host).as_bytes());
        reply.integer(leader.map_or(0, |leader| i64::from(leader.port)));
        reply.bulk(state.as_bytes());
        reply.integer(self.applied.0 as i64);
        Ok(Flow::Done)
    }

    pub(super) fn status_command(&self, now: Now, reply: &mut Reply<'_>) -> Answer {
        let json = serde_json::to_vec(&self.status(now)).expect("a status is plain data");
        reply.bulk(&json);
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_to_people_as_redis_shows_them() {
        for (bytes, want) in [(0, "0B"), (1_023, "1023B"), (1_536, "1.50K"), (5 << 20, "5.00M"), (3 << 40, "3.00T")] {
            assert_eq!(human(bytes), want);
        }
    }
}
