//! The coordination service: the same stories against a real ZooKeeper and against the in-process one, and those of outages against
//! ZooKeeper alone.
//!
//! No story waits for time to pass: each waits for an event, with a deadline that only a failure reaches. Tests with ZooKeeper
//! are skipped where it is not installed (`tests/support/zookeeper.rs`).

mod support;

use std::time::{Duration, Instant};

use datakeeper::base::ids::{ChangeId, CopyId, DatasetId, NodeId, RunId};
use datakeeper::cluster::config::ClusterConfig;
use datakeeper::cluster::coordinator::{CasOutcome, CoordEvent, CoordRequest, StateRead};
use datakeeper::cluster::registration::{Host, NodeRead, Registration};
use datakeeper::cluster::state::{Change, ClusterState, Member, MinInSync, Why};
use datakeeper::shell::coordination::Coordinator;
use datakeeper::shell::coordination::in_process::InProcess;
use datakeeper::shell::coordination::zookeeper::{Options, ZooKeeper};
use support::tripwire::{Cut, Tripwire};
use support::zookeeper::ZooKeeper as Server;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use zookeeper_client as zk;

const DEADLINE: Duration = Duration::from_secs(30);
/// So long that nothing in a test can be the work of its expiry.
const LONG_SESSION: Duration = Duration::from_secs(40);

enum Service {
    InProcess(InProcess),
    ZooKeeper(Server),
}

impl Service {
    fn connect(&self) -> Node {
        self.connect_with(LONG_SESSION, None)
    }

    fn connect_with(&self, session_timeout: Duration, auth: Option<&str>) -> Node {
        match self {
            Service::InProcess(service) => {
                let (sender, events) = unbounded_channel();
                Node { coordinator: Box::new(service.connect(sender)), events }
            }
            Service::ZooKeeper(server) => connect_to(server.address(), session_timeout, auth),
        }
    }
}

fn connect_to(connect: String, session_timeout: Duration, auth: Option<&str>) -> Node {
    let (sender, events) = unbounded_channel();
    let options = Options { connect, cluster: "c1".to_string(), session_timeout, auth: auth.map(str::to_string) };
    let coordinator = Box::new(ZooKeeper::start(options, sender).expect("the options are sound"));
    Node { coordinator, events }
}

/// One node: what it asks, and what it hears.
struct Node {
    coordinator: Box<dyn Coordinator>,
    events: UnboundedReceiver<CoordEvent>,
}

impl Node {
    fn submit(&self, request: CoordRequest) {
        self.coordinator.submit(request);
    }

