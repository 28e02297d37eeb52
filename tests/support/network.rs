//! A network of its own for a test: every host in a network namespace, and a router between them that loses what it is told to lose.
//!
//! ```text
//!   n1   .1 ──┐
//!   n2   .2 ──┤ router .254 ── .253  clients: the test itself, in the machine's own namespace
//!   n3   .3 ──┤
//!   ...     ──┘
//! ```
//! A cut is a rule of the router, `from A to B blackhole`: packets of that direction vanish, neither end is told, and all others pass.
//! (A blackhole route at A itself would not be silent: there, sending fails.) Everything is in 10.231.n.0/24 of an n that is free.
//!
//! Needs Linux, root (`CAP_NET_ADMIN` and `CAP_SYS_ADMIN`) and iproute2. Where they are missing a test is skipped with a message, unless
//! `DATAKEEPER_REQUIRE_ZOOKEEPER` is set by root or in CI (`CI` is set): whoever wants all real processes wants these networks, too. What a killed test left
//! behind is removed by the next one.
//!
//! Not here: delay, reordering, loss of some packets only.

use std::ffi::OsStr;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tools::said;

/// What every namespace of ours begins with; the id of the test's process follows.
const PREFIX: &str = "datakeeper-";
/// Last number of the router's address.
const ROUTER: u8 = 254;
/// Last number of the address that clients have.
const CLIENTS: u8 = 253;

/// Where a process may run.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    /// The one address that it has.
    pub ip: Ipv4Addr,
}

/// `program`, to be run at a host, or just here.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, host: Option<&Host>) -> Command {
    let Some(host) = host else { return Command::new(program) };
    let mut command = Command::new("ip");
    // It becomes the program: the process keeps its id.
    command.args(["netns", "exec", &host.namespace]).arg(program);
    command
}

/// The network, removed when dropped; what ran in it has to be gone by then.
pub struct Network {
    name: String,
    /// The clients' end of their link to the router.
    link: String,
    subnet: u8,
    /// In the order in which they were asked for.
    pub hosts: Vec<Host>,
}

impl Network {
    /// So many hosts that reach each other; none, with a message, where that is not possible.
    ///
    /// # Panics
    /// If it is not possible, `DATAKEEPER_REQUIRE_ZOOKEEPER` is set, and this is root or CI.
    #[must_use]
    pub fn start(hosts: u8) -> Option<Network> {
        match Network::build(hosts) {
            Ok(network) => Some(network),
            Err(why) => {
                let missing = format!("no network namespaces (they need root and iproute2): {why}");
                let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
                let wanted = std::env::var_os("DATAKEEPER_REQUIRE_ZOOKEEPER").is_some();
                let must = wanted && (is_root || std::env::var_os("CI").is_some());
                assert!(!must, "DATAKEEPER_REQUIRE_ZOOKEEPER is set, but {missing}");
                eprintln!("SKIPPED: {missing}");
                None
            }
        }
    }

