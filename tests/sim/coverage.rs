//! What a run has reached: a simulation that never comes to the hard places proves nothing.

use std::collections::BTreeMap;

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts several.
    pub fn add(&mut self, name: &str, n: u64) {
        match self.0.get_mut(name) {
            Some(count) => *count += n,
            None => drop(self.0.insert(name.to_string(), n)),
        }
    }

    /// Takes another run's counters in.
    pub fn merge(&mut self, other: &Coverage) {
        for (name, n) in &other.0 {
            self.add(name, *n);
        }
    }

    /// How often.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Those of `names` that were never reached.
    pub fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().filter(|n| self.of(n) == 0).copied().collect()
    }

    /// A table.
    pub fn report(&self) -> String {
        self.0.iter().map(|(name, n)| format!("{n:>10}  {name}\n")).collect()
    }
}
