//! A running node seen from its sockets: what arrives in odd pieces, who leaves early, what a crash and a stop leave behind.
//!
//! Meanings of commands are tested elsewhere; SET, GET and a protocol error are enough here.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::coordination::in_process::InProcess;
use super::joined::BATCHES_MAX;
use super::node::{HOLD_DEAD_MS, HOLD_STUCK_MS};
use super::post::Letter;
use super::server::{Coordination, Options, Server, StartError};
use crate::base::ids::ConnId;
use crate::base::limits::OPERATORS_MAX;
use crate::cluster::role::Role;
use crate::keeper::{KeeperConfig, ReadMode, WritesOnReplica};

/// Long enough for any state that a healthy node reaches, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn options(name: &str, service: &InProcess) -> Options {
    let mut config = KeeperConfig::new(name.parse().unwrap(), "test");
    config.shared = config.shared.scaled(4); // tests share the machine
    Options::new(config, Coordination::InProcess(service.clone()))
}

/// A single node that serves.
fn solo() -> Server {
    let server = Server::start(options("solo", &InProcess::new())).unwrap();
    eventually("the node leads", || server.node().role() == Role::Leader);
    server
}

/// Three nodes, all in sync; the first leads.
fn trio(service: &InProcess) -> Vec<Server> {
    let mut servers = vec![Server::start(options("n1", service)).unwrap()];
    eventually("the first leads", || servers[0].node().role() == Role::Leader);
    servers.extend(["n2", "n3"].map(|name| Server::start(options(name, service)).unwrap()));
    eventually("all are in sync", || in_sync(&servers[0]) == 3);
    servers
}

fn in_sync(server: &Server) -> usize {
    server.node().status().nodes.iter().filter(|node| node.in_sync).count()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn receive(socket: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    socket.read_exact(&mut bytes).unwrap();
    assert!(bytes == expected, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
}

/// Everything up to the end of the connection.
fn receive_all(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Sends requests on a connection of their own, ends the sending side, returns the replies.
fn ask(addr: SocketAddr, requests: &[u8]) -> String {
    let mut socket = connect(addr);
    socket.write_all(requests).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    receive_all(&mut socket)
}

#[test]
fn half_closed_client_still_gets_its_replies_in_order() {
    let server = solo();
    let requests = [command(&[b"SET", b"k", b"v"]), command(&[b"GET", b"k"]), b"GET k\r\n".to_vec()].concat();
    assert_eq!(ask(server.client_addr(), &requests), "+OK\r\n$1\r\nv\r\n$1\r\nv\r\n");
}

/// Its reads wait for the others to confirm the leader, or for the replica that passed its writes on to have them.
#[test]
fn half_closed_client_gets_its_replies_where_reads_wait() {
    let service = InProcess::new();
    let servers: Vec<Server> = ["n1", "n2", "n3"]
        .into_iter()
        .map(|name| {
            let mut options = options(name, &service);
            options.keeper.read_mode = ReadMode::Confirm;
            options.keeper.writes_on_replica = WritesOnReplica::Proxy;
            Server::start(options).unwrap()
        })
        .collect();
    let leads = || servers.iter().find(|server| server.node().role() == Role::Leader);
    eventually("one leads, and all are in sync", || leads().is_some_and(|leader| in_sync(leader) == 3));
    for (i, server) in servers.iter().enumerate() {
        for round in 0..20 {
            let text = format!("SET a{i} {round}\r\nGET a{i}\r\nSET b{i} {round}\r\nGET b{i}\r\n");
            let value = format!("+OK\r\n${}\r\n{round}\r\n", round.to_string().len());
            assert_eq!(ask(server.client_addr(), text.as_bytes()), value.repeat(2), "node {i}, round {round}");
        }
    }
}

/// It may be gone as well, and what it sent would be executed long after.
#[test]
fn half_closed_client_that_waits_for_long_is_closed() {
    let server = solo();
    assert_eq!(ask(server.client_addr(), b"PING\r\nWAIT 1 0\r\nSET k late\r\n"), "+PONG\r\n");
    assert_eq!(ask(server.client_addr(), b"CLIENT PAUSE 60000 WRITE\r\n"), "+OK\r\n");
    assert_eq!(ask(server.client_addr(), b"PING\r\nSET k late\r\n"), "+PONG\r\n");
    assert_eq!(ask(server.client_addr(), b"CLIENT UNPAUSE\r\nGET k\r\n"), "+OK\r\n$-1\r\n");
}

/// What is executed together (`joined`) has nothing in common: who has to wait, sends more meanwhile, or ends its connection, does so alone.
#[test]
fn batches_that_are_executed_together_wait_and_end_each_for_itself() {
    let server = solo();
    assert_eq!(ask(server.client_addr(), b"CLIENT PAUSE 60000 WRITE\r\n"), "+OK\r\n");
    let mut sockets: Vec<TcpStream> = (0..2 * BATCHES_MAX + 3).map(|_| connect(server.client_addr())).collect();
    let send = |sockets: &mut [TcpStream], request: &dyn Fn(usize) -> String| {
        for (i, socket) in sockets.iter_mut().enumerate() {
            socket.write_all(request(i).as_bytes()).unwrap();
        }
    };
    send(&mut sockets, &|i| format!("GET key{i}\r\nSET key{i} {i:06000}\r\nGET key{i}\r\n"));
    sockets.iter_mut().for_each(|socket| receive(socket, b"$-1\r\n"));
    send(&mut sockets, &|_| "PING\r\nQUIT\r\n".to_owned());
    assert_eq!(ask(server.client_addr(), b"CLIENT UNPAUSE\r\n"), "+OK\r\n");
    for (i, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(receive_all(socket), format!("+OK\r\n$6000\r\n{i:06000}\r\n+PONG\r\n+OK\r\n"), "connection {i}");
    }
}

/// It is not idle when it is told to, nor while its next request waits to be executed with those of others.
#[test]
fn client_in_the_middle_of_a_request_is_closed_when_that_is_answered() {
    let server = solo();
    let mut socket = connect(server.client_addr());
    socket.write_all(b"CLIENT ID\r\nPI").unwrap();
    receive(&mut socket, b":1\r\n");
    server.node().posts[0].deliver([Letter::CloseIdle(ConnId(1))].into_iter());
    assert_eq!(ask(server.client_addr(), b"PING\r\n"), "+PONG\r\n"); // the thread has had its letters by now
    socket.write_all(b"NG\r\n").unwrap();
    assert_eq!(receive_all(&mut socket), "+PONG\r\n");
}

#[test]
fn requests_may_arrive_byte_by_byte_and_thousands_at_once() {
    let server = solo();
    let mut socket = connect(server.client_addr());
    for byte in command(&[b"SET", b"k", b"v"]) {
        socket.write_all(&[byte]).unwrap();
    }
    receive(&mut socket, b"+OK\r\n");
    let requests = command(&[b"GET", b"k"]).repeat(20_000);
    let mut sender = socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.write_all(&requests).unwrap());
        receive(&mut socket, &b"$1\r\nv\r\n".repeat(20_000));
    });
}

