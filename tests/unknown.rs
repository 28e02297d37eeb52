//! Commands that are none: the log says so once for each command and library.
//!
//! Libraries that pass over the error: a document that is never stored, a lock that is never given back, a flush that empties the wrong database.

mod support;

use support::world::{World, world};

/// What was said of unknown commands.
fn said(world: &World) -> Vec<String> {
    world.notices().into_iter().filter(|notice| notice.contains("unknown_commands")).collect()
}

#[test]
fn a_command_that_is_none_is_told_once_for_each_library_and_counted() {
    let mut world = world(1, |_, _| {});
    for _ in 0..3 {
        for library in ["redlock", "rejson"] {
            let conn = world.connect(0);
            world.ask_on(0, conn, &["CLIENT", "SETINFO", "LIB-NAME", library]);
            world.ask_on(0, conn, &["eval", "return 1", "0"]);
        }
        world.ask(0, &["JSON.SET", "doc", "$", "{}"]);
        world.ask(0, &["MULTI"]);
        world.ask(0, &["SELECT", "3"]);
        world.ask(0, &["SELECT", "0"]);
        world.ask(0, &["made-up-1"]);
        world.ask(0, &["made-up-2"]);
        world.ask(0, &["CLIENT", "MAINT_NOTIFICATIONS", "ON"]);
    }
    let said = said(&world);
    let about = |what: &str| said.iter().filter(|text| text.contains(what)).count();
    assert_eq!(said.len(), 5, "{said:#?}");
    assert_eq!([about("redlock sends EVAL,"), about("rejson sends EVAL,")], [1, 1]);
    assert_eq!(
        [about("library sends JSON.*,"), about("sends SELECT of another"), about("neither this node")],
        [1, 1, 1]
    );
    let info = world.ask(0, &["INFO", "datakeeper"]);
    for line in [
        "unknown_commands:18\r\n",
        "command=eval,library=redlock,calls=3\r\n",
        "command=json.*,library=,calls=3\r\n",
        "command=select,library=,calls=3\r\n",
        "command=other,library=,calls=6\r\n",
    ] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
}

#[test]
fn commands_that_are_made_up_do_not_fill_the_log() {
    let mut world = world(1, |_, _| {});
    for i in 0..300 {
        let conn = world.connect(0);
        world.ask_on(0, conn, &["CLIENT", "SETINFO", "LIB-NAME", &format!("library-{i}")]);
        world.ask_on(0, conn, &[&format!("made-up-{i}")]);
    }
    assert_eq!(said(&world).len(), 128);
    assert!(world.ask(0, &["INFO", "datakeeper"]).contains("command=other,library=other,calls=172\r\n"));
}

/// An external Sentinel promotes by this transaction, and passes over errors within it.
#[test]
fn a_sentinel_of_others_moves_the_leadership_to_a_member() {
    let mut world = world(3, |_, _| {});
    let conn = world.connect(1);
    for words in
        [&["MULTI"][..], &["SLAVEOF", "NO", "ONE"], &["CONFIG", "REWRITE"], &["CLIENT", "KILL", "TYPE", "normal"]]
    {
        world.ask_on(1, conn, words);
    }
    let reply = world.ask_on(1, conn, &["EXEC"]);
    assert!(reply.starts_with(b"*3\r\n+OK\r\n-ERR CONFIG REWRITE"), "{}", reply.escape_ascii());
    world.run_until("it leads", 1_000, |world| world.role(1) == datakeeper::cluster::role::Role::Leader);
}
