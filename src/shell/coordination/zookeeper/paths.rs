//! Where things stand in ZooKeeper, and the connect string that says where that begins.

use super::CoordError;
use crate::base::ids::NodeId;

/// Where a cluster stands when the connect string names no chroot.
const DEFAULT_CHROOT: &str = "/datakeeper";

/// Absolute paths of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `<chroot>/<cluster>`.
    root: String,
}

impl Paths {
    /// The truth about group 0.
    pub fn state(&self) -> String {
        format!("{}/groups/0/state", self.root)
    }

    /// Cluster-wide settings.
    pub fn config(&self) -> String {
        format!("{}/config", self.root)
    }

    /// The directory.
    pub fn nodes(&self) -> String {
        format!("{}/nodes", self.root)
    }

    /// A node's registration.
    pub fn node(&self, id: &NodeId) -> String {
        format!("{}/nodes/{id}", self.root)
    }

    /// A node's live entry.
    pub fn live(&self, id: &NodeId) -> String {
        format!("{}/nodes/{id}/live", self.root)
    }

    /// The directories above the cluster, outermost first: other clusters may share them.
    pub fn shared_directories(&self) -> Vec<String> {
        let ends = self.root.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        ends.map(|at| self.root[..at].to_string()).collect()
    }

    /// The cluster's own directories, outermost first.
    pub fn own_directories(&self) -> [String; 4] {
        let root = &self.root;
        [root.clone(), format!("{root}/groups"), format!("{root}/groups/0"), self.nodes()]
    }
}

/// Takes a connect string apart: the hosts, and the paths of that cluster.
///
/// # Errors
/// [`CoordError::Config`] with the offending piece.
pub fn parse(connect: &str, cluster: &str) -> Result<(String, Paths), CoordError> {
    let refuse = |what: String| Err(CoordError::Config(what));
    let (hosts, chroot) = match connect.find('/') {
        Some(at) => connect.split_at(at),
        None => (connect, DEFAULT_CHROOT),
    };
    for host in hosts.split(',') {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, "2181"),
        };
        if name.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
            return refuse(format!("connect {connect:?}: {host:?} is not host:port"));
        }
    }
    if let Some(bad) = chroot[1..].split('/').chain([cluster]).find(|part| !is_path_component(part)) {
        return refuse(format!("connect {connect:?}, cluster {cluster:?}: {bad:?} cannot be part of a path"));
    }
    Ok((hosts.to_string(), Paths { root: format!("{chroot}/{cluster}") }))
}

fn is_path_component(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_stands_below_the_chroot_or_below_datakeeper() {
        let (hosts, paths) = parse("a:1,b", "c1").unwrap();
        assert_eq!((hosts.as_str(), paths.state().as_str()), ("a:1,b", "/datakeeper/c1/groups/0/state"));
        assert_eq!(paths.shared_directories(), ["/datakeeper"]);
        let (hosts, paths) = parse("[::1]:1/x/y", "c1").unwrap();
        assert_eq!((hosts.as_str(), paths.config().as_str()), ("[::1]:1", "/x/y/c1/config"));
        assert_eq!(paths.shared_directories(), ["/x", "/x/y"]);
        assert_eq!(paths.own_directories()[0], "/x/y/c1");
    }

    #[test]
    fn what_is_no_host_or_no_path_is_refused() {
        for (connect, cluster) in
            [("", "c"), ("a:0", "c"), ("a:x", "c"), ("a,,b", "c"), ("a/", "c"), ("a//b", "c"), ("a", ""), ("a", "..")]
        {
            assert!(parse(connect, cluster).is_err(), "{connect:?} {cluster:?} was accepted");
        }
    }
}