#[test]
fn big_values_come_back_whole_however_they_are_cut() {
    let server = solo();
    let mut socket = connect(server.client_addr());
    for len in [(64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, 5_000_000] {
        let value: Vec<u8> = (0..len).map(|i: u32| (i / 7) as u8).collect();
        let set = command(&[b"SET", b"big", &value]);
        for piece in set.chunks(len as usize / 3 + 1) {
            socket.write_all(piece).unwrap();
        }
        socket.write_all(&command(&[b"GET", b"big"])).unwrap();
        receive(&mut socket, &[b"+OK\r\n", format!("${len}\r\n").as_bytes(), &value, b"\r\n"].concat());
    }
}

#[test]
fn protocol_error_is_answered_behind_the_replies_before_it_and_ends_the_connection() {
    let server = solo();
    let set = command(&[b"SET", b"k", b"v"]);
    for (garbage, error) in [
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10000000000\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n".repeat(200_000), "expected '$', got '*'"),
        (vec![b'x'; 200_000], "too big inline request"),
    ] {
        let mut socket = connect(server.client_addr());
        let mut sender = socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.write_all(&set).unwrap();
                let _ = sender.write_all(&garbage); // the node may have hung up before the last of it
                let _ = sender.shutdown(Shutdown::Write);
            });
            assert_eq!(receive_all(&mut socket), format!("+OK\r\n-ERR Protocol error: {error}\r\n"));
        });
    }
    assert_eq!(ask(server.client_addr(), &command(&[b"GET", b"k"])), "$1\r\nv\r\n");
}