    /// Drops events until `pick` wants one.
    async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&CoordEvent) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let search = async {
            while let Some(event) = self.events.recv().await {
                if let Some(found) = pick(&event) {
                    return Some(found);
                }
                seen.push(event);
            }
            None
        };
        match timeout(DEADLINE, search).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("no {what}: the events ended; seen {seen:#?}"),
            Err(_) => panic!("no {what} within {DEADLINE:?}; seen {seen:#?}"),
        }
    }

    async fn wait_up(&mut self) {
        self.wait("session", |e| (*e == CoordEvent::SessionUp).then_some(())).await;
    }

    async fn wait_down(&mut self) {
        self.wait("loss of contact", |e| matches!(e, CoordEvent::SessionDown { .. }).then_some(())).await;
    }

    /// The outcome of a change, and what the last `State` before it said.
    async fn wait_resolved(&mut self, id: u128) -> (CasOutcome, Option<StateRead>) {
        let mut last = None;
        let outcome = self
            .wait("resolution", |event| match event {
                CoordEvent::State(read) => {
                    last = Some(read.clone());
                    None
                }
                CoordEvent::Resolved { id: resolved, outcome } if *resolved == ChangeId(id) => Some(outcome.clone()),
                _ => None,
            })
            .await;
        (outcome, last)
    }

    async fn wait_state(&mut self, what: &str, mut is_it: impl FnMut(&StateRead) -> bool) -> StateRead {
        self.wait(what, |e| match e {
            CoordEvent::State(read) if is_it(read) => Some(read.clone()),
            _ => None,
        })
        .await
    }

    async fn wait_nodes(&mut self, what: &str, mut is_it: impl FnMut(&[NodeRead]) -> bool) -> Vec<NodeRead> {
        self.wait(what, |e| match e {
            CoordEvent::Nodes { nodes, .. } if is_it(nodes) => Some(nodes.clone()),
            _ => None,
        })
        .await
    }

    async fn wait_config(&mut self) -> ClusterConfig {
        self.wait("config", |e| match e {
            CoordEvent::Config(config) => Some(config.clone()),
            _ => None,
        })
        .await
    }

    async fn wait_registered(&mut self, copy: u128) {
        let want = CoordEvent::Registered { copy: CopyId(copy), empty: true };
        self.wait("registration", |e| (*e == want).then_some(())).await;
    }

    /// What is told that the service refuses, or that it does not any more.
    async fn wait_hindered(&mut self) -> Option<String> {
        self.wait("hindrance", |e| match e {
            CoordEvent::Hindered { reason } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    async fn wait_awaited(&mut self) -> String {
        self.wait("holder of the name", |e| match e {
            CoordEvent::NameAwaited { holder } => Some(holder.clone()),
            _ => None,
        })
        .await
    }

    async fn wait_taken(&mut self) -> String {
        self.wait("loss of the name", |e| match e {
            CoordEvent::NameTaken { holder } => Some(holder.clone()),
            _ => None,
        })
        .await
    }

    /// Asks for confirmed reads and returns them.
    async fn confirm(&mut self) -> (StateRead, Vec<NodeRead>) {
        self.submit(CoordRequest::Confirm);
        let state = self.wait_state("confirmed state", |read| read.confirmed).await;
        let nodes = self
            .wait("confirmed directory", |e| match e {
                CoordEvent::Nodes { nodes, confirmed: true, .. } => Some(nodes.clone()),
                _ => None,
            })
            .await;
        (state, nodes)
    }
}

fn change(id: u128, by: &str) -> Change {
    Change { id: ChangeId(id), by: by.parse().unwrap(), why: Why::Elect, at_ms: 0 }
}

fn first(name: &str, id: u128) -> ClusterState {
    let me = Member { id: name.parse().unwrap(), copy: CopyId(id) };
    ClusterState::bootstrap("c1", DatasetId(id), me, MinInSync::Auto, change(id, name))
}

fn bootstrap(name: &str, id: u128) -> CoordRequest {
    CoordRequest::Bootstrap { want: first(name, id), config: ClusterConfig::default().scaled(id as u64) }
}

/// The leader elects itself again: any change will do here.
fn elect(state: &ClusterState, expect: i32, id: u128) -> CoordRequest {
    let want = state.elect(&state.leader.clone(), change(id, state.leader.id.as_str()));
    CoordRequest::Cas { expect, want, nodes: Vec::new() }
}

fn with_checks(request: CoordRequest, checks: &[(&str, i32)]) -> CoordRequest {
    let CoordRequest::Cas { expect, want, .. } = request else { panic!("{request:?} is no compare-and-set") };
    let nodes = checks.iter().map(|(name, version)| (name.parse::<NodeId>().unwrap(), *version)).collect();
    CoordRequest::Cas { expect, want, nodes }
}

fn registration(name: &str, port: u16, copy: u128, started_ms: u64) -> Registration {
    Registration {
        id: name.parse().unwrap(),
        copy: CopyId(copy),
        client_addr: format!("h:{port}"),
        repl_addr: format!("h:1{port}"),
        sentinel_addr: None,
        rank: 0,
        dataset: None,
        empty: true,
        version: "0".to_string(),
        speaks: 1,
        started_ms,
        run: Some(RunId(u128::from(port) << 64 | u128::from(started_ms))),
        host: Some(Host {
            boot_id: "b".to_string(),
            network: 1,
            machine_id: None,
            client_bound: format!("h:{port}"),
            repl_bound: format!("h:1{port}"),
        }),
        ended: false,
        gone: Vec::new(),
    }
}

fn register(name: &str, port: u16, copy: u128, started_ms: u64) -> CoordRequest {
    CoordRequest::Register(registration(name, port, copy, started_ms))
}

fn change_id(read: &StateRead) -> Option<ChangeId> {
    read.state.as_ref().map(|(state, _)| state.change.id)
}

fn live_copies(nodes: &[NodeRead]) -> Vec<(String, Option<CopyId>)> {
    nodes.iter().map(|n| (n.registration.id.to_string(), n.live)).collect()
}

// ---- the same stories against both ----

async fn of_two_nodes_that_bootstrap_one_wins(service: &Service) {
    let (mut a, mut b) = (service.connect(), service.connect());
    a.wait_up().await;
    b.wait_up().await;
    a.submit(bootstrap("n1", 1));
    b.submit(bootstrap("n2", 2));
    let (won_a, _) = a.wait_resolved(1).await;
    let (won_b, seen_b) = b.wait_resolved(2).await;
    let (winner, config) = match (won_a, won_b) {
        (CasOutcome::Won(0), CasOutcome::Lost) => {
            assert_eq!(seen_b.as_ref().and_then(change_id), Some(ChangeId(1)), "the loser was shown what is there");
            (1, ClusterConfig::default())
        }
        (CasOutcome::Lost, CasOutcome::Won(0)) => (2, ClusterConfig::default().scaled(2)),
        both => panic!("want one winner, got {both:?}"),
    };
    for node in [&mut a, &mut b] {
        let (state, _) = node.confirm().await;
        assert_eq!(change_id(&state), Some(ChangeId(winner)));
        assert_ne!(state.incarnation, 0);
    }
    // Whoever comes later is told everything unasked.
    let mut late = service.connect();
    late.wait_state("state", |read| change_id(read) == Some(ChangeId(winner))).await;
    assert_eq!(service.connect().wait_config().await, config, "the winner's settings");
}

async fn a_change_is_won_once_and_reaches_the_others(service: &Service) {
    let (mut a, mut b) = (service.connect(), service.connect());
    a.submit(bootstrap("n1", 1));
    assert_eq!(a.wait_resolved(1).await.0, CasOutcome::Won(0));
    b.wait_state("first state", |read| change_id(read) == Some(ChangeId(1))).await;

    a.submit(elect(&first("n1", 1), 0, 10));
    assert_eq!(a.wait_resolved(10).await.0, CasOutcome::Won(1));
    let heard = b.wait_state("second state", |read| change_id(read) == Some(ChangeId(10))).await;
    assert_eq!(heard.state.map(|(_, version)| version), Some(1));

    b.submit(elect(&first("n1", 1), 0, 11));
    let (outcome, seen) = b.wait_resolved(11).await;
    assert_eq!(outcome, CasOutcome::Lost);
    assert_eq!(seen.as_ref().and_then(change_id), Some(ChangeId(10)), "the loser was shown what is there");
    assert_eq!(change_id(&b.confirm().await.0), Some(ChangeId(10)));
}

async fn settings_are_changed_only_from_what_they_were_and_a_repeated_change_is_won(service: &Service) {
    let (mut a, mut b) = (service.connect(), service.connect());
    a.submit(bootstrap("n1", 1));
    let old = a.wait_config().await;
    let new = old.clone().scaled(3);
    let set = |id, from: &ClusterConfig, to: &ClusterConfig| CoordRequest::SetConfig {
        id: ChangeId(id),
        from: from.clone(),
        to: to.clone(),
    };
    b.submit(set(20, &old, &new));
    assert!(matches!(b.wait_resolved(20).await.0, CasOutcome::Won(_)));
    assert_eq!(a.wait_config().await, new, "the others hear of it");
    a.submit(set(21, &old, &new));
    assert!(matches!(a.wait_resolved(21).await.0, CasOutcome::Won(_)), "it is there, whoever wrote it");
    a.submit(set(22, &old, &old.clone().scaled(2)));
    assert_eq!(a.wait_resolved(22).await.0, CasOutcome::Lost);
    assert_eq!(service.connect().wait_config().await, new);
}

async fn a_change_with_checks_is_lost_if_a_node_has_registered_anew(service: &Service) {
    let mut a = service.connect();
    a.submit(bootstrap("n1", 1));
    a.submit(register("n1", 1, 7, 5));
    a.submit(register("n1", 1, 8, 5));
    a.wait_registered(8).await;
    let (_, nodes) = a.confirm().await;
    assert_eq!(nodes[0].version, 1);
    a.submit(with_checks(elect(&first("n1", 1), 0, 10), &[("n1", 0)]));
    assert_eq!(a.wait_resolved(10).await.0, CasOutcome::Lost);
    a.submit(with_checks(elect(&first("n1", 1), 0, 11), &[("n1", 1), ("n9", 0)]));
    assert_eq!(a.wait_resolved(11).await.0, CasOutcome::Lost);
    a.submit(with_checks(elect(&first("n1", 1), 0, 12), &[("n1", 1)]));
    assert_eq!(a.wait_resolved(12).await.0, CasOutcome::Won(1));
}

async fn the_directory_shows_who_is_there_and_a_stop_at_once(service: &Service) {
    let (mut a, mut b) = (service.connect(), service.connect());
    a.submit(register("n1", 1, 7, 5));
    a.wait_registered(7).await;
    b.submit(register("n2", 2, 8, 5));
    b.wait_registered(8).await;
    let both = [("n1".to_string(), Some(CopyId(7))), ("n2".to_string(), Some(CopyId(8)))];
    a.wait_nodes("both nodes", |nodes| live_copies(nodes) == both).await;
    let (_, nodes) = b.confirm().await;
    assert_eq!(nodes[0].registration, registration("n1", 1, 7, 5));
    let started = Instant::now();
    a.coordinator.stop();
    assert!(started.elapsed() < Duration::from_secs(2), "stop took {:?}", started.elapsed());
    let left = [("n1".to_string(), None), ("n2".to_string(), Some(CopyId(8)))];
    b.wait_nodes("the other's end", |nodes| live_copies(nodes) == left).await;
}

async fn a_name_that_is_in_use_is_waited_for(service: &Service) {
    let (mut old, mut new) = (service.connect(), service.connect());
    old.submit(register("n1", 1, 7, 5));
    old.wait_registered(7).await;
    new.submit(register("n1", 2, 8, 6));
    let holder = new.wait_awaited().await;
    assert!(holder.contains("h:1,"), "{holder}");
    // Requests that follow are not held up, and the living one keeps its name.
    let (_, nodes) = new.confirm().await;
    assert_eq!(live_copies(&nodes), [("n1".to_string(), Some(CopyId(7)))]);
    old.coordinator.stop();
    new.wait_registered(8).await;
    let (_, nodes) = new.confirm().await;
    assert_eq!(live_copies(&nodes), [("n1".to_string(), Some(CopyId(8)))]);
}

async fn a_restart_on_the_same_addresses_takes_the_name_and_the_old_process_is_told(service: &Service) {
    let (mut old, mut new) = (service.connect(), service.connect());
    old.submit(register("n1", 1, 7, 5));
    old.wait_registered(7).await;
    new.submit(register("n1", 1, 8, 6));
    new.wait_registered(8).await;
    old.submit(register("n1", 1, 9, 5));
    old.wait_taken().await;
    let (_, nodes) = new.confirm().await;
    assert_eq!(live_copies(&nodes), [("n1".to_string(), Some(CopyId(8)))]);
    // It may hold data: as soon as the other one is gone, the directory shows them again.
    new.coordinator.stop();
    old.wait_registered(9).await;
}

async fn an_end_in_good_order_is_noted_and_a_crash_is_not(service: &Service) {
    let (mut a, mut b) = (service.connect(), service.connect());
    a.submit(register("n1", 1, 7, 5));
    a.wait_registered(7).await;
    a.coordinator.stop();
    b.wait_nodes("the end of n1", |nodes| nodes.len() == 1 && nodes[0].registration.ended && nodes[0].live.is_none())
        .await;
    b.submit(register("n1", 2, 8, 6));
    b.wait_registered(8).await;
    let (_, nodes) = b.confirm().await;
    assert_eq!((nodes[0].registration.ended, &nodes[0].registration.gone[..]), (false, &[CopyId(7)][..]));
    drop(b);
    let mut c = service.connect();
    c.wait_nodes("the loss of n1", |nodes| nodes.len() == 1 && nodes[0].live.is_none()).await;
    assert!(!c.confirm().await.1[0].registration.ended);
}

macro_rules! against_both {
    ($($story:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test]
            async fn $story() {
                super::$story(&super::Service::InProcess(super::InProcess::new())).await;
            })*
        }
        mod zookeeper {
            $(#[tokio::test]
            async fn $story() {
                let Some(server) = super::Server::start() else { return };
                super::$story(&super::Service::ZooKeeper(server)).await;
            })*
        }
    };
}
against_both!(
    of_two_nodes_that_bootstrap_one_wins,
    a_change_is_won_once_and_reaches_the_others,
    a_change_with_checks_is_lost_if_a_node_has_registered_anew,
    settings_are_changed_only_from_what_they_were_and_a_repeated_change_is_won,
    the_directory_shows_who_is_there_and_a_stop_at_once,
    a_name_that_is_in_use_is_waited_for,
    a_restart_on_the_same_addresses_takes_the_name_and_the_old_process_is_told,
    an_end_in_good_order_is_noted_and_a_crash_is_not,
);

