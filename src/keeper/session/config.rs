//! CONFIG: GET, SET, RESETSTAT and REWRITE over the table in `parameters`.
//!
//! CONFIG SET changes this node alone, all that it names or nothing, as in Redis 7.2. Settings shared by the cluster are changed for all nodes
//! at once, by DATAKEEPER SET-CONFIG. CONFIG REWRITE writes what CONFIG SET changed, and nothing else, into the file that the node was
//! started with: the roof does that, and the connection waits for its answer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::{Boot, Now};
use crate::base::limits::HOLD_MS;
use crate::command::{CommandError, glob_matches};
use crate::keeper::{Effect, Effects, Keeper, Notice, Settings};
use crate::resp::{Args, Reply};

use super::parameters::{PARAMETERS, Parameter, Set};
use super::{Answer, Flow, Session};

/// How long CONFIG REWRITE waits for the file, ms.
const PATIENCE_MS: u64 = 5 * HOLD_MS;

/// What CONFIG SET changed, and the CONFIG REWRITEs that write it.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Rewrite {
    /// Paths in config.yml of what was set.
    set: BTreeSet<&'static str>,
    /// Number of the last one.
    last: u64,
    /// What came of those that somebody waits for; with `None`, nothing yet.
    results: BTreeMap<u64, Option<Result<(), String>>>,
}

impl Keeper {
    /// What CONFIG SET changes, as it is now.
    #[inline]
    pub(in crate::keeper) fn settings(&self) -> &Settings {
        &self.config.settings
    }

    pub(super) fn config_get(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let patterns: Vec<Vec<u8>> = args.tail(2).iter().map(<[u8]>::to_ascii_lowercase).collect();
        let asked = |name: &str| patterns.iter().any(|pattern| glob_matches(pattern, name.as_bytes()));
        let mut found = BTreeMap::new();
        for parameter in PARAMETERS {
            for name in [Some(parameter.name), parameter.key].into_iter().flatten().filter(|name| asked(name)) {
                found.insert(name, (parameter.get)(self));
            }
        }
        let others = self.config.parameters.iter().filter(|(name, _)| asked(name));
        found.extend(others.map(|(name, value)| (name.as_str(), value.clone())));
        reply.map(found.len());
        for (name, value) in found {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        Ok(Flow::Done)
    }

    pub(super) fn config_set(&mut self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let pairs = args.tail(2);
        if !pairs.len().is_multiple_of(2) {
            return Err(CommandError::Syntax.to_string().into());
        }
        let mut named: Vec<(&Parameter, Cow<'_, str>)> = Vec::new();
        for i in (0..pairs.len()).step_by(2) {
            let (name, value) = (pairs.get(i), String::from_utf8_lossy(pairs.get(i + 1)));
            let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.is_called(name)) else {
                if self.config.parameters.iter().any(|(other, _)| name.eq_ignore_ascii_case(other.as_bytes())) {
                    return Err(refused(name, IMMUTABLE));
                }
                let name = String::from_utf8_lossy(name);
                return Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'").into());
            };
            match parameter.set {
                Set::AtStart => return Err(refused(name, IMMUTABLE)),
                Set::Shared => return Err(refused(name, SHARED)),
                Set::Now(_) | Set::Fixed(_) => {}
            }
            if named.iter().any(|(other, _)| std::ptr::eq(*other, parameter)) {
                return Err(refused(name, "duplicate parameter"));
            }
            named.push((parameter, value));
        }
        let mut settings = self.settings().clone();
        for (parameter, value) in &named {
            let set = match parameter.set {
                Set::Now(set) => set(&mut settings, value),
                Set::Fixed(why) => stays((parameter.get)(self), value, why),
                Set::AtStart | Set::Shared => unreachable!("refused above"),
            };
            set.map_err(|why| refused(parameter.name.as_bytes(), &why))?;
        }
        let log_level = settings.log_level;
        let other_level = std::mem::replace(&mut self.config.settings, settings).log_level != log_level;
        self.settings_changed(now);
        for (parameter, _) in named.iter().filter(|(parameter, _)| matches!(parameter.set, Set::Now(_))) {
            self.rewrite.set.insert(parameter.path());
            let text = format!("CONFIG SET: {} is now {:?}", parameter.name, (parameter.get)(self));
            self.deferred.push(Notice::info(text));
        }
        if other_level {
            self.deferred.push(Effect::Log(log_level));
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// Passes on what others keep of the settings.
    fn settings_changed(&mut self, now: Now) {
        self.look_for_slow();
        self.settle_notes();
        self.store.track(self.config.settings.tracking());
        // With less memory, something may have to go at once.
        self.upkeep_at = now.boot;
    }

    pub(super) fn config_resetstat(&mut self, now: Now, reply: &mut Reply<'_>) -> Answer {
        self.stats.reset(now);
        self.unknown.reset();
        self.calls.reset();
        reply.ok();
        Ok(Flow::Done)
    }

    pub(super) fn config_rewrite(&mut self, now: Now, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        if self.config.config_file.is_none() {
            return Err("ERR The server is running without a config file".into());
        }
        let Some(id) = session.rewrite else {
            self.rewrite.last += 1;
            let id = self.rewrite.last;
            let set = PARAMETERS.iter().filter(|parameter| self.rewrite.set.contains(parameter.path()));
            let values = set.map(|parameter| (parameter.path(), (parameter.get)(self))).collect();
            self.deferred.push(Effect::WriteConfig { id, values });
            self.rewrite.results.insert(id, None);
            session.rewrite = Some(id);
            let until = now.boot.plus_ms(PATIENCE_MS);
            session.wait_until = Some(until);
            return Ok(Flow::Block { until });
        };
        let until = session.wait_until.unwrap_or(Boot(0));
        let result = match self.rewrite.results.get_mut(&id).and_then(Option::take) {
            None if now.boot < until => return Ok(Flow::Block { until }),
            None => Err("no answer yet: it may still be written".to_string()),
            Some(result) => result,
        };
        self.forget_rewrite(session);
        result.map_err(|why| format!("ERR Rewriting config file: {why}"))?;
        reply.ok();
        Ok(Flow::Done)
    }

    /// Nobody waits for it any more.
    pub(super) fn forget_rewrite(&mut self, session: &mut Session) {
        if let Some(id) = session.rewrite.take() {
            self.rewrite.results.remove(&id);
        }
    }

    /// The configuration file was written, or was not.
    pub(in crate::keeper) fn config_written(&mut self, id: u64, result: Result<(), String>, fx: &mut Effects) {
        fx.push(match &result {
            Ok(()) => Notice::info("CONFIG REWRITE: the configuration file has what was set"),
            Err(why) => Notice::warn(format!("CONFIG REWRITE: {why}")),
        });
        if let Some(place) = self.rewrite.results.get_mut(&id) {
            *place = Some(result);
        }
        self.resume_waiting(fx);
    }
}

const IMMUTABLE: &str = "can't set immutable config";
const SHARED: &str = "the whole cluster has one value, which DATAKEEPER SET-CONFIG changes";

fn refused(name: &[u8], why: &str) -> Cow<'static, str> {
    let name = String::from_utf8_lossy(name);
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}").into()
}

/// Takes no value but the present one.
fn stays(is: String, value: &str, why: &str) -> Result<(), Cow<'static, str>> {
    if value.eq_ignore_ascii_case(&is) { Ok(()) } else { Err(format!("argument must be '{is}': {why}").into()) }
}