/// dragonflydb/dragonfly#3999 and #5952, redis-rs/redis-rs#1955: reading stopped at 1 MiB of replies that nobody read, and both sides waited for ever.
#[test]
fn client_that_writes_everything_and_reads_then_gets_all_of_it() {
    const TIMES: usize = 300_000;
    let server = solo();
    let addr = server.client_addr();
    let (key, value) = ([b'k'; 100], [b'v'; 100]);
    let big = vec![b'b'; 8 << 20];
    let mut client = connect(addr);
    client.write_all(&command(&[b"SET", &key, &value])).unwrap();
    receive(&mut client, b"+OK\r\n");
    client.write_all(&command(&[b"GET", &key]).repeat(TIMES)).unwrap();
    assert_eq!(ask(addr, b"GET nothing\r\n"), "$-1\r\n", "others are served meanwhile");
    receive(&mut client, &command(&[&value])[4..].repeat(TIMES));

    client.write_all(&command(&[b"SET", b"big", &big])).unwrap();
    receive(&mut client, b"+OK\r\n");
    let both = [command(&[b"GET", b"big"]), command(&[b"SET", b"other", &big]), command(&[b"GET", b"other"])].concat();
    client.write_all(&both).unwrap();
    let bulk = &command(&[&big])[4..];
    receive(&mut client, &[bulk, b"+OK\r\n", bulk].concat());

    // What a library makes of a pipeline: one transaction.
    const QUEUED: usize = 50_000;
    let (multi, exec) = (command(&[b"MULTI"]), command(&[b"EXEC"]));
    client.write_all(&[multi, command(&[b"INCR", &key[1..]]).repeat(QUEUED), exec].concat()).unwrap();
    receive(&mut client, b"+OK\r\n");
    receive(&mut client, &b"+QUEUED\r\n".repeat(QUEUED));
    let numbers: String = (1..=QUEUED).map(|n| format!(":{n}\r\n")).collect();
    receive(&mut client, format!("*{QUEUED}\r\n{numbers}").as_bytes());
    eventually("nothing is counted any more", || piled(addr) == 0);
}

/// The same through a node that passes everything on.
#[test]
fn client_that_writes_everything_to_a_proxying_replica_and_reads_then_gets_all_of_it() {
    const TIMES: usize = 300_000;
    let service = InProcess::new();
    let proxying = |name| {
        let mut options = options(name, &service);
        options.keeper.writes_on_replica = WritesOnReplica::Proxy;
        Server::start(options).unwrap()
    };
    let first = proxying("n1");
    eventually("the first leads", || first.node().role() == Role::Leader);
    let second = proxying("n2");
    eventually("both are in sync", || in_sync(&first) == 2);
    let key = [b'k'; 100];
    let mut client = connect(second.client_addr());
    client.write_all(&command(&[b"SET", &key, &key, b"GET"]).repeat(TIMES)).unwrap();
    receive(&mut client, b"$-1\r\n");
    receive(&mut client, &command(&[&key])[4..].repeat(TIMES - 1));
}

/// Bytes of replies that clients do not read.
fn piled(addr: SocketAddr) -> usize {
    field(&ask_for_bulk(&mut connect(addr), &[b"INFO", b"memory"]), "mem_clients_normal")
}

/// Asks for a value of 1 MiB as often as the socket takes it, until `enough`.
fn pile_up(addr: SocketAddr, enough: impl Fn(&TcpStream) -> bool) -> TcpStream {
    let mut client = connect(addr);
    client.set_nonblocking(true).unwrap();
    let request = command(&[b"GET", b"big"]);
    eventually("enough waits for the client", || {
        let _ = client.write(&request);
        enough(&client)
    });
    client.set_nonblocking(false).unwrap();
    client
}

/// The number behind `name=` in the line of the client that is called so.
fn listed(addr: SocketAddr, client: &str, name: &str) -> usize {
    let list = ask_for_bulk(&mut connect(addr), &[b"CLIENT", b"LIST"]);
    let line = list.lines().find(|line| line.contains(&format!(" name={client} "))).expect("the client is listed");
    let value = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{name} in {line}")).parse().unwrap()
}

#[test]
fn client_list_tells_what_a_connection_holds() {
    let server = solo();
    let addr = server.client_addr();
    let all = ["qbuf", "obl", "oll", "omem"];
    let mut client = connect(addr);
    client.write_all(&command(&[b"CLIENT", b"SETNAME", b"c"])).unwrap();
    receive(&mut client, b"+OK\r\n");
    eventually("an idle connection holds nothing", || all.map(|name| listed(addr, "c", name)) == [0; 4]);
    let idle = listed(addr, "c", "tot-mem");
    assert!(listed(addr, "c", "fd") > 2 && (1..10_000).contains(&idle), "{idle} bytes");
    // The command itself is what it holds while it is executed.
    let own = command(&[b"CLIENT", b"INFO"]);
    let info = ask_for_bulk(&mut client, &[b"CLIENT", b"INFO"]);
    assert!(info.contains(&format!(" qbuf={} ", own.len())), "{info}");

    // Most of a request, in pieces small and big.
    let set = command(&[b"SET", b"big", &vec![b'v'; 20 << 20]]);
    client.write_all(&set[..set.len() - 5]).unwrap();
    let held = set.len() - 5;
    // But for the few bytes of words before the value, which are parsed.
    eventually("what came is counted", || (held - 100..=held).contains(&listed(addr, "c", "qbuf")));
    assert!(listed(addr, "c", "tot-mem") > 20 << 20);
    client.write_all(&set[set.len() - 5..]).unwrap();
    receive(&mut client, b"+OK\r\n");
    eventually("and is no more", || listed(addr, "c", "qbuf") == 0);

    // A reply that nobody reads.
    client.write_all(&command(&[b"GET", b"big"])).unwrap();
    eventually("what waits is counted", || listed(addr, "c", "omem") > 10 << 20);
    assert!(listed(addr, "c", "oll") > 0 && listed(addr, "c", "tot-mem") > 10 << 20);
    receive(&mut client, &command(&[&vec![b'v'; 20 << 20]])[4..]);
    eventually("and has left", || all.map(|name| listed(addr, "c", name)) == [0; 4]);
}