// ---- in process alone ----

#[tokio::test]
async fn a_crashed_node_stays_live_until_its_session_expires_and_hears_nothing_more() {
    let service = InProcess::new();
    let (sender, mut events) = unbounded_channel();
    let crashing = service.connect(sender);
    crashing.submit(register("n1", 1, 7, 5));
    let mut other = Service::InProcess(service).connect();
    let alive = [("n1".to_string(), Some(CopyId(7)))];
    assert_eq!(live_copies(&other.confirm().await.1), alive);
    crashing.crash(Duration::from_millis(200));
    assert_eq!(live_copies(&other.confirm().await.1), alive, "until the session expires");
    other.wait_nodes("expiry", |nodes| nodes[0].live.is_none()).await;
    while let Some(event) = events.recv().await {
        assert!(
            !matches!(&event, CoordEvent::Nodes { nodes, .. } if nodes.iter().any(|n| n.live.is_none())),
            "{event:?}"
        );
    }
}

// ---- ZooKeeper alone: outages ----

#[tokio::test]
async fn a_change_asked_for_during_an_outage_is_won_once_when_zookeeper_is_back() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let (mut a, mut b) = (service.connect(), service.connect());
    a.submit(bootstrap("n1", 1));
    a.submit(register("n1", 1, 7, 5));
    assert_eq!(a.wait_resolved(1).await.0, CasOutcome::Won(0));
    a.wait_registered(7).await;
    b.wait_up().await;

    server_of(&mut service).kill();
    a.wait_down().await;
    b.wait_down().await;
    a.submit(elect(&first("n1", 1), 0, 10));
    b.submit(elect(&first("n1", 1), 0, 20));
    server_of(&mut service).restart();

    let (of_a, _) = a.wait_resolved(10).await;
    let (of_b, _) = b.wait_resolved(20).await;
    let won = |outcome: &CasOutcome| *outcome == CasOutcome::Won(1);
    assert!(won(&of_a) != won(&of_b), "one of both: {of_a:?}, {of_b:?}");
    let winner = ChangeId(if won(&of_a) { 10 } else { 20 });
    let (state, nodes) = a.confirm().await;
    assert_eq!((change_id(&state), state.state.map(|(_, version)| version)), (Some(winner), Some(1)));
    assert_eq!(live_copies(&nodes), [("n1".to_string(), Some(CopyId(7)))]);
    // The answer came once: nothing more is said about it up to a later answer.
    a.submit(CoordRequest::Confirm);
    a.wait("confirmed state", |e| {
        assert!(!matches!(e, CoordEvent::Resolved { .. }), "{e:?} again");
        matches!(e, CoordEvent::State(read) if read.confirmed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn changes_under_repeated_kills_are_each_won_exactly_once() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    let mut state = first("n1", 1);
    for version in 0..4 {
        let id = 100 + version as u128;
        let request = elect(&state, version, id);
        let CoordRequest::Cas { want, .. } = &request else { unreachable!() };
        state = want.clone();
        // The kill races the request: it may be applied before, or found again after.
        node.submit(request);
        server_of(&mut service).kill();
        server_of(&mut service).restart();
        assert_eq!(node.wait_resolved(id).await.0, CasOutcome::Won(version + 1));
    }
    let (read, _) = node.confirm().await;
    assert_eq!(read.state, Some((state, 4)));
}

#[tokio::test]
async fn a_change_that_lands_after_its_caller_gave_the_connection_up_is_found_again() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    // The request reaches the frozen server's socket; it is carried out at the thaw, before the end of the connection is noticed.
    server_of(&mut service).freeze();
    node.submit(elect(&first("n1", 1), 0, 10));
    node.wait_down().await;
    server_of(&mut service).thaw();
    assert_eq!(node.wait_resolved(10).await.0, CasOutcome::Won(1));
    let (state, _) = node.confirm().await;
    assert_eq!((change_id(&state), state.state.map(|(_, version)| version)), (Some(ChangeId(10)), Some(1)));
}

#[tokio::test]
async fn a_change_is_won_once_wherever_the_connection_breaks() {
    let Some(server) = Server::start() else { return };
    let wire = Tripwire::start(server.address());
    let mut node = connect_to(wire.address(), LONG_SESSION, None);
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    node.submit(register("n1", 1, 7, 5));
    node.wait_registered(7).await;
    let mut state = node.confirm().await.0.state.expect("a state").0;
    for (version, cut) in [Cut::Request, Cut::Answer, Cut::Request, Cut::Answer].into_iter().enumerate() {
        let (version, id) = (version as i32 + 1, 100 + version as u128);
        wire.set(&ChangeId(id).to_string(), cut);
        // The latter two go through the transaction with checks.
        let request = match version {
            1 | 2 => elect(&state, version - 1, id),
            _ => with_checks(elect(&state, version - 1, id), &[("n1", 0)]),
        };
        let CoordRequest::Cas { want, .. } = &request else { unreachable!() };
        state = want.clone();
        node.submit(request);
        assert_eq!(node.wait_resolved(id).await.0, CasOutcome::Won(version), "{cut:?}");
        assert!(wire.has_tripped());
    }
    assert_eq!(node.confirm().await.0.state, Some((state, 4)));
    for (copy, cut) in [(8, Cut::Request), (9, Cut::Answer)] {
        wire.set(&CopyId(copy).to_string(), cut);
        node.submit(register("n1", 1, copy, 5));
        node.wait_registered(copy).await;
        assert!(wire.has_tripped());
    }
}

#[tokio::test]
async fn a_bootstrap_is_won_once_wherever_the_connection_breaks() {
    for cut in [Cut::Request, Cut::Answer] {
        let Some(server) = Server::start() else { return };
        let wire = Tripwire::start(server.address());
        let mut node = connect_to(wire.address(), LONG_SESSION, None);
        wire.set(&ChangeId(1).to_string(), cut);
        node.submit(bootstrap("n1", 1));
        assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0), "{cut:?}");
        assert!(wire.has_tripped());
    }
}

