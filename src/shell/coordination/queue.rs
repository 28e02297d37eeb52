//! A node's requests to the coordination service, in the order in which they are carried out.
//!
//! In the order in which they came, but for [`CoordRequest::Confirm`]: it changes nothing and takes the most round trips, so it is put off as
//! long as anything else waits (an election must not stand behind a read), and however often it was asked for, one is carried out.
//!
//! Not here: a bound. A Keeper asks for one confirmed read at a time, and has one unresolved change.

use std::collections::VecDeque;

use crate::cluster::coordinator::CoordRequest;

const CONFIRM: &CoordRequest = &CoordRequest::Confirm;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    requests: VecDeque<CoordRequest>,
    confirm: bool,
}

impl Queue {
    /// Takes a request in.
    pub fn push(&mut self, request: CoordRequest) {
        match request {
            CoordRequest::Confirm => self.confirm = true,
            request => self.requests.push_back(request),
        }
    }

    /// What is to be carried out next.
    #[must_use]
    pub fn front(&self) -> Option<&CoordRequest> {
        self.requests.front().or(self.confirm.then_some(CONFIRM))
    }

    /// Takes out what is to be carried out next.
    pub fn pop(&mut self) -> Option<CoordRequest> {
        let confirm = || std::mem::take(&mut self.confirm).then_some(CoordRequest::Confirm);
        self.requests.pop_front().or_else(confirm)
    }

    /// Whether something waits that goes before a confirmed read.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        !self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ChangeId;
    use crate::cluster::config::ClusterConfig;

    #[test]
    fn confirmed_reads_are_merged_and_go_last() {
        let change = |id| {
            let (from, to) = (ClusterConfig::default(), ClusterConfig::default());
            CoordRequest::SetConfig { id: ChangeId(id), from, to }
        };
        let mut queue = Queue::default();
        for _ in 0..3 {
            queue.push(CoordRequest::Confirm);
        }
        assert!(!queue.is_urgent());
        queue.push(change(1));
        queue.push(change(2));
        assert!(queue.is_urgent());
        for want in [change(1), change(2), CoordRequest::Confirm] {
            assert_eq!(queue.front(), Some(&want));
            assert_eq!(queue.pop(), Some(want));
        }
        assert!(queue.front().is_none() && queue.pop().is_none());
    }
}
