//! The content of `/config`: settings that all nodes of a cluster share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::state::MinInSync;

/// What to do when every copy that held data is gone for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TotalLoss {
    /// Start over empty, loudly. That names are unique is trusted: a copy is gone once the session of its process has ended and another
    /// process has its name, or its end is recorded.
    StartEmpty,
    /// The same, but only what was proven counts: a recorded end, or a successor that holds the addresses which the former process had bound
    /// or runs on its machine after a new start of that.
    Proven,
    /// Stop and name the operator's command.
    Halt,
    /// A policy of a later version: as [`TotalLoss::Halt`].
    Other,
}

/// What is not known gives no data up.
impl<'de> Deserialize<'de> for TotalLoss {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<TotalLoss, D::Error> {
        Ok(match String::deserialize(d)?.as_str() {
            "start_empty" => TotalLoss::StartEmpty,
            "proven" => TotalLoss::Proven,
            "halt" => TotalLoss::Halt,
            _ => TotalLoss::Other,
        })
    }
}

/// Cluster-wide settings. Created at bootstrap from the first node's file, later changed by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Copied into `/state` by the leader; only the value there counts.
    pub min_in_sync: MinInSync,
    /// Period of pulses, ms.
    pub heartbeat_ms: u64,
    /// Silence after which the leader takes a member out, ms.
    pub suspect_ms: u64,
    /// How long an echo lets the leader serve reads, counted from the sending of the pulse it answers, ms.
    pub lease_ms: u64,
    /// How long a member that heard the leader will not stand, ms.
    pub promise_ms: u64,
    /// Policy for proven total loss.
    pub total_loss: TotalLoss,
    /// Fields that this build does not know; kept.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            min_in_sync: MinInSync::Auto,
            heartbeat_ms: 50,
            suspect_ms: 250,
            lease_ms: 400,
            promise_ms: 500,
            total_loss: TotalLoss::StartEmpty,
            unknown: Map::new(),
        }
    }
}

impl ClusterConfig {
    /// Checks the order that leases rest on.
    ///
    /// # Errors
    /// Unless `heartbeat*3 <= suspect < lease <= 0.8*promise` and every period is 1..=600,000 ms.
    pub fn check(&self) -> Result<(), String> {
        let ClusterConfig { heartbeat_ms: h, suspect_ms: s, lease_ms: l, promise_ms: p, .. } = *self;
        let in_range = [h, s, l, p].iter().all(|ms| (1..=600_000).contains(ms));
        if in_range && h * 3 <= s && s < l && l * 10 <= p * 8 {
            return Ok(());
        }
        Err(format!(
            "heartbeat_ms {h}, suspect_ms {s}, lease_ms {l}, promise_ms {p}: want heartbeat*3 <= suspect < lease <= 0.8*promise, each 1..=600000"
        ))
    }

    /// What differs from `file`, key by key, for operators.
    #[must_use]
    pub fn differences(&self, file: &ClusterConfig) -> Vec<String> {
        let keys = |config: &ClusterConfig| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(keys)) => keys,
            _ => unreachable!("settings are plain values under names"),
        };
        let (ours, theirs) = (keys(file), keys(self));
        let pairs = theirs.iter().filter_map(|(key, value)| Some((key, value, ours.get(key)?)));
        pairs
            .filter(|(_, value, own)| value != own)
            .map(|(key, value, own)| format!("{key} is {value} and not {own}"))
            .collect()
    }

    /// The same ratios, every period `factor` times as long: for tests on busy machines.
    #[must_use]
    pub fn scaled(mut self, factor: u64) -> ClusterConfig {
        for ms in [&mut self.heartbeat_ms, &mut self.suspect_ms, &mut self.lease_ms, &mut self.promise_ms] {
            *ms *= factor;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_each_key_that_differs_with_both_values() {
        let ours = ClusterConfig::default();
        assert_eq!(ours.differences(&ours), Vec::<String>::new());
        let shared = ClusterConfig { lease_ms: 300, min_in_sync: MinInSync::Count(2), ..ours.clone() };
        assert_eq!(shared.differences(&ours), ["min_in_sync is 2 and not \"auto\"", "lease_ms is 300 and not 400"]);
    }

    #[test]
    fn what_a_later_version_wrote_is_kept_and_a_policy_that_is_not_known_gives_nothing_up() {
        let mut json = serde_json::to_value(ClusterConfig::default()).unwrap();
        (json["total_loss"], json["quota"]) = (Value::from("ask"), Value::from(7));
        let read: ClusterConfig = serde_json::from_value(json).unwrap();
        assert_eq!((read.total_loss, &read.unknown["quota"]), (TotalLoss::Other, &Value::from(7)));
        let changed = ClusterConfig { lease_ms: 300, ..read };
        assert_eq!(serde_json::to_value(&changed).unwrap()["quota"], 7);
        assert_eq!(changed.differences(&ClusterConfig::default()).len(), 2);
    }

    #[test]
    fn defaults_pass_and_each_broken_order_is_refused() {
        let good = ClusterConfig::default();
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.clone().scaled(4).check(), Ok(()));
        for bad in [
            ClusterConfig { heartbeat_ms: 84, ..good.clone() },
            ClusterConfig { suspect_ms: 400, ..good.clone() },
            ClusterConfig { lease_ms: 401, ..good.clone() },
            ClusterConfig { promise_ms: 0, ..good.clone() },
            ClusterConfig { promise_ms: u64::MAX, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?} was accepted");
        }
    }
}