#[tokio::test]
async fn a_node_whose_session_expired_registers_again_in_a_new_one() {
    let Some(server) = Server::start() else { return };
    let path = "/datakeeper/c1/nodes/n1/live";
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect_with(Duration::from_secs(1), None);
    node.submit(register("n1", 1, 7, 5));
    node.wait_registered(7).await;
    let witness = raw_client(&mut service, Duration::from_secs(4)).await;
    let owner = witness.check_stat(path).await.unwrap().expect("the live entry").ephemeral_owner;
    let mut states = witness.state_watcher();

    server_of(&mut service).freeze();
    node.wait_down().await;
    // The witness gives its own, longer session up: by then the node's is over for certain.
    let expired = async { while states.changed().await != zk::SessionState::Expired {} };
    timeout(DEADLINE, expired).await.expect("the witness's session expires");
    server_of(&mut service).thaw();

    node.wait_up().await;
    node.wait_nodes("registration in the new session", |nodes| {
        live_copies(nodes) == [("n1".to_string(), Some(CopyId(7)))]
    })
    .await;
    let witness = raw_client(&mut service, LONG_SESSION).await;
    let replaced = async {
        loop {
            // The watch fires when the entry of the old session goes, or is replaced.
            let (stat, watcher) = witness.check_and_watch_stat(path).await.unwrap();
            if stat.is_some_and(|stat| stat.ephemeral_owner != owner) {
                return;
            }
            watcher.changed().await;
        }
    };
    timeout(DEADLINE, replaced).await.expect("the live entry belongs to another session");
}