#[test]
fn client_for_whom_more_waits_than_may_is_closed_and_nobody_else() {
    let server = solo();
    let addr = server.client_addr();
    let set = |name: &[u8], value: &[u8]| assert_eq!(ask(addr, &command(&[b"CONFIG", b"SET", name, value])), "+OK\r\n");
    assert_eq!(ask(addr, &command(&[b"SET", b"big", &vec![b'v'; 1 << 20]])), "+OK\r\n");
    set(b"client-output-buffer-limit", b"normal 32mb 0 0");
    let below = pile_up(addr, |_| piled(addr) >= 16 << 20);
    let counted = field::<usize>(&ask_for_bulk(&mut connect(addr), &[b"INFO", b"memory"]), "used_memory");
    assert!(counted > 16 << 20, "what waits is memory that is used");
    let closed = || {
        field::<usize>(
            &ask_for_bulk(&mut connect(addr), &[b"INFO", b"stats"]),
            "client_output_buffer_limit_disconnections",
        )
    };
    pile_up(addr, |_| closed() == 1);
    eventually("what waited for it is freed", || piled(addr) < 32 << 20);

    // All clients together: who has most goes.
    set(b"client-output-buffer-limit", b"normal 0 0 0");
    set(b"maxmemory-clients", b"64mb");
    pile_up(addr, |_| closed() == 2);
    assert!((16 << 20..64 << 20).contains(&piled(addr)), "the smaller one is left");
    // A soft limit is kept although nothing moves.
    set(b"maxmemory-clients", b"0");
    set(b"client-output-buffer-limit", b"normal 0 1mb 0");
    eventually("it has waited for too long", || closed() == 3);
    eventually("and is gone", || piled(addr) == 0);
    drop(below);
    // The replies of one transaction are not even gathered.
    set(b"client-output-buffer-limit", b"normal 4mb 0 0");
    let gets = [b"MULTI\r\n".to_vec(), b"GET big\r\n".repeat(1_000), b"INCR n\r\nEXEC\r\n".to_vec()].concat();
    connect(addr).write_all(&gets).unwrap();
    eventually("it is closed", || closed() == 4);
    assert_eq!(ask(addr, b"GET n\r\n"), "$1\r\n1\r\n", "all of it was executed");
}