    fn build(hosts: u8) -> Result<Network, String> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        remove_stale()?;
        let (pid, number) = (std::process::id(), BUILT.fetch_add(1, Ordering::Relaxed));
        let subnet = free_subnet(pid.wrapping_add(number))?;
        // From here on, whatever is there is removed when this is dropped.
        let mut network = Network {
            name: format!("{PREFIX}{pid}-{number}"),
            link: format!("dk{pid}x{number}"),
            subnet,
            hosts: vec![],
        };
        let (router, gateway) = (network.namespace("router"), network.ip(ROUTER));
        ip(&["netns", "add", &router])?;
        // Without the checks of senders' addresses: where A's packets to B are lost, B's to A would be refused, too.
        let settings =
            "cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 0 >conf/all/rp_filter; echo 0 >conf/default/rp_filter";
        ip(&["netns", "exec", &router, "sh", "-ec", settings])?;
        for number in 1..=hosts {
            let host = Host { namespace: network.namespace(&number.to_string()), ip: network.ip(number) };
            let (name, address) = (&host.namespace, host.ip);
            ip(&["netns", "add", name])?;
            let leg = format!("leg{number}");
            ip(&["link", "add", &leg, "netns", &router, "type", "veth", "peer", "name", "leg", "netns", name])?;
            let at_host = format!(
                "link set lo up\naddr add {address}/32 dev leg\nlink set leg up\n\
                 route add default via {gateway} dev leg onlink\n"
            );
            batch(Some(name), &at_host)?;
            batch(Some(&router), &attach(&leg, gateway, address))?;
            network.hosts.push(host);
        }
        let (link, address) = (&network.link, network.ip(CLIENTS));
        ip(&["link", "add", "clients", "netns", &router, "type", "veth", "peer", "name", link])?;
        batch(Some(&router), &attach("clients", gateway, address))?;
        let here = format!(
            "addr add {address}/32 dev {link}\nlink set {link} up\n\
             route add {}/24 via {gateway} dev {link} onlink src {address}\n",
            network.ip(0)
        );
        batch(None, &here)?;
        Ok(network)
    }

    /// From now on, what the first of each pair sends to the second is lost.
    ///
    /// # Panics
    /// If it is so already.
    pub fn cut(&self, ways: &[(usize, usize)]) {
        self.rules("add", ways);
    }

    /// From now on, it arrives again.
    ///
    /// # Panics
    /// If it was not lost.
    pub fn mend(&self, ways: &[(usize, usize)]) {
        self.rules("del", ways);
    }

    fn rules(&self, verb: &str, ways: &[(usize, usize)]) {
        let rule = |(from, to): &(usize, usize)| {
            format!("rule {verb} from {}/32 to {}/32 blackhole\n", self.hosts[*from].ip, self.hosts[*to].ip)
        };
        let rules: String = ways.iter().map(rule).collect();
        batch(Some(&self.namespace("router")), &rules).unwrap_or_else(|e| panic!("{rules}{e}"));
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn ip(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 231, self.subnet, last)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.link]);
        for namespace in namespaces().unwrap_or_default() {
            if namespace.starts_with(&format!("{}-", self.name)) {
                let _ = ip(&["netns", "del", &namespace]);
            }
        }
    }
}

/// What makes the router reach an address over one of its interfaces.
fn attach(interface: &str, gateway: Ipv4Addr, address: Ipv4Addr) -> String {
    format!("addr add {gateway}/32 dev {interface}\nlink set {interface} up\nroute add {address}/32 dev {interface}\n")
}

/// A number whose addresses this machine sends nowhere but to its default gateway.
fn free_subnet(first: u32) -> Result<u8, String> {
    for subnet in (0..=u8::MAX).map(|i| i.wrapping_add(first.to_le_bytes()[0])) {
        let net = format!("10.231.{subnet}.0/24");
        let routes = ip(&["route", "show", "match", &net])? + &ip(&["route", "show", "root", &net])?;
        if routes.lines().all(|route| route.starts_with("default")) {
            return Ok(subnet);
        }
    }
    Err("10.231.0.0/16 is taken".to_string())
}

/// Removes the namespaces of tests that were killed, and what ran there.
fn remove_stale() -> Result<(), String> {
    for namespace in namespaces()? {
        let Some(pid) = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if Path::new("/proc").join(pid).exists() {
            continue;
        }
        for left in ip(&["netns", "pids", &namespace])?.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // SAFETY: plain system call; whoever runs in that namespace was started by a test that is gone.
            unsafe { libc::kill(left, libc::SIGKILL) };
        }
        // Another test may have been faster.
        let _ = ip(&["netns", "del", &namespace]);
    }
    Ok(())
}

/// All that have names.
fn namespaces() -> Result<Vec<String>, String> {
    let list = ip(&["netns", "list"])?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect())
}

/// One command of iproute2.
fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(|e| format!("ip: {e}"))?;
    let said = said(output);
    if said.code == Some(0) { Ok(said.text) } else { Err(format!("ip {}: {}", args.join(" "), said.text)) }
}

/// Many of them at once.
fn batch(namespace: Option<&String>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let piped = command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|e| format!("ip: {e}"))?;
    child.stdin.take().expect("it is piped").write_all(lines.as_bytes()).map_err(|e| format!("ip: {e}"))?;
    let said = said(child.wait_with_output().map_err(|e| format!("ip: {e}"))?);
    if said.code == Some(0) { Ok(()) } else { Err(format!("{lines}{}", said.text)) }
}