#[tokio::test]
async fn a_live_entry_that_somebody_deletes_is_made_again() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(register("n1", 1, 7, 5));
    node.wait_registered(7).await;
    let somebody = raw_client(&mut service, LONG_SESSION).await;
    somebody.delete("/datakeeper/c1/nodes/n1/live", None).await.unwrap();
    node.wait_registered(7).await;
    assert_eq!(node.confirm().await.1[0].live, Some(CopyId(7)));
}

#[tokio::test]
async fn an_old_process_finds_by_itself_that_its_name_is_taken() {
    let Some(server) = Server::start() else { return };
    let service = Service::ZooKeeper(server);
    let (mut old, mut new) = (service.connect(), service.connect());
    old.submit(register("n1", 1, 7, 5));
    old.wait_registered(7).await;
    new.submit(register("n1", 1, 8, 6));
    let holder = old.wait_taken().await;
    assert!(holder.contains(&CopyId(8).to_string()), "{holder}");
    new.wait_registered(8).await;
}

#[tokio::test]
async fn a_wiped_zookeeper_shows_no_state_and_then_another_incarnation() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(bootstrap("n1", 1));
    node.submit(register("n1", 1, 7, 5));
    node.wait_registered(7).await;
    let before = node.confirm().await.0;
    server_of(&mut service).kill();
    node.wait_down().await;
    server_of(&mut service).wipe();
    server_of(&mut service).restart();
    node.wait_registered(7).await;
    node.wait_state("absence", |read| read.state.is_none() && read.incarnation == 0).await;
    node.submit(elect(&first("n1", 1), 0, 10));
    let (outcome, seen) = node.wait_resolved(10).await;
    assert_eq!((outcome, seen.and_then(|read| read.state)), (CasOutcome::Lost, None));
    node.submit(bootstrap("n1", 11));
    assert_eq!(node.wait_resolved(11).await.0, CasOutcome::Won(0));
    let after = node.confirm().await.0;
    assert_ne!((change_id(&after), after.incarnation), (change_id(&before), before.incarnation));
}

