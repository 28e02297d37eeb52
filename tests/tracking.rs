//! Keyspace notifications and client-side caching over a perfect network: who is told what, when, and never before it is acknowledged.
//!
//! The replies of the commands are in the transcripts of `tests/sessions.rs`.

mod support;

use datakeeper::base::ids::ConnId;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Forwarded, Keeper, Next, Watched, WritesOnReplica};
use support::world::{World, world};

/// A connection that tracks what it reads, in RESP3, and has read `key`.
fn reader(world: &mut World, i: usize, key: &str) -> ConnId {
    let conn = world.connect(i);
    world.ask_on(i, conn, &["HELLO", "3"]);
    assert_eq!(world.ask_on(i, conn, &["CLIENT", "TRACKING", "ON"]), b"+OK\r\n");
    world.ask_on(i, conn, &["GET", key]);
    conn
}

const INVALID_K: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
const INVALID_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

#[test]
fn nothing_is_announced_or_called_invalid_before_it_is_acknowledged() {
    let mut world = world(3, |_, _| {});
    world.ask(0, &["CONFIG", "SET", "notify-keyspace-events", "Eg$"]);
    let conn = reader(&mut world, 0, "k");
    world.ask_on(0, conn, &["SUBSCRIBE", "__keyevent@0__:set"]);
    world.cut_off.insert(1);
    let writer = world.connect(0);
    let mut write = world.request(0, writer, &["SET", "k", "v"]);
    // It reads the new value, and has to wait for the acknowledgement as the writer has.
    let mut read = world.request(0, conn, &["GET", "k"]);
    world.run(5);
    assert!(!world.answered(&mut write) && !world.answered(&mut read));
    assert_eq!(world.pushed(0, conn), b"");
    world.cut_off.clear();
    world.run(5);
    assert!(world.answered(&mut write) && world.answered(&mut read));
    let pushed = world.pushed(0, conn);
    let event = b">3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:set\r\n$1\r\nk\r\n";
    assert_eq!(pushed, [&event[..], INVALID_K].concat(), "{}", pushed.escape_ascii());
}

#[test]
fn each_node_tells_its_own_clients_when_it_has_applied_a_change() {
    let mut world = world(3, |_, _| {});
    world.ask(0, &["SET", "k", "v"]);
    world.run(20);
    let conns = [0, 1, 2].map(|i| reader(&mut world, i, "k"));
    for (i, conn) in conns.into_iter().enumerate() {
        world.ask(i, &["CONFIG", "SET", "notify-keyspace-events", "Kx"]);
        world.ask_on(i, conn, &["SUBSCRIBE", "__keyspace@0__:soon"]);
    }
    world.cut_off.insert(2);
    let writer = world.connect(0);
    let mut write = world.request(0, writer, &["SET", "k", "w"]);
    world.run(5);
    assert!((0..3).all(|i| world.pushed(i, conns[i]).is_empty()));
    world.cut_off.clear();
    world.run(20);
    assert!(world.answered(&mut write));
    for (i, conn) in conns.into_iter().enumerate() {
        assert_eq!(world.pushed(i, conn), INVALID_K, "n{i}");
    }
    world.ask(0, &["SET", "soon", "v", "PX", "30"]);
    world.run(500);
    for (i, conn) in conns.into_iter().enumerate() {
        let pushed = world.pushed(i, conn);
        let told = b">3\r\n$7\r\nmessage\r\n$19\r\n__keyspace@0__:soon\r\n$7\r\nexpired\r\n";
        assert_eq!(pushed, told, "n{i}: {}", pushed.escape_ascii());
    }
}

#[test]
fn everything_is_invalid_when_the_leadership_changes() {
    let mut world = world(3, |_, _| {});
    world.ask(0, &["SET", "k", "v"]);
    world.run(20);
    let conns = [0, 1, 2].map(|i| reader(&mut world, i, "k"));
    assert_eq!(world.ask(0, &["DATAKEEPER", "HANDOVER", "TO", "n1"]), "+OK\r\n");
    world.run_until("the other leads", 1_000, |w| w.role(1) == Role::Leader && w.role(0) == Role::Replica);
    assert_eq!(world.pushed(0, conns[0]), INVALID_ALL, "it led");
    assert_eq!(world.pushed(1, conns[1]), INVALID_ALL, "it leads");
    assert_eq!(world.pushed(2, conns[2]), b"", "for it nothing has changed");
    // A change under the new leader is told at every node.
    world.run(50);
    let again = [0, 1].map(|i| reader(&mut world, i, "k"));
    world.ask(1, &["SET", "k", "w"]);
    world.run(20);
    assert_eq!(world.pushed(2, conns[2]), INVALID_K);
    assert_eq!([0, 1].map(|i| world.pushed(i, again[i])), [INVALID_K; 2]);
}

