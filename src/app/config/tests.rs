//! The configuration as an operator meets it: files, flags and the messages about them.

use super::*;

fn sources(file: &str, flags: &[&str]) -> Sources {
    let flags = flags.iter().map(|text| match text.split_once(' ') {
        Some(("--listen", value)) => Setting { flag: "--listen", key: Some("listen"), value: value.into() },
        Some(("--set", value)) => Setting { flag: "--set", key: None, value: value.into() },
        _ => panic!("this test knows no flag {text}"),
    });
    Sources {
        file: Some(("f.yml".into(), file.into())),
        flags: flags.collect(),
        hostname: "host".into(),
        ..Sources::default()
    }
}

fn resolve(file: &str, flags: &[&str]) -> Result<Config, String> {
    Config::resolve(&sources(file, flags)).map_err(|errors| errors.to_string())
}

fn defaults() -> Config {
    resolve("", &[]).expect("the defaults are valid")
}

#[test]
fn a_sentinel_port_has_a_face_and_a_port_of_its_own() {
    for (file, wanted) in [
        ("sentinel: {listen: \"0.0.0.0:26379\"}", "set sentinel.advertise to a host:port"),
        ("sentinel: {advertise: \"h:26379\"}", "sentinel.advertise is set and sentinel.listen is not"),
        ("sentinel: {listen: \"127.0.0.1:6379\"}", "listen and sentinel.listen are both on port 6379"),
        ("sentinel: {listen: 26379}", "want IP:PORT"),
    ] {
        let errors = resolve(file, &[]).unwrap_err();
        assert!(errors.contains(wanted) && errors.lines().count() == 1, "{file}: {errors}");
    }
    let config = resolve("sentinel: {listen: \"0.0.0.0:26379\", advertise: \"kv-1:26379\"}", &[]).unwrap();
    assert_eq!(config.sentinel_advertise.as_deref(), Some("kv-1:26379"));
}

#[test]
fn a_connect_string_that_can_be_read_in_two_ways_is_an_error_of_its_key_with_what_to_write() {
    let errors = resolve("zookeeper: {connect: \"a:1/x,b:1/x\"}", &[]).unwrap_err();
    assert!(errors.starts_with("f.yml: zookeeper.connect: \"a:1/x,b:1/x\": want host:port,host:port"), "{errors}");
    assert!(errors.ends_with("write \"a:1,b:1/x\"") && errors.lines().count() == 1, "{errors}");
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = defaults();
    assert_eq!(config.node_name.as_str(), "host-6379");
    assert_eq!(config.cluster, "main");
    assert_eq!(config.listen.to_string(), "127.0.0.1:6379");
    assert_eq!(config.replication.listen.to_string(), "127.0.0.1:16379");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.coordination, Coordination::Zookeeper);
    assert_eq!(config.zookeeper.connect, "127.0.0.1:2181");
    assert_eq!(config.cluster_config(), ClusterConfig::default());
    assert_eq!((config.replication.acks, config.replication.read_mode), (Acks::InSync, ReadMode::Lease));
    assert_eq!((config.threads, config.memory.max_bytes, config.password.clone()), (None, None, None));
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn every_key_of_a_file_is_understood() {
    let file = r#"
node_name: n1
cluster: c1
listen: 0.0.0.0:7000
advertise: n1.example.org:7000
threads: 4
writes_on_replica: moved
reads_on_replica: readonly
bootstrap: never
total_loss: halt
coordination: embedded
zookeeper: {connect: "z1:2181,[::1]:2182/apps/keeper", session_timeout_ms: 9000, auth: "digest:user:pw"}
replication:
  listen: "[::]:17000"
  advertise: "[fd00::1]:17000"
  acks: leader
  min_in_sync: 2
  read_mode: local
  heartbeat_ms: 100
  suspect_ms: 300
  lease_ms: 400
  promise_ms: 1000
  backlog_bytes: 1GiB
  secret: between us
admin: {listen: "127.0.0.1:0"}
memory: {max_bytes: 64MB, eviction: noeviction}
auth: {password: "0123"}
log: {level: debug, format: json}
"#;
    let config = resolve(file, &[]).unwrap();
    assert_eq!(config.node_name.as_str(), "n1");
    assert_eq!(config.client_address(config.listen), "n1.example.org:7000");
    assert_eq!(config.replication_address(config.replication.listen), "[fd00::1]:17000");
    assert_eq!((config.threads, config.bootstrap), (Some(4), Bootstrap::Never));
    assert_eq!(config.reads_on_replica, ReadsOnReplica::Readonly);
    assert_eq!(config.cluster_config().total_loss, TotalLoss::Halt);
    assert_eq!(config.cluster_config().min_in_sync, MinInSync::Count(2));
    assert_eq!(config.cluster_config().promise_ms, 1_000);
    assert_eq!(config.coordination, Coordination::Embedded);
    assert_eq!(config.zookeeper.hosts(), "z1:2181,[::1]:2182");
    assert_eq!(config.zookeeper.root("c1"), "/apps/keeper/c1");
    assert_eq!(defaults().zookeeper.root("c1"), "/datakeeper/c1");
    assert_eq!(config.zookeeper.auth.as_ref().map(Secret::expose), Some("digest:user:pw"));
    assert_eq!((config.replication.acks, config.replication.read_mode), (Acks::Leader, ReadMode::Local));
    assert_eq!(config.replication.backlog_bytes, 1 << 30);
    assert_eq!(config.replication.secret.as_ref().map(Secret::expose), Some("between us"));
    assert_eq!(config.memory.max_bytes, Some(64_000_000));
    assert_eq!(config.password.as_ref().map(Secret::expose), Some("0123"));
    assert_eq!(config.log, Log { level: LogLevel::Debug, format: LogFormat::Json, file: None });
    assert_eq!(config.warnings().len(), 2, "acks and read_mode: {:?}", config.warnings());
}