#[tokio::test]
async fn an_unreadable_state_is_reported_and_not_built_on() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    let somebody = raw_client(&mut service, LONG_SESSION).await;
    somebody.set_data("/datakeeper/c1/groups/0/state", b"{}", None).await.unwrap();
    let unreadable = |e: &CoordEvent| match e {
        CoordEvent::Unreadable { reason } => Some(reason.clone()),
        _ => None,
    };
    let reason = node.wait("complaint", unreadable).await;
    assert!(reason.contains("/state"), "{reason}");
    node.submit(elect(&first("n1", 1), 0, 10));
    assert_eq!(node.wait_resolved(10).await.0, CasOutcome::Lost);
}

#[tokio::test]
async fn with_auth_only_that_user_reads_what_the_cluster_wrote() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let auth = Some("digest keeper:secret");
    let (mut a, mut b) = (service.connect_with(LONG_SESSION, auth), service.connect_with(LONG_SESSION, auth));
    a.submit(bootstrap("n1", 1));
    a.submit(register("n1", 1, 7, 5));
    a.wait_registered(7).await;
    assert_eq!(change_id(&b.confirm().await.0), Some(ChangeId(1)));
    let stranger = raw_client(&mut service, LONG_SESSION).await;
    for path in ["/datakeeper/c1/groups/0/state", "/datakeeper/c1/config", "/datakeeper/c1/nodes/n1"] {
        assert_eq!(stranger.get_data(path).await.unwrap_err(), zk::Error::NoAuth, "{path}");
    }
}