#[test]
fn everything_is_invalid_when_a_store_is_filled_anew() {
    let mut world = world(3, |_, config| config.backlog_bytes = 16 << 10);
    let (conn, writer) = (reader(&mut world, 2, "k"), world.connect(0));
    world.cut_off.insert(2);
    world.run_until("it is taken out", 5_000, |w| w.in_sync() == 2);
    for i in 0..200 {
        world.ask_on(0, writer, &["SET", &format!("key:{i}"), &"x".repeat(1_000)]);
    }
    world.run(3_000);
    world.cut_off.clear();
    world.run_until("it is back", 10_000, |w| w.in_sync() == 3);
    world.run(50);
    let pushed = world.pushed(2, conn);
    assert!(pushed.starts_with(INVALID_ALL), "{}", pushed.escape_ascii());
    world.ask_on(2, conn, &["GET", "k"]);
    world.ask_on(0, writer, &["SET", "k", "v"]);
    world.run(20);
    assert_eq!(world.pushed(2, conn), INVALID_K);
}

#[test]
fn key_read_again_behind_an_own_write_of_its_batch_is_still_tracked() {
    let mut world = world(1, |_, _| {});
    let conn = reader(&mut world, 0, "k");
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "NOLOOP"]);
    let mut batch = world.pipeline(0, conn, &[&["GET", "k"], &["SET", "k", "mine"], &["GET", "k"]]);
    assert!(world.answered(&mut batch));
    assert_eq!(world.pushed(0, conn), b"");
    world.ask(0, &["SET", "k", "yours"]);
    assert_eq!(world.pushed(0, conn), INVALID_K);
}

#[test]
fn who_is_told_in_place_of_another_and_leaves_is_missed() {
    let mut world = world(1, |_, _| {});
    let (conn, other) = (reader(&mut world, 0, "k"), reader(&mut world, 0, "none"));
    let id = String::from_utf8(world.ask_on(0, other, &["CLIENT", "ID"])).unwrap();
    let id = id.trim_matches([':', '\r', '\n']);
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "REDIRECT", id]);
    world.ask_on(0, conn, &["GET", "k"]);
    world.ask(0, &["SET", "k", "1"]);
    assert_eq!((world.pushed(0, conn), world.pushed(0, other)), (vec![], INVALID_K.to_vec()));
    world.nodes[0].as_mut().unwrap().keeper.client_gone(other);
    world.ask_on(0, conn, &["GET", "k"]);
    world.ask(0, &["SET", "k", "2"]);
    let broken = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n");
    assert_eq!(world.pushed(0, conn), broken.as_bytes());
    let info = String::from_utf8(world.ask_on(0, conn, &["CLIENT", "TRACKINGINFO"])).unwrap();
    assert!(info.contains("broken_redirect"), "{info}");
}

/// It had its answer, and counted as alive for as long as its socket took to close.
#[test]
fn who_has_quit_or_is_killed_is_gone_for_everybody_at_once() {
    for way in ["quit", "kill"] {
        let mut world = world(1, |_, _| {});
        let (conn, other) = (reader(&mut world, 0, "k"), reader(&mut world, 0, "none"));
        let id = String::from_utf8(world.ask_on(0, other, &["CLIENT", "ID"])).unwrap();
        let id = id.trim_matches([':', '\r', '\n']);
        world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "REDIRECT", id]);
        world.ask_on(0, conn, &["GET", "k"]);
        world.ask_on(0, other, &["SUBSCRIBE", "ch"]);
        let before = world.ask(0, &["CLIENT", "LIST"]).lines().count();
        let (asks, words) =
            if way == "quit" { (other, &["QUIT"][..]) } else { (conn, &["CLIENT", "KILL", "ID", id][..]) };
        let list: &[&str] = &["CLIENT", "LIST"];
        let mut request = world.pipeline(0, asks, &[words, list]);
        assert!(world.answered(&mut request));
        assert!(!String::from_utf8(request.out.to_vec()).unwrap().contains(&format!("id={id} ")), "{way}");
        // Its connection is not closed yet.
        assert_eq!(world.ask(0, &["PUBLISH", "ch", "m"]), ":0\r\n", "{way}");
        assert_eq!(world.ask(0, &["PUBSUB", "NUMSUB", "ch"]), "*2\r\n$2\r\nch\r\n:0\r\n", "{way}");
        assert_eq!(world.ask(0, &["CLIENT", "LIST"]).lines().count(), before - 1, "{way}");
        assert_eq!(world.ask(0, &["CLIENT", "KILL", "ID", id]), ":0\r\n", "{way}");
        world.ask(0, &["SET", "k", "2"]);
        let broken = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n");
        assert_eq!(world.pushed(0, conn), broken.as_bytes(), "{way}");
        let mut late = world.request(0, other, &["PING"]);
        assert!(world.answered(&mut late) && late.out.is_empty() && late.next == Next::CloseAfter, "{way}");
    }
}

