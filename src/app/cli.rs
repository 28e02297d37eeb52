//! The command line: what can be typed, and how flags become settings.
//!
//! A flag that mirrors a key only carries text; the configuration checks it like a line of the file, so that there is one set
//! of rules and one wording.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::config::{ENV_AUTH_PASSWORD, Setting};
use super::import::ENV_SOURCE_PASSWORD;

/// Most nodes that `local` runs in one process.
const LOCAL_NODES_MAX: i64 = 9;

/// A fault-tolerant in-memory key-value store that speaks the Redis protocol.
#[derive(Debug, Parser)]
#[command(name = "datakeeper", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node in the foreground; logs go to stderr, SIGTERM stops it
    Server(ServerArgs),
    /// Run a whole cluster in this process, without ZooKeeper; Ctrl-C stops it
    Local(LocalArgs),
    /// Show the cluster as one of its nodes sees it
    Status(StatusArgs),
    /// Print the configuration as it is understood, or every error in it
    CheckConfig(CheckConfigArgs),
    /// Copy the strings of a running Redis into the cluster
    Import(ImportArgs),
    /// Let another member of the in-sync set lead, without an error for clients that follow redirects
    Handover(HandoverArgs),
    /// Operators' commands
    Admin(AdminArgs),
}

/// Arguments of `server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The YAML file; without one, everything has its default
    pub config: Option<PathBuf>,
    /// Flags that mirror keys.
    #[command(flatten)]
    pub flags: KeyFlags,
}

/// Arguments of `check-config`.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The YAML file
    pub config: PathBuf,
    /// Flags that mirror keys.
    #[command(flatten)]
    pub flags: KeyFlags,
}

/// Flags that mirror keys of the configuration, and override them.
#[derive(Debug, Default, Args)]
pub struct KeyFlags {
    /// node_name: this node's name, unique in its cluster
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// cluster: the cluster's name
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// listen: where clients connect
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// advertise: what clients are told to connect to
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// replication.listen: where other nodes connect
    #[arg(long, value_name = "IP:PORT")]
    pub replication_listen: Option<String>,
    /// replication.advertise: what other nodes are told to connect to
    #[arg(long, value_name = "HOST:PORT")]
    pub replication_advertise: Option<String>,
    /// admin.listen: where operators' HTTP requests go
    #[arg(long, value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// zookeeper.connect: the ensemble, with an optional chroot
    #[arg(long, value_name = "HOST:PORT,HOST:PORT/CHROOT")]
    pub zookeeper: Option<String>,
    /// Any other key, as in replication.lease_ms=400; may be repeated
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
}

impl KeyFlags {
    /// The flags that were given, as settings; those of `--set` come last and count.
    #[must_use]
    pub fn settings(self) -> Vec<Setting> {
        let mirrors = [
            ("--node-name", "node_name", self.node_name),
            ("--cluster", "cluster", self.cluster),
            ("--listen", "listen", self.listen),
            ("--advertise", "advertise", self.advertise),
            ("--replication-listen", "replication.listen", self.replication_listen),
            ("--replication-advertise", "replication.advertise", self.replication_advertise),
            ("--admin-listen", "admin.listen", self.admin_listen),
            ("--zookeeper", "zookeeper.connect", self.zookeeper),
        ];
        let mirrors =
            mirrors.into_iter().filter_map(|(flag, key, value)| Some(Setting { flag, key: Some(key), value: value? }));
        mirrors.chain(set_settings(self.set)).collect()
    }
}

fn set_settings(set: Vec<String>) -> impl Iterator<Item = Setting> {
    set.into_iter().map(|value| Setting { flag: "--set", key: None, value })
}

/// Arguments of `local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=LOCAL_NODES_MAX))]
    pub nodes: u16,
    /// Client port of the first node; the others take the ports after it. 0: free ones
    #[arg(long, value_name = "PORT", default_value_t = 6379)]
    pub port: u16,
    /// Port for operators' HTTP requests, one for all nodes. 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    pub admin_port: u16,
    /// A key of the configuration, as in replication.lease_ms=400; may be repeated
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
}

/// What `local` is to run; the configuration of its nodes comes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// Nodes, 1..=9.
    pub nodes: u16,
    /// Client port of the first node, the others follow; 0: each takes a free one. `port + nodes - 1 <= 65535`.
    pub port: u16,
    /// Port of the admin address; 0: a free one. Not among the client ports.
    pub admin_port: u16,
}

impl LocalArgs {
    /// The checked options and the settings.
    ///
    /// # Errors
    /// The ports do not fit; for the operator.
    pub fn split(self) -> Result<(LocalOptions, Vec<Setting>), String> {
        let LocalArgs { nodes, port, admin_port, set } = self;
        let last = u32::from(port) + u32::from(nodes) - 1;
        if port != 0 && last > u32::from(u16::MAX) {
            return Err(format!(
                "--port {port}: {nodes} nodes need the ports {port}..={last}, and 65535 is the highest"
            ));
        }
        if port != 0 && (u32::from(port)..=last).contains(&u32::from(admin_port)) {
            return Err(format!("--admin-port {admin_port}: the nodes take the ports {port}..={last}"));
        }
        Ok((LocalOptions { nodes, port, admin_port }, set_settings(set).collect()))
    }
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = format!("The password, if the node wants one, is taken from the environment: {ENV_AUTH_PASSWORD}."))]
pub struct StatusArgs {
    /// Client address of any node
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub connect: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = format!(
    "Passwords are taken from the environment: {ENV_SOURCE_PASSWORD} for the source, {ENV_AUTH_PASSWORD} for the cluster.\n\
     Keys that are in the cluster stay as they are unless --replace is given; so a run that broke off is resumed by running it again.\n\
     What cannot be copied is listed, and the exit code is 1."
))]
pub struct ImportArgs {
    /// Where the keys are
    #[arg(long, value_name = "redis://[USER@]HOST[:PORT][/DB]")]
    pub from: String,
    /// Client address of the leader, or of another node, which names the leader
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub to: String,
    /// Only keys that match, as in SCAN
    #[arg(long = "match", value_name = "PATTERN", default_value = "*")]
    pub pattern: String,
    /// Overwrite keys that are in the cluster
    #[arg(long)]
    pub replace: bool,
}

