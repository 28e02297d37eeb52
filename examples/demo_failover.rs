//! A leader that dies, and what its clients notice: `scripts/demo-failover` runs this.
//!
//! A whole cluster of three nodes in one process (`datakeeper local`), clients that write as fast as they can, and
//! `datakeeper admin crash` of the leader: its threads and sockets go without a goodbye, its memory is gone. Then every write that
//! was answered OK is looked for. `DATAKEEPER_BINARY` is the path of the binary.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use support::cluster::{Local, run as datakeeper, wait_until_whole};
use support::writers::{Load, RECOVERY_MAX, Writers, first_write_after, wait_for_load};

fn main() {
    let local = Local::start(&[]);
    let (leader, epoch) = wait_until_whole(&local.addrs);
    println!("three nodes run, n{} leads in epoch {}", leader + 1, epoch.0);
    let writers = Writers::start("demo", &local.addrs, Load::HEAVY);
    let (in_flight, _) = wait_for_load(&writers);
    println!(
        "{} connections write; n{} is ended with {in_flight} writes in flight",
        Load::HEAVY.connections,
        leader + 1
    );
    let since = Instant::now();
    let victim = format!("n{}", leader + 1);
    let said = datakeeper(&["admin", "crash", &victim, "--connect", &local.admin.to_string()]);
    assert_eq!(said.code, Some(0), "admin crash: {}", said.text);
    let first = first_write_after(since, &local.addrs, RECOVERY_MAX).expect("writes are accepted again");
    let (successor, epoch) = wait_until_whole(&local.addrs);
    println!("n{} leads in epoch {}; {victim} is back, empty, and was filled", successor + 1, epoch.0);
    let story = writers.stop();
    let lost = story.contradictions(local.addrs[successor]).expect("the leader answers").len();
    println!("{lost} of {} acknowledged writes lost, writes resumed after {} ms", story.acked, first.as_millis());
    local.finish();
    assert_eq!(lost, 0);
}