#[test]
fn flags_override_the_file_and_name_themselves_in_errors() {
    let config = resolve("listen: 127.0.0.1:7000\n", &["--listen 127.0.0.1:7001", "--set threads=2"]).unwrap();
    assert_eq!((config.listen.port(), config.threads), (7001, Some(2)));
    assert_eq!(config.node_name.as_str(), "host-7001");
    let config = resolve("", &["--listen 127.0.0.1:7001", "--set listen=127.0.0.1:7002"]).unwrap();
    assert_eq!(config.listen.port(), 7002);
    let broken = ["--listen here", "--set log.level=loud", "--set leese_ms=4", "--set threads"];
    assert_eq!(
        resolve("", &broken).unwrap_err().lines().collect::<Vec<_>>(),
        [
            "--set leese_ms=4: leese_ms: there is no such key; did you mean replication.lease_ms?",
            "--set threads: want key.path=value, as in replication.lease_ms=400",
            "--listen here: listen: \"here\": want IP:PORT, as in 127.0.0.1:6379 or [::1]:6379",
            "--set log.level=loud: log.level: \"loud\": want error | warn | info | debug | trace",
        ]
    );
}

#[test]
fn all_errors_of_a_file_are_reported_with_key_value_and_what_is_wanted() {
    let file = r#"
clustre: c1
node_name: a/b
listen: localhost
advertise: "0.0.0.0:1"
threads: 0
zookeeper: {connect: "127.0.0.1", session_timeout_ms: 10}
replication: {min_in_sync: 0, heartbeat_ms: -5, backlog_bytes: 1, secret: 12345}
memory: {max_bytes: lots}
log: [info]
"#;
    let errors = resolve(file, &[]).unwrap_err();
    let wanted = [
        "f.yml: clustre: there is no such key; did you mean cluster?",
        "f.yml: log: a list: want a map of keys",
        "f.yml: listen: \"localhost\": want IP:PORT",
        "f.yml: node_name: \"a/b\": want 1..=64 of",
        "f.yml: advertise: \"0.0.0.0:1\": want HOST:PORT",
        "f.yml: threads: 0: want auto or a whole number in 1..=256",
        "f.yml: zookeeper.connect: \"127.0.0.1\": want host:port,host:port with an optional /chroot at the end; \"127.0.0.1\" is not host:port",
        "f.yml: zookeeper.session_timeout_ms: 10: want a whole number in 200..=600000",
        "f.yml: replication.min_in_sync: 0: want auto or a whole number in 1..=1000",
        "f.yml: replication.heartbeat_ms: -5: want a whole number in 1..=600000",
        "f.yml: replication.backlog_bytes: 1: want bytes in 16384..=",
        "f.yml: replication.secret: (hidden): want 1..=1024 bytes of text",
        "f.yml: memory.max_bytes: \"lots\": want bytes in",
    ];
    for (line, wanted) in errors.lines().zip(wanted) {
        assert!(line.starts_with(wanted), "{line}\ndoes not start with\n{wanted}");
    }
    assert_eq!(errors.lines().count(), wanted.len(), "{errors}");
}

