//! `datakeeper import`: every string of the source arrives with its time to live, once or in two runs, and what cannot is named.

mod support;

use std::net::SocketAddr;

use support::client::{Client, Reply, bulk};
use support::cluster::{alone, run as datakeeper};
use support::oracle::{Oracle, start_node};
use support::tools::Said;

/// More than some pages of SCAN.
const KEYS: usize = 1_500;

fn import(from: SocketAddr, to: SocketAddr, more: &[&str]) -> Said {
    let (from, to) = (format!("redis://{from}"), to.to_string());
    datakeeper(&[&["import", "--from", &from, "--to", &to], more].concat())
}

fn call(client: &mut Client, words: &[&[u8]]) -> Reply {
    client.try_call(words).expect("a reply")
}

/// Strings of every kind of content and time.
fn fill(source: &mut Client) {
    let plain: Vec<Vec<String>> =
        (0..KEYS).map(|i| vec!["SET".to_string(), format!("key:{i}"), format!("value {i}")]).collect();
    assert!(source.pipeline(&plain).iter().all(Reply::is_ok));
    assert!(call(source, &[b"SET", b"", b""]).is_ok());
    assert!(call(source, &[b"SET", b"\xff\x00\r\n", b"\x00\xfe\r\n"]).is_ok());
    assert!(call(source, &[b"SET", b"big", &vec![b'x'; 3 << 20]]).is_ok());
    assert!(call(source, &[b"SET", b"number", b"-12345"]).is_ok());
    assert!(call(source, &[b"SET", b"timed", b"v", b"PX", b"5000000"]).is_ok());
}

/// What `fill` wrote is there.
fn check(target: &mut Client) {
    for i in 0..KEYS {
        assert_eq!(target.call(&format!("GET key:{i}")), bulk(&format!("value {i}")), "key:{i}");
    }
    assert_eq!(call(target, &[b"GET", b""]), bulk(""));
    assert_eq!(call(target, &[b"GET", b"\xff\x00\r\n"]), Reply::Bulk(b"\x00\xfe\r\n".to_vec()));
    assert_eq!(call(target, &[b"GET", b"big"]), Reply::Bulk(vec![b'x'; 3 << 20]));
    assert_eq!(target.call("GET number"), bulk("-12345"));
    let Reply::Integer(left) = target.call("PTTL timed") else { panic!("PTTL answers a number") };
    assert!((4_000_000..=5_000_000).contains(&left), "{left}");
    assert_eq!(target.call("TTL number"), Reply::Integer(-1));
}

#[test]
fn every_string_arrives_and_what_is_there_stays() {
    let _alone = alone();
    let ((_from_process, from), (_to_process, to)) = (start_node(), start_node());
    let (mut source, mut target) = (Client::connect(from).unwrap(), Client::connect(to).unwrap());
    fill(&mut source);
    let all = KEYS + 5;

    let said = import(from, to, &["--match", "key:*"]);
    assert!(said.code == Some(0) && said.text.contains(&format!("copied {KEYS},")), "{}", said.text);
    assert_eq!(target.call("DBSIZE"), Reply::Integer(KEYS as i64));

    assert!(target.call("SET key:7 mine").is_ok());
    let said = import(from, to, &[]);
    assert!(
        said.code == Some(0) && said.text.contains(&format!("copied 5, at the target before {KEYS}")),
        "{}",
        said.text
    );
    assert!(said.text.contains(&format!("verified: all {all} keys")), "{}", said.text);
    assert_eq!(target.call("GET key:7"), bulk("mine"));

    let said = import(from, to, &["--replace"]);
    assert!(said.code == Some(0) && said.text.contains(&format!("copied {all},")), "{}", said.text);
    check(&mut target);
}

#[test]
fn a_real_redis_is_copied_and_other_types_are_named() {
    let _alone = alone();
    let Some(oracle) = Oracle::start() else { return };
    let (_process, to) = start_node();
    let (mut source, mut target) = (Client::connect(oracle.addr).unwrap(), Client::connect(to).unwrap());
    fill(&mut source);
    let said = import(oracle.addr, to, &[]);
    assert!(said.code == Some(0) && said.text.contains(&format!("verified: all {} keys", KEYS + 5)), "{}", said.text);
    check(&mut target);

    assert_eq!(source.call("RPUSH a-list x y"), Reply::Integer(2));
    assert_eq!(source.call("HSET a-hash f v"), Reply::Integer(1));
    let said = import(oracle.addr, to, &[]);
    assert_eq!(said.code, Some(1), "{}", said.text);
    for line in ["NOT copied, of type hash: 1 (a-hash)", "NOT copied, of type list: 1 (a-list)"] {
        assert!(said.text.contains(line), "{}", said.text);
    }
}

#[test]
fn who_does_not_answer_is_named() {
    let _alone = alone();
    let (_process, to) = start_node();
    let nobody = support::cluster::free_addr();
    let said = import(nobody, to, &[]);
    assert!(said.code == Some(1) && said.text.contains(&nobody.to_string()), "{}", said.text);
    let said = import(to, nobody, &[]);
    assert!(said.code == Some(1) && said.text.contains(&nobody.to_string()), "{}", said.text);
}