#[tokio::test]
async fn a_chroot_that_exists_is_enough_where_the_rest_is_read_only() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let admin = raw_client(&mut service, LONG_SESSION).await;
    let open = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    admin.create("/shop", b"", &open).await.unwrap();
    admin.set_acl("/", &zk::Acls::anyone_read(), None).await.unwrap();
    let mut node = connect_to(format!("{}/shop", server_of(&mut service).address()), LONG_SESSION, None);
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    assert!(admin.check_stat("/shop/c1/groups/0/state").await.unwrap().is_some());
    assert!(admin.check_stat("/datakeeper").await.unwrap().is_none());
}

#[tokio::test]
async fn a_locked_chroot_is_named_and_used_once_it_is_open() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let address = server_of(&mut service).address();
    let owner = zk::Client::connector().with_auth("digest", b"owner:secret").connect(&address);
    let owner = timeout(DEADLINE, owner).await.expect("an answer").expect("a session");
    owner.create("/shop", b"", &zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all())).await.unwrap();
    let mut node = connect_to(format!("{address}/shop"), LONG_SESSION, None);
    node.submit(bootstrap("n1", 1));
    let reason = node.wait_hindered().await.expect("a reason");
    assert!(reason.contains("refuses access to /shop/c1: its ACL") && reason.contains("zookeeper.auth"), "{reason}");
    owner.set_acl("/shop", &zk::Acls::anyone_all(), None).await.unwrap();
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    assert_eq!(node.wait_hindered().await, None);
}

#[tokio::test]
async fn credentials_that_do_not_fit_are_named_with_what_they_do_not_open() {
    let Some(server) = Server::start() else { return };
    let service = Service::ZooKeeper(server);
    let mut founder = service.connect_with(LONG_SESSION, Some("digest keeper:secret"));
    founder.submit(bootstrap("n1", 1));
    assert_eq!(founder.wait_resolved(1).await.0, CasOutcome::Won(0));
    for (auth, path) in [(Some("digest keeper:other"), "/datakeeper/c1/"), (None, "/datakeeper/c1/")] {
        let mut node = service.connect_with(LONG_SESSION, auth);
        let reason = node.wait_hindered().await.expect("a reason");
        assert!(reason.contains("refuses access to") && reason.contains(path), "{reason}");
    }
    let mut node = service.connect_with(LONG_SESSION, Some("no-such-scheme keeper:secret"));
    let reason = node.wait_hindered().await.expect("a reason");
    assert!(reason.contains("does not accept zookeeper.auth"), "{reason}");
}