/// Whether a connection that tracks in that mode is told of a change of `k`, after these commands and a read of it.
fn told_after(mode: &[&str], commands: &[&[&str]]) -> bool {
    let mut world = world(1, |_, _| {});
    let conn = world.connect(0);
    world.ask_on(0, conn, &["HELLO", "3"]);
    world.ask_on(0, conn, &[&["CLIENT", "TRACKING", "ON"], mode].concat());
    commands.iter().for_each(|words| _ = world.ask_on(0, conn, words));
    world.ask_on(0, conn, &["GET", "k"]);
    assert_eq!(world.pushed(0, conn), b"");
    world.ask(0, &["SET", "k", "v"]);
    let pushed = world.pushed(0, conn);
    assert!(pushed.is_empty() || pushed == INVALID_K, "{}", pushed.escape_ascii());
    !pushed.is_empty()
}

/// It outlived what was not executed, so that a later read was not tracked of which the client believed that it was.
#[test]
fn client_caching_is_for_one_command_or_transaction_whatever_comes_of_it() {
    let (no, yes): (&[&str], &[&str]) = (&["CLIENT", "CACHING", "NO"], &["CLIENT", "CACHING", "YES"]);
    let ends: &[&[&[&str]]] = &[
        &[&["GET", "l"]],
        &[&["PING"]],
        &[&["NONSENSE"]],
        &[&["GET"]],
        &[&["INCRBY", "l", "x"]],
        &[&["CLIENT", "NONSENSE"]],
        &[&["EXEC"]],
        &[&["DISCARD"]],
        &[&["MULTI", "x"]],
        &[&["MULTI"], &["GET", "l"], &["EXEC"]],
        &[&["MULTI"], &["GET", "l"], &["DISCARD"]],
        &[&["MULTI"], &["GET"], &["EXEC"]],
        &[&["MULTI"], &["NONSENSE"], &["EXEC", "x"]],
    ];
    for commands in ends {
        assert!(told_after(&["OPTOUT"], &[&[no], *commands].concat()), "NO, {commands:?}");
        assert!(!told_after(&["OPTIN"], &[&[yes], *commands].concat()), "YES, {commands:?}");
    }
    // Commands of CLIENT do not count.
    for commands in [&[][..], &[&["CLIENT", "ID"][..]], &[&["CLIENT", "GETNAME", "x"]], &[&["CLIENT", "TRACKINGINFO"]]]
    {
        assert!(!told_after(&["OPTOUT"], &[&[no], commands].concat()), "NO, {commands:?}");
        assert!(told_after(&["OPTIN"], &[&[yes], commands].concat()), "YES, {commands:?}");
    }
    assert!(told_after(&["OPTIN"], &[yes, &["MULTI"], &["GET", "k"], &["GET"], &["DISCARD"], yes]));
}

#[test]
fn who_has_changed_to_prefixes_is_told_of_nothing_that_it_read_before() {
    let mut world = world(1, |_, _| {});
    let conn = reader(&mut world, 0, "k");
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "OFF"]);
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "x"]);
    world.ask(0, &["SET", "k", "1"]);
    assert_eq!(world.pushed(0, conn), b"");
    world.ask(0, &["SET", "xk", "1"]);
    assert_eq!(world.pushed(0, conn), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$2\r\nxk\r\n");
    // Nor when the table makes room.
    let conn = reader(&mut world, 0, "k");
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "OFF"]);
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "x"]);
    world.ask(0, &["CONFIG", "SET", "tracking-table-max-keys", "1"]);
    let other = reader(&mut world, 0, "l");
    world.ask_on(0, other, &["GET", "m"]);
    assert_eq!(world.pushed(0, conn), b"");
}

#[test]
fn who_asked_for_prefixes_gets_a_message_for_each() {
    let mut world = world(1, |_, _| {});
    let conn = world.connect(0);
    world.ask_on(0, conn, &["HELLO", "3"]);
    world.ask_on(0, conn, &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "foo", "PREFIX", "bar"]);
    world.ask(0, &["MSET", "foo:2", "v", "bar:1", "v", "foo:1", "v", "baz", "v"]);
    let message = |keys: &[&str]| {
        let keys: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
        format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n{keys}", keys.matches('$').count())
    };
    let wanted = message(&["bar:1"]) + &message(&["foo:1", "foo:2"]);
    assert_eq!(String::from_utf8(world.pushed(0, conn)).unwrap(), wanted);
}