#[test]
fn client_that_leaves_is_forgotten_whatever_it_left_behind() {
    let server = solo();
    let addr = server.client_addr();
    let mut clients: Vec<TcpStream> = (0..30).map(|_| connect(addr)).collect();
    for (client, unfinished) in clients
        .iter_mut()
        .zip([&b""[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk", b"*2\r\n$3\r\nGET\r\n$100000\r\nabc"].into_iter().cycle())
    {
        client.write_all(unfinished).unwrap();
    }
    eventually("all are connected", || server.node().clients() == 30);
    drop(clients);
    eventually("all are forgotten", || server.node().clients() == 0);
    assert_eq!(ask(addr, b"SET k v\r\n"), "+OK\r\n");
}

#[test]
fn clients_are_spread_over_the_threads() {
    let server = Server::start(Options { threads: 3, ..options("solo", &InProcess::new()) }).unwrap();
    eventually("the node leads", || server.node().role() == Role::Leader);
    let mut clients: Vec<TcpStream> = (0..9).map(|_| connect(server.client_addr())).collect();
    for client in &mut clients {
        client.write_all(b"SET k v\r\n").unwrap();
        receive(client, b"+OK\r\n");
    }
    let loads: Vec<usize> = server.node().posts.iter().map(super::post::Post::load).collect();
    assert_eq!(loads, [3, 3, 3]);
}

#[test]
fn taken_port_is_an_error_that_names_its_key() {
    let server = solo();
    let service = InProcess::new();
    let refused = Server::start(Options { listen: server.client_addr(), ..options("other", &service) });
    let error = refused.err().expect("two listeners on one port");
    assert!(matches!(error, StartError::Bind { key: "listen", .. }), "{error}");
    let refused = Server::start(Options { repl_listen: server.repl_addr(), ..options("other", &service) });
    let error = refused.err().expect("two listeners on one port").to_string();
    assert!(error.starts_with("replication.listen: cannot listen on 127.0.0.1:"), "{error}");
}

#[test]
fn stopped_node_closes_its_clients_and_frees_its_ports() {
    let service = InProcess::new();
    let server = Server::start(options("n1", &service)).unwrap();
    eventually("the node leads", || server.node().role() == Role::Leader);
    let (listen, repl_listen) = (server.client_addr(), server.repl_addr());
    let mut client = connect(listen);
    client.write_all(b"SET k v\r\n").unwrap();
    receive(&mut client, b"+OK\r\n");
    server.stop();
    assert_eq!(receive_all(&mut client), "");
    let again = Server::start(Options { listen, repl_listen, ..options("n1", &service) }).unwrap();
    assert_eq!(again.client_addr(), listen);
}

#[test]
fn write_is_on_every_node_and_a_crashed_leader_comes_back_as_a_replica() {
    let service = InProcess::new();
    let mut servers = trio(&service);
    assert_eq!(ask(servers[0].client_addr(), b"SET k v\r\n"), "+OK\r\n");
    let moved = ask(servers[1].client_addr(), b"SET k w\r\n");
    assert_eq!(moved, format!("-MOVED 7629 {}\r\n", servers[0].client_addr()));
    for server in &servers[1..] {
        eventually("the replica has it", || ask(server.client_addr(), b"GET k\r\n") == "$1\r\nv\r\n");
    }
    let crashed = servers.remove(0);
    let (listen, repl_listen) = (crashed.client_addr(), crashed.repl_addr());
    let mut client = connect(listen);
    client.write_all(b"GET k\r\n").unwrap();
    receive(&mut client, b"$1\r\nv\r\n");
    crashed.crash();
    assert_eq!(receive_all(&mut client), "", "the system closed the socket");
    eventually("writes go on", || servers.iter().any(|server| ask(server.client_addr(), b"SET k w\r\n") == "+OK\r\n"));
    let back = Server::start(Options { listen, repl_listen, ..options("n1", &service) }).unwrap();
    eventually("the crashed node is in sync again", || in_sync(&back) == 3 && back.node().role() == Role::Replica);
    eventually("it has everything", || ask(back.client_addr(), b"GET k\r\n") == "$1\r\nw\r\n");
}

/// Whether these requests got all of these replies from the node that leads. On a machine that leaves a node without time for a second, the leader
/// may lose its leases, its replicas or its office, and says so or closes; but no reply before that is another one.
fn is_answered(servers: &[Server], requests: &[u8], replies: &[u8]) -> bool {
    let Some(leader) = servers.iter().find(|server| server.node().role() == Role::Leader) else { return false };
    let mut socket = connect(leader.client_addr());
    let (mut got, mut buffer) = (Vec::new(), [0; 4 << 10]);
    if socket.write_all(requests).is_err() {
        return false;
    }
    while got.len() < replies.len() {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => got.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} behind {:?}", String::from_utf8_lossy(&got)),
        }
        let same = got.iter().zip(replies).take_while(|(got, wanted)| got == wanted).count();
        if same < got.len() {
            let refused = got[same] == b'-' && (same == 0 || got[same - 1] == b'\n');
            assert!(refused, "{:?}", String::from_utf8_lossy(&got[same.saturating_sub(100)..]));
            return false;
        }
    }
    got.len() == replies.len()
}

#[test]
fn replies_held_for_replicas_leave_in_order_under_a_pipeline() {
    let servers = trio(&InProcess::new());
    let requests: Vec<u8> = (0..300).flat_map(|i| format!("SET k{i} {i}\r\nGET k{i}\r\n").into_bytes()).collect();
    let replies: Vec<u8> =
        (0..300).flat_map(|i: u32| format!("+OK\r\n${}\r\n{i}\r\n", i.to_string().len()).into_bytes()).collect();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                eventually("the pipeline is answered to its end", || is_answered(&servers, &requests, &replies));
            });
        }
    });
    let sends: u64 = servers.iter().map(Server::link_sends).sum();
    assert!(sends > 0, "the writes went to replicas");
}

