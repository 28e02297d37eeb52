//! The Keeper's alarm clock: sleeps until the next deadline and sends the tick.

use std::sync::Arc;
use std::time::Duration;

use super::clock;
use super::node::Node;

/// Longest sleep. Tokio's timer stands still while the machine is suspended, the boot clock does not.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Ticks for as long as the node lives.
pub(super) async fn run(node: Arc<Node>) {
    loop {
        let left = Duration::from_nanos(node.deadline().0.saturating_sub(clock::boot().0));
        if left.is_zero() {
            node.tick();
            tokio::task::yield_now().await; // a Keeper with much to do ticks often: clients in between
            continue;
        }
        tokio::select! {
            biased; // a deadline that came nearer is looked at first: the sleep was for the old one
            () = node.timer.notified() => {}
            () = tokio::time::sleep(left.min(SLEEP_MAX)) => {}
        }
    }
}