/// Arguments of `handover`.
#[derive(Debug, Args)]
#[command(after_help = format!("The password, if the node wants one, is taken from the environment: {ENV_AUTH_PASSWORD}."))]
pub struct HandoverArgs {
    /// Client address of the leader
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub connect: String,
    /// Name of the node that shall lead; without it, the member that is best placed
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
}

/// Arguments of `admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Client address of the node; for `crash`, the admin address of the process
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub connect: Option<String>,
    /// Which command.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// Operators' commands.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Only in `local`: end a node without goodbye, as kill -9 would; it restarts empty
    Crash {
        /// Name of the node
        node: String,
    },
    /// No leader and the data is gone for good: start over EMPTY at the node that is asked
    Reset {
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
    /// No leader: go on with what this node holds; also after /state was deleted. LATER WRITES ARE LOST
    Adopt {
        /// Name of the node; it is the one to ask
        node: String,
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
    /// At the leader: wait no longer for what a lost node held
    Forget {
        /// Name of the node
        node: String,
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
    /// At the leader: the cluster is meant to be smaller from now on (`min_in_sync: auto`)
    LowerPeak {
        /// Largest in-sync set to reckon with; at least the present one
        size: u32,
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
    /// At the leader, once every node runs a later version: let the cluster use what that knows. There is no way back
    RaiseVersion {
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
    /// Change cluster-wide settings, all at once
    SetConfig {
        /// As in lease_ms=400 or min_in_sync=2
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_server_flag_becomes_a_setting_of_the_key_it_mirrors() {
        let line = "datakeeper server f.yml --node-name n1 --cluster c --listen 127.0.0.1:1 --advertise h:1 \
                    --replication-listen 127.0.0.1:2 --replication-advertise h:2 --admin-listen 127.0.0.1:3 \
                    --zookeeper z:1 --set threads=2 --set log.level=warn";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Ok(Command::Server(args)) = parse(&line) else { panic!("not read as server: {line}") };
        assert_eq!(args.config, Some(PathBuf::from("f.yml")));
        let settings = args.flags.settings();
        let keys: Vec<_> = settings.iter().map(|s| s.key.unwrap_or("-")).collect();
        assert_eq!(
            keys,
            [
                "node_name",
                "cluster",
                "listen",
                "advertise",
                "replication.listen",
                "replication.advertise",
                "admin.listen",
                "zookeeper.connect",
                "-",
                "-"
            ]
        );
        let known: Vec<_> = super::super::config::key_paths().collect();
        for setting in &settings {
            assert!(setting.key.is_none_or(|key| known.contains(&key)), "{} mirrors no key", setting.flag);
        }
        assert_eq!(settings.last().map(|s| (s.flag, s.value.as_str())), Some(("--set", "log.level=warn")));
    }

    #[test]
    fn local_has_defaults_and_refuses_ports_that_do_not_fit() {
        let split = |line: &str| match parse(line) {
            Ok(Command::Local(args)) => args.split().map(|(options, _)| options),
            other => panic!("not read as local: {other:?}"),
        };
        assert_eq!(split("datakeeper local"), Ok(LocalOptions { nodes: 3, port: 6379, admin_port: 8081 }));
        assert!(split("datakeeper local --port 65533").is_ok());
        assert!(split("datakeeper local --port 65534").unwrap_err().contains("65536"));
        assert!(split("datakeeper local --port 8080").unwrap_err().contains("--admin-port 8081"));
        assert!(split("datakeeper local --port 0 --admin-port 0").is_ok());
        for line in ["datakeeper local --nodes 0", "datakeeper local --nodes 10", "datakeeper local --port 65536"] {
            assert!(parse(line).is_err(), "{line} was accepted");
        }
    }

    #[test]
    fn operators_commands_have_their_addresses() {
        let Ok(Command::Admin(admin)) = parse("datakeeper admin crash n2") else { panic!("not read as admin") };
        let AdminCommand::Crash { node } = admin.command else { panic!("not read as crash") };
        assert_eq!((node.as_str(), admin.connect), ("n2", None));
        let Ok(Command::Admin(admin)) = parse("datakeeper admin crash n2 --connect h:9") else { panic!("not admin") };
        assert_eq!(admin.connect.as_deref(), Some("h:9"));
        let Ok(Command::Status(status)) = parse("datakeeper status --json") else { panic!("not read as status") };
        assert_eq!((status.connect.as_str(), status.json), ("127.0.0.1:6379", true));
    }

    #[test]
    fn handover_has_a_target_only_if_told() {
        for (line, wanted) in [
            ("datakeeper handover", ("127.0.0.1:6379", None)),
            ("datakeeper handover --to n2 --connect h:1", ("h:1", Some("n2"))),
        ] {
            let Ok(Command::Handover(args)) = parse(line) else { panic!("not read as handover: {line}") };
            assert_eq!((args.connect.as_str(), args.to.as_deref()), wanted);
        }
    }

    #[test]
    fn what_lacks_its_confirmation_or_value_is_refused() {
        for line in ["datakeeper handover n2", "datakeeper admin reset", "datakeeper server --set"] {
            assert!(parse(line).is_err(), "{line} was accepted");
        }
    }
}