/// The design's bound: at most one send to a replica for every 8 writes of 50 clients, each with one request at a time.
#[test]
fn writes_that_wait_together_leave_in_few_sends() {
    const CLIENTS: u64 = 50;
    const TURNS: u64 = 20;
    let servers = trio(&InProcess::new());
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(servers[0].client_addr())).collect();
    let set = command(&[b"SET", b"k", b"v"]);
    let mut turn = || {
        // All of them are there before the node can execute the first.
        servers[0].node().with_keeper(|_, _, _| clients.iter_mut().for_each(|client| client.write_all(&set).unwrap()));
        clients.iter_mut().for_each(|client| receive(client, b"+OK\r\n"));
        servers[0].link_sends()
    };
    let (before, writes) = (turn(), CLIENTS * TURNS);
    let sends = ((1..=TURNS).map(|_| turn()).last().unwrap() - before) / 2;
    assert!(sends * 8 <= writes, "{sends} sends to a replica for {writes} writes");
}

#[test]
fn stranger_at_the_replication_port_is_sent_away() {
    let server = solo();
    for strange in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x04abcd", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0"] {
        let mut socket = connect(server.repl_addr());
        socket.write_all(strange).unwrap(); // the last says too little, and runs into the time limit
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer); // a reset is as good as an end
        assert!(answer.is_empty(), "{strange:?} was answered: {answer:?}");
    }
    assert_eq!(ask(server.client_addr(), b"SET k v\r\n"), "+OK\r\n");
}

#[test]
fn node_whose_keeper_is_held_for_long_counts_as_stuck_until_it_is_let_go() {
    let server = solo();
    let node = server.node();
    let long_after = node.with_keeper(|_, now, _| now.boot.plus_ms(2 * HOLD_STUCK_MS));
    assert!(!node.is_stuck(long_after), "nobody holds the lock");
    let (before, after) = node.with_keeper(|_, now, _| {
        let limit = now.boot.plus_ms(HOLD_STUCK_MS);
        (node.is_stuck(limit), node.is_stuck(limit.plus_ms(1)))
    });
    assert!(!before && after, "{before} {after}");
}

#[test]
fn operators_get_status_metrics_and_health() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Options { admin_listen: Some(free), ..options("n1", &InProcess::new()) }).unwrap();
    eventually("the node leads", || server.node().role() == Role::Leader);
    let admin = server.admin_addr().unwrap();
    let get = |path: &str| http(admin, "GET", path);
    let status = get("/status");
    assert!(status.starts_with("HTTP/1.1 200") && status.contains(r#""role":"leader""#), "{status}");
    let metrics = get("/metrics");
    for line in
        ["datakeeper_leader{node=\"n1\"} 1\n", "datakeeper_epoch{node=\"n1\"} 1\n", "# TYPE datakeeper_lag_ms gauge\n"]
    {
        assert!(metrics.contains(line), "no {line:?} in {metrics}");
    }
    assert!(!metrics.contains("datakeeper_lag_ms{"), "a node without replicas knows no lag: {metrics}");
    assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
    let crash = http(admin, "POST", "/crash/n1");
    assert!(crash.starts_with("HTTP/1.1 404"), "only `local` can crash nodes: {crash}");
}

/// One request, and all that is answered. The sending side stays open: to an HTTP server a client that closed it may be one that left.
fn http(admin: SocketAddr, method: &str, path: &str) -> String {
    let mut socket = connect(admin);
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    receive_all(&mut socket)
}

#[test]
fn load_balancers_find_the_leader_the_replicas_and_who_is_ready() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let service = InProcess::new();
    let start = |name| Server::start(Options { admin_listen: Some(free), ..options(name, &service) }).unwrap();
    let first = start("n1");
    eventually("the first leads", || first.node().role() == Role::Leader);
    let servers = [first, start("n2")];
    eventually("a leader and a replica", || servers[1].node().role() == Role::Replica);
    let ask = |i: usize, method: &str, path: &str| http(servers[i].admin_addr().unwrap(), method, path);
    eventually("the replica is fresh", || ask(1, "GET", "/replica?max_lag_ms=5000").starts_with("HTTP/1.1 200"));
    for (path, of_leader, of_replica) in [
        ("/ready", 200, 200),
        ("/leader", 200, 503),
        ("/primary", 200, 503),
        ("/replica", 503, 200),
        ("/read", 200, 200),
        ("/read?max_lag_ms=60000", 200, 200),
        ("/healthz?node=n1", 200, 404),
        ("/read?node=n9", 404, 404),
        ("/read?max_lag_ms=x", 400, 400),
        ("/leader?max_lag_ms=1", 400, 400),
    ] {
        for (i, code) in [(0, of_leader), (1, of_replica)] {
            for method in ["GET", "HEAD", "OPTIONS"] {
                let answer = ask(i, method, path);
                assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {path} at n{}: {answer}", i + 1);
                let body = answer.split_once("\r\n\r\n").unwrap().1;
                let wanted = ["leader 1\n", "replica 1\n"][i];
                assert!(code / 100 == 4 || body == if method == "HEAD" { "" } else { wanted }, "{path}: {answer}");
            }
        }
    }
}