#[test]
fn what_the_leader_has_read_for_a_client_is_called_invalid_behind_its_reply() {
    let mut world = world(3, |_, config| config.writes_on_replica = WritesOnReplica::Proxy);
    let conn = reader(&mut world, 1, "none");
    let request = world.pipeline(1, conn, &[&["SET", "k", "v"], &["GET", "k"]]);
    assert_eq!(request.next, Next::Forward);
    world.run(5);
    assert_eq!(world.pushed(1, conn), b"", "it has no reply yet");
    let answered = Forwarded::Answered { seen: b"", written: None, told: None };
    fn keeper(world: &mut World) -> &mut Keeper {
        &mut world.nodes[1].as_mut().unwrap().keeper
    }
    keeper(&mut world).forwarded(conn, Watched::No, answered);
    world.run(5);
    assert_eq!(world.pushed(1, conn), b"", "its reply is not on its way yet");
    keeper(&mut world).replies_sent(conn);
    world.run(5);
    assert_eq!(world.pushed(1, conn), INVALID_K);
}

/// A client of n1, which passes its writes on and has been told in this mode what it reads, has sent SET for `k`; and one at the leader that stands for
/// the connection on which n1 passes that on.
fn own_writer(mode: &[&str]) -> (World, ConnId, ConnId) {
    let mut world = world(3, |_, config| config.writes_on_replica = WritesOnReplica::Proxy);
    world.ask(0, &["SET", "k", "v"]);
    world.run(20);
    let conn = world.connect(1);
    world.ask_on(1, conn, &["HELLO", "3"]);
    world.ask_on(1, conn, &[&["CLIENT", "TRACKING", "ON", "NOLOOP"], mode].concat());
    world.ask_on(1, conn, &["GET", "k"]);
    let request = world.pipeline(1, conn, &[&["SET", "k", "mine"], &["SET", "l", "mine"]]);
    assert_eq!(request.next, Next::Forward);
    assert_eq!(request.forward.as_ref().map(|forward| forward.commands), Some(1), "so that its entry is known");
    let upstream = world.connect(0);
    (world, conn, upstream)
}

fn answered(world: &mut World, conn: ConnId, upstream: ConnId) {
    let written = world.ask_on(0, upstream, &["DATAKEEPER", "POSITION", "WRITE"]);
    let answered = Forwarded::Answered { seen: b"", written: Some(&written), told: None };
    world.nodes[1].as_mut().unwrap().keeper.forwarded(conn, Watched::No, answered);
}

/// NOLOOP was not honoured through a node that passes writes on.
#[test]
fn own_write_that_was_passed_on_is_told_to_others_alone() {
    for mode in [&[][..], &["BCAST"]] {
        for applied_first in [true, false] {
            let (mut world, conn, upstream) = own_writer(mode);
            world.ask_on(0, upstream, &["SET", "k", "mine"]);
            if applied_first {
                world.run(20);
                assert_eq!(world.pushed(1, conn), b"", "{mode:?}: it may be its own");
            }
            answered(&mut world, conn, upstream);
            world.run(20);
            assert_eq!(world.pushed(1, conn), b"", "{mode:?}, applied first: {applied_first}");
            world.ask(0, &["SET", "k", "theirs"]);
            world.run(20);
            assert_eq!(world.pushed(1, conn), INVALID_K, "{mode:?}, applied first: {applied_first}");
        }
    }
}

#[test]
fn what_others_write_around_an_own_write_that_was_passed_on_is_told() {
    for mode in [&[][..], &["BCAST"]] {
        for theirs_first in [true, false] {
            let (mut world, conn, upstream) = own_writer(mode);
            for own in [!theirs_first, theirs_first] {
                let by = if own { upstream } else { world.connect(0) };
                world.ask_on(0, by, &["SET", "k", if own { "mine" } else { "theirs" }]);
            }
            world.run(20);
            assert_eq!(world.pushed(1, conn), b"");
            answered(&mut world, conn, upstream);
            world.run(20);
            assert_eq!(world.pushed(1, conn), INVALID_K, "{mode:?}, theirs first: {theirs_first}");
        }
        // What became of it is not known.
        let (mut world, conn, upstream) = own_writer(mode);
        world.ask_on(0, upstream, &["SET", "k", "mine"]);
        world.run(20);
        world.nodes[1].as_mut().unwrap().keeper.forwarded(conn, Watched::No, Forwarded::Unknown);
        world.run(20);
        assert_eq!(world.pushed(1, conn), INVALID_K, "{mode:?}");
    }
}

#[test]
fn read_in_slices_is_called_invalid_behind_its_reply() {
    let mut world = world(1, |_, _| {});
    let conn = reader(&mut world, 0, "none");
    let long = "x".repeat(5 << 20);
    world.ask(0, &["SET", "long", &long]);
    let mut dump = world.request(0, conn, &["DUMP", "long"]);
    while !world.answered(&mut dump) {
        world.run(1);
    }
    let pushed = world.pushed(0, conn);
    assert_eq!(pushed, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\nlong\r\n", "{}", pushed.escape_ascii());
}