/// The own server of the node is one that follows: without its leader the ensemble itself stands still for a while.
#[tokio::test]
async fn another_server_is_asked_while_the_own_one_is_silent() {
    let Some(servers) = Server::start_ensemble() else { return };
    let all: Vec<String> = servers.iter().map(Server::address).collect();
    let (mut node, own) = loop {
        let mut node = connect_to(all.join(","), LONG_SESSION, None);
        node.wait_up().await;
        let own = servers.iter().position(|server| !server.clients().is_empty()).expect("it has a session");
        if !servers[own].leads() {
            break (node, own);
        }
        node.coordinator.stop(); // which server it gets is drawn by chance
    };
    node.submit(register("n1", 1, 7, 5));
    node.wait_registered(7).await;
    node.submit(bootstrap("n1", 1));
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
    servers[own].freeze();
    let frozen = Instant::now();
    node.submit(elect(&first("n1", 1), 0, 10));
    assert_eq!(node.wait_resolved(10).await.0, CasOutcome::Won(1));
    // The own server is waited for by nothing shorter than a second and a half, as its connection is.
    assert!(frozen.elapsed() < Duration::from_millis(1_400), "{:?}", frozen.elapsed());
    node.submit(CoordRequest::Confirm);
    let confirmed = |e: &CoordEvent| match e {
        CoordEvent::State(read) if read.confirmed => Some(change_id(read)),
        _ => None,
    };
    assert_eq!(node.wait("confirmed state", confirmed).await, Some(ChangeId(10)));
}

#[tokio::test]
async fn servers_that_are_not_one_ensemble_get_no_cluster() {
    let (Some(a), Some(b)) = (Server::start(), Server::start()) else { return };
    let mut servers = [Service::ZooKeeper(a), Service::ZooKeeper(b)];
    let addresses = servers.each_mut().map(|server| server_of(server).address());
    let both = [addresses.join(","), format!("{},{}", addresses[1], addresses[0])];
    let mut nodes = both.map(|connect| connect_to(connect, LONG_SESSION, None));
    for (i, node) in nodes.iter_mut().enumerate() {
        node.submit(register(&format!("n{i}"), 1, 7 + i as u128, 5));
        node.wait_registered(7 + i as u128).await;
        node.submit(bootstrap(&format!("n{i}"), 1 + i as u128));
        let reason = node.wait_hindered().await.expect("a reason");
        assert!(reason.contains("names servers that are not one ensemble"), "{reason}");
        assert!(addresses.iter().any(|address| reason.contains(address.as_str())), "{reason}");
    }
    for server in &mut servers {
        let witness = raw_client(server, LONG_SESSION).await;
        assert_eq!(witness.check_stat("/datakeeper/c1/groups/0/state").await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_unreachable_zookeeper_is_reported_once_and_found_when_it_comes() {
    let Some(mut server) = Server::start() else { return };
    server.kill();
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.submit(bootstrap("n1", 1));
    node.wait_down().await;
    server_of(&mut service).restart();
    node.wait("session", |e| {
        assert!(!matches!(e, CoordEvent::SessionDown { .. }), "the outage was told twice");
        (*e == CoordEvent::SessionUp).then_some(())
    })
    .await;
    assert_eq!(node.wait_resolved(1).await.0, CasOutcome::Won(0));
}

#[tokio::test]
async fn stop_returns_though_zookeeper_hangs() {
    let Some(server) = Server::start() else { return };
    let mut service = Service::ZooKeeper(server);
    let mut node = service.connect();
    node.wait_up().await;
    server_of(&mut service).freeze();
    let started = Instant::now();
    node.coordinator.stop();
    assert!(started.elapsed() < Duration::from_secs(3), "stop took {:?}", started.elapsed());
}

fn server_of(service: &mut Service) -> &mut Server {
    match service {
        Service::ZooKeeper(server) => server,
        Service::InProcess(_) => panic!("this story needs ZooKeeper"),
    }
}

async fn raw_client(service: &mut Service, session_timeout: Duration) -> zk::Client {
    let address = server_of(service).address();
    let connect = zk::Client::connector().with_session_timeout(session_timeout).connect(&address);
    timeout(DEADLINE, connect).await.expect("an answer").expect("a session")
}