#[test]
fn a_long_hold_delays_neither_health_nor_readiness_and_status_gives_up() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Options { admin_listen: Some(free), ..options("n1", &InProcess::new()) }).unwrap();
    eventually("the node leads", || server.node().role() == Role::Leader);
    let admin = server.admin_addr().unwrap();
    server.node().with_keeper(|_, now, _| {
        // More of those that wait for the lock than may.
        let mut waiting: Vec<TcpStream> = (0..6).map(|_| connect(admin)).collect();
        for socket in &mut waiting {
            socket.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        for path in ["/healthz", "/ready", "/leader", "/read"] {
            let answer = http(admin, "GET", path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
        assert!(http(admin, "GET", "/status").starts_with("HTTP/1.1 503"), "there is no room to wait");
        let node = server.node();
        let limit = now.boot.plus_ms(HOLD_DEAD_MS);
        assert!(!node.is_held_for(limit, HOLD_DEAD_MS) && node.is_held_for(limit.plus_ms(1), HOLD_DEAD_MS));
    });
    eventually("status is told again", || http(admin, "GET", "/status").starts_with("HTTP/1.1 200"));
}

#[test]
fn connections_that_say_nothing_keep_no_supervisor_out() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Options { admin_listen: Some(free), ..options("n1", &InProcess::new()) }).unwrap();
    let admin = server.admin_addr().unwrap();
    let mut half_open: Vec<TcpStream> = (0..3 * OPERATORS_MAX).map(|_| connect(admin)).collect();
    for socket in &mut half_open {
        let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: "); // the first are closed by now
    }
    assert!(http(admin, "GET", "/healthz").ends_with("\r\n\r\nok\n"));
    // A socket with something unread in it is reset, not closed.
    let end = half_open[0].read(&mut [0; 64]);
    assert!(end.as_ref().is_ok_and(|n| *n == 0) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn the_sentinel_port_is_registered_and_a_sentinel_answers_there() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let service = InProcess::new();
    let start = |name| Server::start(Options { sentinel_listen: Some(free), ..options(name, &service) }).unwrap();
    let first = start("n1");
    eventually("the first leads", || first.node().role() == Role::Leader);
    let servers = [first, start("n2")];
    eventually("a leader and a replica", || servers[1].node().role() == Role::Replica);
    let [first, second] = servers.each_ref().map(|server| server.sentinel_addr().expect("it has one"));
    let role = ask(first, b"ROLE\r\n");
    assert!(role.starts_with("*2\r\n$8\r\nsentinel\r\n*1\r\n"), "{role}");
    assert!(ask(servers[0].client_addr(), b"ROLE\r\n").starts_with("*3\r\n$6\r\nmaster\r\n"));
    assert!(ask(first, b"GET k\r\n").starts_with("-ERR unknown command 'GET'"));
    let cluster = role.rsplit("\r\n").nth(1).expect("the name of the master");
    let others = ask(first, &command(&[b"SENTINEL", b"SENTINELS", cluster.as_bytes()]));
    assert!(others.contains(&format!("\r\n{}\r\n", second.port())), "{others}");
    // It shares the bound of clients, and tells what it is at the port that it was asked at.
    assert!(ask(first, b"INFO server\r\n").contains(&format!("tcp_port:{}\r\n", first.port())));
}

#[test]
fn what_is_published_reaches_who_listens_at_every_node() {
    let servers = trio(&InProcess::new());
    let mut listeners: Vec<TcpStream> = servers.iter().map(|server| connect(server.client_addr())).collect();
    for listener in &mut listeners {
        listener.write_all(&command(&[b"SUBSCRIBE", b"ch"])).unwrap();
        receive(listener, b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    }
    for server in &servers {
        assert_eq!(ask(server.client_addr(), &command(&[b"PUBLISH", b"ch", b"hi"])), ":1\r\n");
        for listener in &mut listeners {
            receive(listener, b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n");
        }
    }
}

#[test]
fn subscriber_that_breaks_the_protocol_or_sends_no_more_is_not_counted_any_more() {
    let server = solo();
    let addr = server.client_addr();
    let mut subscriber = connect(addr);
    subscriber.write_all(b"SUBSCRIBE ch\r\n").unwrap();
    receive(&mut subscriber, b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    subscriber.write_all(b"*1\r\n!\r\n").unwrap();
    receive(&mut subscriber, b"-ERR Protocol error: expected '$', got '!'\r\n");
    // The client does not close its end.
    assert_eq!(ask(addr, b"PUBLISH ch m\r\nPUBSUB NUMSUB ch\r\n"), ":0\r\n*2\r\n$2\r\nch\r\n:0\r\n");
    assert_eq!(ask_for_bulk(&mut connect(addr), &[b"CLIENT", b"LIST", b"TYPE", b"pubsub"]), "$0\r\n\r\n");
}

#[test]
fn subscriber_that_does_not_read_is_closed_and_one_that_reads_gets_everything() {
    const MESSAGES: usize = 100;
    let server = solo();
    let mut deaf = connect(server.client_addr());
    let mut listener = connect(server.client_addr());
    for socket in [&mut deaf, &mut listener] {
        socket.write_all(&command(&[b"SUBSCRIBE", b"ch"])).unwrap();
        receive(socket, b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    }
    let text = vec![b'x'; 1 << 20];
    let message = [b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1048576\r\n", &text[..], b"\r\n"].concat();
    let mut publisher = connect(server.client_addr());
    let mut heard_by = Vec::new();
    for _ in 0..MESSAGES {
        publisher.write_all(&command(&[b"PUBLISH", b"ch", &text])).unwrap();
        let mut reply = [0; 4];
        publisher.read_exact(&mut reply).unwrap();
        heard_by.push(reply[1]);
        receive(&mut listener, &message);
    }
    assert_eq!((heard_by[0], heard_by[MESSAGES - 1]), (b'2', b'1'), "more than any buffer holds was published");
    let mut rest = Vec::new();
    let _ = deaf.read_to_end(&mut rest); // its end, or a reset
    assert!(rest.len() < MESSAGES * message.len());
}

/// A whole bulk reply to a command, with its length in front.
fn ask_for_bulk(socket: &mut TcpStream, args: &[&[u8]]) -> String {
    socket.write_all(&command(args)).unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    let len: usize = std::str::from_utf8(&bytes[1..bytes.len() - 2]).unwrap().parse().unwrap();
    let head = bytes.len();
    bytes.resize(head + len + 2, 0);
    socket.read_exact(&mut bytes[head..]).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn field<T: std::str::FromStr>(info: &str, name: &str) -> T {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {info}"))
}

#[test]
fn info_counts_every_byte_of_clients() {
    let server = solo();
    let (mut socket, mut listener) = (connect(server.client_addr()), connect(server.client_addr()));
    let net = |info: &str| ["total_net_input_bytes", "total_net_output_bytes"].map(|name| field::<usize>(info, name));
    let stats: &[&[u8]] = &[b"INFO", b"STATS"];
    let first = ask_for_bulk(&mut socket, stats);
    assert_eq!(net(&first), [0, 0]);

    let subscribe = command(&[b"SUBSCRIBE", b"news"]);
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    listener.write_all(&subscribe).unwrap();
    receive(&mut listener, subscribed);
    let publish = command(&[b"PUBLISH", b"news", b"hello"]);
    let message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n";
    socket.write_all(&publish).unwrap();
    receive(&mut socket, b":1\r\n");
    receive(&mut listener, message);
    let big = vec![b'x'; 3 << 20]; // does not go through the buffer of small ones
    let set = command(&[b"SET", b"k", &big]);
    socket.write_all(&set).unwrap();
    receive(&mut socket, b"+OK\r\n");

    let bytes_in = command(stats).len() + subscribe.len() + publish.len() + set.len();
    let bytes_out = first.len() + subscribed.len() + 4 + message.len() + 5;
    assert_eq!(net(&ask_for_bulk(&mut socket, stats)), [bytes_in, bytes_out]);
    server.stop();
}

#[test]
fn info_shows_what_the_process_takes() {
    let server = solo();
    let mut socket = connect(server.client_addr());
    let info = ask_for_bulk(&mut socket, &[b"INFO"]);
    let resident: usize = field(&info, "used_memory_rss");
    assert!(resident > field(&info, "used_memory") && resident < field(&info, "total_system_memory"), "{info}");
    let cpu = ["used_cpu_user", "used_cpu_sys"].map(|name| field::<f64>(&info, name));
    assert!(cpu[0] + cpu[1] < 1e6 && cpu[0] >= 0.0 && cpu[1] >= 0.0, "{info}");
    server.stop();
}