#[test]
fn periods_out_of_order_are_refused_and_the_culprit_is_named() {
    let errors = resolve("replication: {suspect_ms: 250}\n", &["--set replication.lease_ms=9"]).unwrap_err();
    let wanted = "--set replication.lease_ms=9: replication: heartbeat_ms 50, suspect_ms 250, lease_ms 9";
    assert!(errors.starts_with(wanted), "{errors}");
    assert!(errors.contains("lease <= 0.8*promise"), "{errors}");
    let errors = resolve("replication: {suspect_ms: 500, lease_ms: 450}\n", &["--set threads=2"]).unwrap_err();
    assert!(errors.starts_with("f.yml: replication.suspect_ms, f.yml: replication.lease_ms: "), "{errors}");
    let once = resolve("replication: {lease_ms: soon}\n", &[]).unwrap_err();
    assert_eq!(once.lines().count(), 1, "the order says nothing new: {once}");
}

#[test]
fn an_address_that_nobody_can_connect_to_needs_an_advertised_one() {
    for listen in ["0.0.0.0:7000", "[::]:7000"] {
        let errors = resolve("", &[&format!("--listen {listen}")]).unwrap_err();
        assert!(errors.starts_with(&format!("--listen {listen}: listen {listen}")), "{errors}");
        assert!(errors.contains("set advertise"), "{errors}");
        let config = resolve("", &[&format!("--listen {listen}"), "--set advertise=db1:7000"]).unwrap();
        assert_eq!(config.warnings().len(), 1, "no password: {:?}", config.warnings());
    }
    let errors = resolve("replication: {listen: '0.0.0.0:7000'}\n", &[]).unwrap_err();
    assert!(errors.contains("set replication.advertise"), "{errors}");
}

#[test]
fn links_that_other_machines_reach_need_a_secret_or_the_word_that_they_are_open() {
    let errors = resolve("replication: {listen: '10.0.0.1:16379'}\n", &[]).unwrap_err();
    assert!(
        errors.starts_with("f.yml: replication.listen: replication.listen 10.0.0.1:16379: other machines"),
        "{errors}"
    );
    assert!(errors.contains("set replication.secret") && errors.contains("replication.open to true"), "{errors}");
    assert!(resolve("replication: {listen: '10.0.0.1:16379', secret: s3cret}\n", &[]).is_ok());
    let config = resolve("replication: {listen: '10.0.0.1:16379', open: true}\n", &[]).unwrap();
    assert_eq!(config.warnings().len(), 1, "it is said all the same: {:?}", config.warnings());
    assert!(resolve("", &["--set replication.listen=10.0.0.1:16379", "--set replication.open=true"]).is_ok());
    assert!(resolve("coordination: embedded\nreplication: {listen: '10.0.0.1:16379'}\n", &[]).is_ok());
    let errors = resolve("replication: {open: perhaps}\n", &[]).unwrap_err();
    assert!(errors.contains("want true or false"), "{errors}");
}

#[test]
fn two_faces_on_one_port_are_refused() {
    let errors = resolve("", &["--listen 127.0.0.1:16379"]).unwrap_err();
    assert_eq!(errors, "--listen 127.0.0.1:16379: listen and replication.listen are both on port 16379");
    let free = ["--listen 127.0.0.1:0", "--set replication.listen=127.0.0.1:0", "--set node_name=n1"];
    assert!(resolve("", &free).is_ok());
    assert!(resolve("", &["--listen 127.0.0.2:16379"]).is_ok());
}

#[test]
fn a_free_port_needs_a_name_where_names_must_be_unique() {
    let errors = resolve("", &["--listen 127.0.0.1:0"]).unwrap_err();
    assert!(errors.contains("node_name must be set"), "{errors}");
    let config = resolve("coordination: embedded\n", &["--listen 127.0.0.1:0"]).unwrap();
    assert_eq!(config.node_name.as_str(), "host-0");
    let bound = SocketAddr::from(([127, 0, 0, 1], 40_000));
    assert_eq!(config.client_address(bound), "127.0.0.1:40000");
}

#[test]
fn node_name_by_default_fits_whatever_the_machine_is_called() {
    for (hostname, want) in [("a b/c", "a-b-c-6379"), ("", "node-6379"), (".x", "x-6379"), (&"y".repeat(99), "")] {
        let sources = Sources { hostname: hostname.into(), ..Sources::default() };
        let config = Config::resolve(&sources).unwrap();
        assert!(want.is_empty() || config.node_name.as_str() == want, "{hostname:?}: {}", config.node_name);
    }
}

