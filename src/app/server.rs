//! `server`: one node in the foreground, until a signal or a failure ends it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::config::{self, Bootstrap, Config, rewrite};
use super::signals::Signals;
use super::telemetry::LogHandle;
use crate::base::limits::{CLIENTS_MAX, CLIENTS_MIN, FILES_KEPT};
use crate::keeper::{Acks, KeeperConfig, ReadMode, Settings, WritesOnReplica};
use crate::shell::coordination::Coordinator;
use crate::shell::coordination::in_process::InProcess;
use crate::shell::coordination::zookeeper::{self, ZooKeeper};
use crate::shell::{self, Coordination, Options, Server, WriteConfig};

/// How long a node that is told to end waits for its clients to go.
const LEAVE: Duration = Duration::from_secs(10);

/// Runs one node until it is told to stop; `file` is where its configuration was read.
#[must_use]
pub fn run(config: Config, file: Option<PathBuf>, log: LogHandle) -> ExitCode {
    match super::ask(serve(&config, file, log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => super::complain(1, &reason),
    }
}

/// # Errors
/// Why the node could not start, or could not go on; for the operator.
async fn serve(config: &Config, file: Option<PathBuf>, log: LogHandle) -> Result<(), String> {
    let mut signals = Signals::listen(log.clone())?; // before anything is started: a signal must never find the default action
    let mut options = options(config, coordination(config));
    options.keeper.clients_max = room_for_clients(1, &options)?;
    options.log_dropped = Some(log.dropped());
    options.set_log_level = Some(log.set_level);
    options.keeper.config_file = file.as_ref().map(|file| file.display().to_string());
    options.write_config =
        file.map(|file| Arc::new(move |values: &[_]| rewrite::rewrite(&file, values)) as WriteConfig);
    let server = Server::start(options).map_err(|error| error.to_string())?;
    let (mut failure, mut shutdown) = (server.failure(), server.shutdown());
    tracing::info!(
        "node {} of cluster {} listens: clients {}, nodes {}, operators {}, as a Sentinel {}",
        config.node_name,
        config.cluster,
        server.client_addr(),
        server.repl_addr(),
        server.admin_addr().map_or_else(|| "nowhere".to_owned(), |addr| addr.to_string()),
        server.sentinel_addr().map_or_else(|| "to clients alone".to_owned(), |addr| addr.to_string()),
    );
    let limit = Some(Duration::from_secs(config.leave_timeout_s)).filter(|limit| !limit.is_zero());
    let mut asked_twice = false;
    let failed = loop {
        let why = tokio::select! {
            biased; // a node that cannot go on says so even if it is being stopped
            failed = failure.wait_for(Option::is_some) => break failed.ok().and_then(|reason| reason.clone()),
            signal = signals.end() => signal,
            asked = shutdown.changed() => {
                if asked.is_ok() && *shutdown.borrow_and_update() == Some(true) {
                    tracing::warn!("SHUTDOWN NOW: the node stops at once");
                    break None;
                }
                "SHUTDOWN".to_owned()
            }
        };
        match server.node().data_at_stake() {
            Some(stake) if !std::mem::replace(&mut asked_twice, true) => {
                tracing::error!("{why}: {stake}: it does not end yet; a second signal ends it at once");
            }
            Some(stake) => {
                tracing::error!("{why} again: the node stops at once, though {stake}");
                break None;
            }
            None => {
                leave(&server, &mut signals, &why, limit).await;
                break None;
            }
        }
    };
    server.stop();
    match failed {
        Some(reason) => Err(format!("node {}: {reason}", config.node_name)),
        None => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

/// Leaves the cluster in good order, unless a (further) signal comes.
async fn leave(server: &Server, signals: &mut Signals, why: &str, limit: Option<Duration>) {
    tracing::info!("{why}: the node leaves the cluster");
    tokio::select! {
        free = server.leave(LEAVE, limit) => {
            if !free {
                tracing::error!("shutdown.leave_timeout_s is over: the node stops, though too few copies are in sync without it");
            }
        }
        signal = signals.end() => {
            if server.must_stay() {
                tracing::error!("{signal} again: the node stops at once, though too few copies are in sync without it");
            } else {
                tracing::warn!("{signal} again: the node stops at once");
            }
        }
    }
}

/// Makes room for the clients of so many nodes in this process, and says how many each may have.
///
/// # Errors
/// The system lets this process open so few files that a node would not work; for the operator.
pub(super) fn room_for_clients(nodes: usize, options: &Options) -> Result<usize, String> {
    let limit = shell::raise_open_files().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let passes_on = options.keeper.writes_on_replica == WritesOnReplica::Proxy;
    let (clients, wanted) = clients_within(limit, nodes, if passes_on { options.threads } else { 0 });
    if clients < CLIENTS_MIN {
        return Err(format!(
            "this process may open {limit} files, of which a node needs {FILES_KEPT} for itself and {CLIENTS_MIN} for clients at least: raise the \
             limit to {wanted} (`ulimit -n {wanted}`, or LimitNOFILE={wanted} in a unit of systemd)"
        ));
    }
    if clients < CLIENTS_MAX {
        tracing::warn!(
            "this process may open {limit} files: {clients} clients can connect, and {CLIENTS_MAX} with {wanted}"
        );
    }
    Ok(clients)
}

/// How many clients each of `nodes` may have if the process may open `limit` files, and the limit with which that would be the most. Client threads
/// that pass commands on take files for that, too, but never more than half of what there is.
fn clients_within(limit: usize, nodes: usize, passing_on: usize) -> (usize, usize) {
    let share = (limit / nodes).saturating_sub(FILES_KEPT);
    let upstream = passing_on * shell::UPSTREAMS_MAX;
    let wanted = nodes * (CLIENTS_MAX + FILES_KEPT + upstream);
    ((share - upstream.min(share / 2)).min(CLIENTS_MAX), wanted)
}

fn coordination(config: &Config) -> Coordination {
    match config.coordination {
        config::Coordination::Embedded => Coordination::InProcess(InProcess::new()),
        config::Coordination::Zookeeper => {
            let options = zookeeper::Options {
                connect: config.zookeeper.connect.clone(),
                cluster: config.cluster.clone(),
                session_timeout: Duration::from_millis(config.zookeeper.session_timeout_ms),
                // `scheme:credentials` in the file, `scheme credentials` at the crate
                auth: config.zookeeper.auth.as_ref().map(|auth| auth.expose().replacen(':', " ", 1)),
            };
            Coordination::Start(Box::new(move |events| {
                ZooKeeper::start(options, events).map(|zookeeper| Box::new(zookeeper) as Box<dyn Coordinator>)
            }))
        }
    }
}

/// What a node is started with, as the configuration says.
pub(super) fn options(config: &Config, coordination: Coordination) -> Options {
    let bytes = |secret: &Option<config::Secret>| secret.as_ref().map(|secret| secret.expose().as_bytes().to_vec());
    let threads = config.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut keeper = KeeperConfig::new(config.node_name.clone(), &config.cluster);
    keeper.shared = config.cluster_config();
    keeper.acks = match config.replication.acks {
        config::Acks::InSync => Acks::InSync,
        config::Acks::Leader => Acks::Leader,
    };
    keeper.read_mode = match config.replication.read_mode {
        config::ReadMode::Lease => ReadMode::Lease,
        config::ReadMode::Confirm => ReadMode::Confirm,
        config::ReadMode::Local => ReadMode::Local,
    };
    keeper.writes_on_replica = match config.writes_on_replica {
        config::WritesOnReplica::Moved => WritesOnReplica::Moved,
        config::WritesOnReplica::Readonly => WritesOnReplica::Readonly,
        config::WritesOnReplica::Proxy => WritesOnReplica::Proxy,
    };
    keeper.reads_need_readonly = config.reads_on_replica == config::ReadsOnReplica::Readonly;
    keeper.max_staleness_ms = config.replication.max_staleness_ms;
    keeper.backlog_bytes = usize::try_from(config.replication.backlog_bytes).unwrap_or(usize::MAX);
    keeper.bootstrap = match config.bootstrap {
        Bootstrap::Auto => true,
        Bootstrap::Never => false,
    };
    keeper.secret = bytes(&config.replication.secret);
    keeper.password = bytes(&config.password);
    let memory = &config.memory;
    keeper.settings = Settings {
        max_memory: memory.max_bytes.unwrap_or(0),
        output_limit: memory.output_limit,
        max_clients_memory: memory.clients_max_bytes,
        eviction: memory.eviction,
        eviction_samples: memory.eviction_samples as usize,
        lfu_log_factor: memory.lfu_log_factor as u32,
        lfu_decay_minutes: memory.lfu_decay_minutes as u32,
        slower_than_us: config.slow.slower_than_us,
        slowlog_max_len: config.slow.slowlog_max_len,
        latency_threshold_ms: config.slow.latency_threshold_ms,
        key_events: config.key_events,
        tracking_keys_max: config.tracking_keys_max,
        log_level: config.log.level,
    };
    keeper.parameters = vec![
        ("io-threads".to_owned(), threads.to_string()),
        ("writes_on_replica".to_owned(), config.writes_on_replica.as_str().to_owned()),
        ("reads_on_replica".to_owned(), config.reads_on_replica.as_str().to_owned()),
        ("replication.max_staleness_ms".to_owned(), config.replication.max_staleness_ms.to_string()),
    ];
    Options {
        keeper,
        coordination,
        listen: config.listen,
        advertise: config.advertise.clone(),
        repl_listen: config.replication.listen,
        repl_advertise: config.replication.advertise.clone(),
        sentinel_listen: config.sentinel_listen,
        sentinel_advertise: config.sentinel_advertise.clone(),
        admin_listen: Some(config.admin_listen),
        threads,
        write_config: None,
        set_log_level: None,
        log_dropped: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_a_node_does_not_need_itself() {
        assert_eq!(clients_within(164, 1, 0), (64, 10_100));
        assert_eq!(clients_within(usize::MAX, 1, 0).0, CLIENTS_MAX);
        assert_eq!(clients_within(99, 1, 0).0, 0);
        assert_eq!(clients_within(3 * 164, 3, 0), (64, 30_300));
        // Two threads of a proxy: 512 files if there is room, half of it if there is not.
        assert_eq!(clients_within(10_611, 1, 2), (9_999, 10_612));
        assert_eq!(clients_within(300, 1, 2).0, 100);
    }
}
