//! Invariant 7: who has acknowledged or granted something to an epoch never does so for a lower one; a frozen candidate does neither.

use datakeeper::base::ids::Epoch;

/// Highest epoch that each node has acknowledged.
pub struct AckEpochs(Vec<Epoch>);

impl AckEpochs {
    pub fn new(nodes: usize) -> AckEpochs {
        AckEpochs(vec![Epoch(0); nodes])
    }

    pub fn saw(&mut self, n: usize, epoch: Epoch, frozen: bool, what: &str) -> Result<(), String> {
        if frozen {
            return Err(format!("ack epochs: n{n} {what} of epoch {epoch} while it stands for election"));
        }
        if epoch < self.0[n] {
            return Err(format!("ack epochs: n{n} {what} of epoch {epoch} after one of {}", self.0[n]));
        }
        self.0[n] = epoch;
        Ok(())
    }

    /// A new process knows nothing of the old one's word, and has no copy that counts.
    pub fn died(&mut self, n: usize) {
        self.0[n] = Epoch(0);
    }
}