#[test]
fn secrets_come_from_the_environment_or_a_file_and_never_show() {
    let path = std::env::temp_dir().join(format!("datakeeper-secret-{}", std::process::id()));
    std::fs::write(&path, "from file\n").unwrap();
    let file = format!("replication: {{secret_file: '{}'}}\nauth: {{password: from yaml}}\n", path.display());
    let mut sources = sources(&file, &[]);
    let config = Config::resolve(&sources).unwrap();
    assert_eq!(config.replication.secret.as_ref().map(Secret::expose), Some("from file"));
    let yaml = config.to_yaml();
    assert!(yaml.contains("# secret: set, not shown") && yaml.contains("# password: set, not shown"), "{yaml}");
    assert!(!yaml.contains("from ") && !format!("{config:?}").contains("from "), "{yaml}{config:?}");

    sources.environment.insert(ENV_REPLICATION_SECRET.into(), "from env".into());
    sources.environment.insert(ENV_AUTH_PASSWORD.into(), "from env too".into());
    let config = Config::resolve(&sources).unwrap();
    assert_eq!(config.replication.secret.as_ref().map(Secret::expose), Some("from env"));
    assert_eq!(config.password.as_ref().map(Secret::expose), Some("from env too"));

    let both = format!("auth: {{password: x, password_file: '{}'}}\n", path.display());
    assert!(resolve(&both, &[]).unwrap_err().contains("auth.password and auth.password_file are both set"));
    std::fs::write(&path, "two\nlines").unwrap();
    assert!(Config::resolve(&Sources { environment: BTreeMap::new(), ..sources }).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(resolve(&file, &[]).unwrap_err().starts_with("replication.secret_file: "));
}

#[test]
fn a_secret_is_refused_in_a_flag_and_not_shown() {
    let file = |key: &str| if key == "zookeeper.auth" { String::new() } else { format!(" or {key}_file") };
    for (variable, key) in ENVIRONMENT {
        let wanted = format!(
            "--set {key}=(hidden): a secret in a flag shows in the list of processes; use the environment variable {variable}, \
             or {key}{} in the configuration file",
            file(key)
        );
        assert_eq!(resolve("", &[&format!("--set {key}=digest:me:sesame")]).unwrap_err(), wanted);
    }
    let secrets = KEYS.iter().filter(|key| key.secret).map(|key| key.path).collect::<Vec<_>>();
    assert!(secrets.iter().all(|key| ENVIRONMENT.iter().any(|(_, named)| named == key)), "{secrets:?}");
}

#[test]
fn local_decides_addresses_itself_and_takes_the_rest() {
    let local = |set: &str| Config::resolve(&Sources { local: true, file: None, ..sources("", &[set]) });
    let config = local("--set replication.lease_ms=300").unwrap();
    assert_eq!((config.coordination, config.replication.lease_ms), (Coordination::Embedded, 300));
    for key in DECIDED_BY_LOCAL {
        let errors = local(&format!("--set {key}=x")).unwrap_err().to_string();
        assert!(errors.contains("is decided by local itself"), "{errors}");
    }
}

#[test]
fn effective_yaml_reads_back_to_the_same_configuration() {
    let file = "node_name: '7'\nlisten: '[::1]:7000'\nadvertise: 'h:1'\nthreads: 3\nreplication: {min_in_sync: 2}\n";
    for config in [defaults(), resolve(file, &[]).unwrap()] {
        assert_eq!(resolve(&config.to_yaml(), &[]), Ok(config));
    }
}

#[test]
fn config_yml_documents_every_key_and_holds_exactly_the_defaults() {
    let text = include_str!("../../../config.yml");
    let file =
        Sources { file: Some(("config.yml".into(), text.into())), hostname: "host".into(), ..Sources::default() };
    assert_eq!(Config::resolve(&file), Ok(defaults()));
    let tree: Value = serde_yaml::from_str(text).unwrap();
    let mut found = Vec::new();
    for (name, value) in tree.as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        match value.as_mapping() {
            None => found.push(name.to_string()),
            Some(section) => found.extend(section.keys().map(|key| format!("{name}.{}", key.as_str().unwrap()))),
        }
    }
    assert_eq!(found, key_paths().collect::<Vec<_>>());
    for (key, comment) in comments(text) {
        assert!(comment.contains("Default"), "config.yml says nothing of the default of {key}: {comment:?}");
    }
}

/// Each key that has a value, with the comment lines above it.
fn comments(text: &str) -> Vec<(String, String)> {
    let mut comment = String::new();
    let mut keys = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix('#') {
            comment.push_str(words);
        } else if let Some((key, value)) = line.split_once(':') {
            if !value.is_empty() {
                keys.push((key.to_string(), comment.clone()));
            }
            comment.clear();
        }
    }
    assert_eq!(keys.len(), KEYS.len(), "a key of config.yml has no value in it");
    keys
}

#[test]
fn a_file_of_brackets_is_refused_at_once() {
    let mut reader = super::layers::Reader::new(super::KEYS);
    reader.lay_file("deep.yml", &format!("a: {}", "[".repeat(100_000)));
    let errors = reader.finish(()).expect_err("no configuration");
    assert!(errors.to_string().contains("more than 1000 brackets"), "{errors}");
}
