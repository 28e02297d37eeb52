//! `check-config`: says what a configuration is understood to mean.
//!
//! Errors never come here: they end the command with exit code 2 before there is a [`Config`].

use super::config::Config;

/// The effective configuration as YAML: defaults filled in, secrets left out, warnings as comments at the top, so that the
/// answer is itself a file that can be used.
#[must_use]
pub fn describe(config: &Config) -> String {
    let warnings: String = config.warnings().iter().map(|warning| format!("# warning: {warning}\n")).collect();
    warnings + &config.to_yaml()
}

#[cfg(test)]
mod tests {
    use super::super::config::Sources;
    use super::*;

    #[test]
    fn answer_shows_warnings_and_defaults_and_is_yaml() {
        let text = "listen: 0.0.0.0:6379\nadvertise: db1:6379\n".to_string();
        let sources = Sources { file: Some(("f.yml".into(), text)), ..Sources::default() };
        let answer = describe(&Config::resolve(&sources).unwrap());
        assert!(answer.starts_with("# warning: listen 0.0.0.0:6379: other machines can connect"), "{answer}");
        let tree: serde_yaml::Value = serde_yaml::from_str(&answer).unwrap();
        assert_eq!(tree["advertise"], "db1:6379");
        assert_eq!(tree["replication"]["lease_ms"], 400);
    }
}
