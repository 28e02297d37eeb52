//! What must hold, one file per invariant (PROTOCOL section 11); looked at after every call of a Keeper.

use std::collections::BTreeMap;

use datakeeper::base::clock::Wall;
use datakeeper::base::ids::{DatasetId, Epoch, Offset};
use datakeeper::cluster::state::ClusterState;
use datakeeper::shell::coordination::model::Model;

use crate::coverage::Coverage;
use crate::history::History;
use crate::world::Node;

pub mod ack_epochs;
pub mod applied;
pub mod completeness;
pub mod convergence;
pub mod copies;
pub mod effective_set;
pub mod epochs;
pub mod expiry_clock;
pub mod leases;
pub mod linearizable;
pub mod minimum;
pub mod one_history;
pub mod resets;
pub mod stale_reads;
pub mod stores;
pub mod transactions;

/// What a check may look at.
pub struct View<'a> {
    /// True time, ns.
    pub t: u64,
    pub nodes: &'a [Node],
    pub model: &'a Model,
}

/// All checks, with what each remembers.
pub struct Checks {
    outcomes_only: bool,
    /// An operator has given a part of the history up: what was acknowledged is no more.
    given_up: bool,
    pub history: History,
    /// The dataset that `history` is of.
    dataset: Option<DatasetId>,
    /// `/state` when it was last looked at.
    state: Option<ClusterState>,
    /// How often the cluster has started over.
    pub resets: u64,
    one_history: one_history::OneHistory,
    applied: applied::Applied,
    epochs: epochs::Epochs,
    ack_epochs: ack_epochs::AckEpochs,
    copies: copies::Copies,
    stores: stores::Stores,
    leases: leases::Leases,
    minimum: minimum::Minimum,
    expiry_clock: expiry_clock::ExpiryClock,
}

impl Checks {
    pub fn new(nodes: usize, outcomes_only: bool) -> Checks {
        Checks {
            outcomes_only,
            given_up: false,
            history: History::default(),
            dataset: None,
            state: None,
            resets: 0,
            one_history: one_history::OneHistory::default(),
            applied: applied::Applied::default(),
            epochs: epochs::Epochs::default(),
            ack_epochs: ack_epochs::AckEpochs::new(nodes),
            copies: copies::Copies::default(),
            stores: stores::Stores::default(),
            leases: leases::Leases::default(),
            minimum: minimum::Minimum::default(),
            expiry_clock: expiry_clock::ExpiryClock::default(),
        }
    }

    /// After a call of node `n`'s Keeper.
    ///
    /// # Errors
    /// Says which invariant is broken, and how.
    pub fn after_call(&mut self, n: usize, view: &View<'_>, coverage: &mut Coverage) -> Result<(), String> {
        let Some(keeper) = view.nodes[n].keeper() else { return Ok(()) };
        if !self.outcomes_only {
            self.copies.check(n, keeper)?;
            self.leases.stands(n, view)?;
            leases::covered(view)?;
            effective_set::check(n, keeper, view)?;
        }
        self.expiry_clock.check(n, view)?;
        if keeper.dataset() != self.dataset || self.given_up {
            return Ok(());
        }
        let grown = self.one_history.absorb(n, keeper, &mut self.history)?;
        self.minimum.check(n, keeper, grown)?;
        if grown {
            coverage.hit("acknowledged");
            if std::mem::take(&mut self.history.moved) > 0 {
                coverage.hit("value went from key to key by name");
            }
        }
        if keeper.admitting().is_some() {
            coverage.hit("learner waited for");
        }
        self.applied.check(n, keeper, &self.history)?;
        stale_reads::check(view, &self.history)?;
        completeness::check(view, &self.history)?;
        self.stores.look(n, view, &self.history, coverage)
    }

    /// After a change of `/state`.
    ///
    /// # Errors
    /// As [`Checks::after_call`].
    pub fn after_state(&mut self, view: &View<'_>) -> Result<(), String> {
        self.epochs.check(view)?;
        if let Some((state, _)) = view.model.state().state {
            if self.dataset.is_some_and(|d| d != state.dataset) {
                resets::check(self.state.as_ref().expect("seen with its dataset"), &state, view, &self.history)?;
                self.resets += 1;
                self.history = History::default();
                self.one_history = one_history::OneHistory::default();
            }
            self.dataset = Some(state.dataset);
            self.state = Some(state);
        }
        for (n, node) in view.nodes.iter().enumerate() {
            if let Some(keeper) = node.keeper().filter(|_| !self.outcomes_only) {
                effective_set::check(n, keeper, view)?;
            }
        }
        if self.given_up { Ok(()) } else { completeness::check(view, &self.history) }
    }

    /// After a beat or an echo was taken in.
    ///
    /// # Errors
    /// As [`Checks::after_call`].
    pub fn after_pulse(&self, view: &View<'_>) -> Result<(), String> {
        if !self.outcomes_only {
            leases::covered(view)?;
        }
        if self.given_up { Ok(()) } else { stale_reads::check(view, &self.history) }
    }

    /// A node acknowledged or granted something to an epoch.
    ///
    /// # Errors
    /// As [`Checks::after_call`].
    pub fn saw_ack(&mut self, n: usize, epoch: Epoch, frozen: bool, what: &str) -> Result<(), String> {
        if self.outcomes_only { Ok(()) } else { self.ack_epochs.saw(n, epoch, frozen, what) }
    }

    /// A follower answered a read.
    ///
    /// # Errors
    /// As [`Checks::after_call`].
    pub fn replica_read(
        &self,
        n: usize,
        applied: Offset,
        clock: Wall,
        key: &[u8],
        got: Option<Vec<u8>>,
    ) -> Result<(), String> {
        if self.given_up {
            return Ok(());
        }
        stores::replica_read(n, applied, clock, key, got, &self.history)
    }

    /// An operator goes on with what one node holds: whatever else was acknowledged is given up, and the history is not looked at any more.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether an operator did that.
    pub fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// A process died.
    pub fn died(&mut self, n: usize) {
        self.ack_epochs.died(n);
    }
}

/// Numbers per node, for what is remembered of each.
type PerNode<T> = BTreeMap<usize, T>;
