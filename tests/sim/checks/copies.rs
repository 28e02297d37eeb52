//! Invariant 10: a copy id belongs to one process, one dataset and one history; what is thrown away gets another id.

use std::collections::BTreeMap;

use datakeeper::base::ids::{CopyId, DatasetId};
use datakeeper::keeper::Keeper;

/// See the module.
#[derive(Default)]
pub struct Copies(BTreeMap<CopyId, (usize, Option<DatasetId>)>);

impl Copies {
    pub fn check(&mut self, n: usize, keeper: &Keeper) -> Result<(), String> {
        let (copy, dataset) = (keeper.me().copy, keeper.dataset());
        let known = self.0.entry(copy).or_insert((n, dataset));
        if known.0 != n {
            return Err(format!("copies: {copy} is at n{} and at n{n}", known.0));
        }
        if known.1.is_some() && known.1 != dataset {
            return Err(format!("copies: {copy} of n{n} held dataset {:?}, now {dataset:?}", known.1));
        }
        known.1 = dataset;
        Ok(())
    }
}
