//! Where things stand in ZooKeeper, and the connect string that says where that begins.

use std::net::SocketAddr;

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
/// [`CoordError::Config`] with the offending piece, and what to write instead.
pub fn parse(connect: &str, cluster: &str) -> Result<(String, Paths), CoordError> {
    let (hosts, chroot) =
        split(connect).map_err(|reason| CoordError::Config(format!("connect {connect:?}: {reason}")))?;
    if !is_path_component(cluster) {
        return Err(CoordError::Config(format!("cluster {cluster:?} cannot be part of a path")));
    }
    Ok((hosts.to_string(), Paths { root: format!("{}/{cluster}", chroot.unwrap_or(DEFAULT_CHROOT)) }))
}

/// The servers of a connect string, and its chroot.
///
/// ZooKeeper's own clients take everything behind the first slash for the chroot, and others look for one behind the last server. So
/// `a:1/x,b:1/x` and `b:1/x,a:1` stand for different places, or for different servers, depending on who reads them in which order. Here
/// nothing is read that could be read in two ways.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn split(connect: &str) -> Result<(&str, Option<&str>), String> {
    let (hosts, chroot) = match connect.find('/') {
        Some(at) => (&connect[..at], Some(&connect[at..])),
        None => (connect, None),
    };
    let Some(path) = chroot else { return check_servers(hosts).map(|()| (hosts, None)) };
    if hosts.ends_with(':') && path.starts_with("//") {
        return Err("a connect string has no scheme: write host:port,host:port/chroot".to_string());
    }
    if path.contains(',') {
        return Err(chroot_in_the_middle(connect));
    }
    if let Some((path, port)) = path.rsplit_once(':') {
        let instead = format!("{hosts}:{port}{path}");
        let instead = if split(&instead).is_ok() { instead } else { "host:port,host:port/chroot".to_string() };
        return Err(format!("a port stands behind the chroot and not behind its host: write {instead:?}"));
    }
    if path.ends_with('/') {
        let without = connect.trim_end_matches('/');
        return Err(format!("a slash ends it: write {without:?}"));
    }
    if let Some(bad) = path[1..].split('/').find(|part| !is_path_component(part)) {
        return Err(format!("{bad:?} cannot be part of the chroot {path:?}"));
    }
    check_servers(hosts).map(|()| (hosts, Some(path)))
}

/// Says what is wrong with a string that has servers behind a chroot.
fn chroot_in_the_middle(connect: &str) -> String {
    let pieces = connect.split(',').map(|piece| piece.split_at(piece.find('/').unwrap_or(piece.len())));
    let (hosts, mut chroots): (Vec<&str>, Vec<&str>) = pieces.unzip();
    chroots.retain(|chroot| !chroot.is_empty());
    chroots.dedup();
    let instead = format!("{}{}", hosts.join(","), chroots[0]);
    match &chroots[..] {
        [_] if split(&instead).is_ok() => {
            format!("a chroot stands once, behind the last server, and holds for all of them: write {instead:?}")
        }
        [_] => "a chroot stands once, behind the last server: write host:port,host:port/chroot".to_string(),
        several => format!(
            "it names several chroots ({}), and a cluster has one: write it once, behind the last server",
            several.join(" and ")
        ),
    }
}

fn check_servers(hosts: &str) -> Result<(), String> {
    match hosts.split(',').find(|server| !is_server(server)) {
        Some(bad) => Err(format!("{bad:?} is not host:port")),
        None => Ok(()),
    }
}

/// Whether the text is a name or an address, a colon, and a port.
fn is_server(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    port_fits && (named || text.parse::<SocketAddr>().is_ok())
}

/// A name without anything that separates servers, hosts and ports elsewhere.
fn is_path_component(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_graphic() && !b"/,;:|\\\"'".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_stands_below_the_chroot_or_below_datakeeper() {
        let (hosts, paths) = parse("a:1,b:2", "c1").unwrap();
        assert_eq!((hosts.as_str(), paths.state().as_str()), ("a:1,b:2", "/datakeeper/c1/groups/0/state"));
        assert_eq!(paths.shared_directories(), ["/datakeeper"]);
        let (hosts, paths) = parse("[::1]:1/x/y", "c1").unwrap();
        assert_eq!((hosts.as_str(), paths.config().as_str()), ("[::1]:1", "/x/y/c1/config"));
        assert_eq!(paths.shared_directories(), ["/x", "/x/y"]);
        assert_eq!(paths.own_directories()[0], "/x/y/c1");
    }

    #[test]
    fn what_is_no_host_or_no_path_is_refused() {
        for (connect, cluster) in [
            ("", "c"),
            ("a", "c"),
            ("a:0", "c"),
            ("a:x", "c"),
            ("a:1,,b:1", "c"),
            ("a:1, b:1", "c"),
            ("a:1;b:1", "c"),
            ("a:1 b:1", "c"),
            ("a:1//b", "c"),
            ("a:1/x/../y", "c"),
            ("a:1/x;b", "c"),
            ("a:1/x b", "c"),
            ("a:1/\u{e9}", "c"),
            ("a:1", ""),
            ("a:1", ".."),
        ] {
            assert!(parse(connect, cluster).is_err(), "{connect:?} {cluster:?} was accepted");
        }
    }

    #[test]
    fn a_string_that_others_read_differently_is_refused_with_what_to_write() {
        for (connect, wanted) in [
            // The same two servers, in either order: each of these once stood for a place of its own.
            ("a:1/x,b:1/x", "behind the last server, and holds for all of them: write \"a:1,b:1/x\""),
            ("b:1/x,a:1/x", "write \"b:1,a:1/x\""),
            ("b:1/x,a:1", "write \"b:1,a:1/x\""),
            ("a:1,b:1/x/y,c:1", "write \"a:1,b:1,c:1/x/y\""),
            ("a:1/x,b:1/y", "several chroots (/x and /y), and a cluster has one"),
            ("a:1/x,b:1/y,c:1/x", "several chroots (/x and /y and /x)"),
            ("a:1/x,", "write host:port,host:port/chroot"),
            ("a/x:2181", "a port stands behind the chroot and not behind its host: write \"a:2181/x\""),
            ("a:1,b/x/y:2181", "write \"a:1,b:2181/x/y\""),
            (
                "a:1/x:2181",
                "a port stands behind the chroot and not behind its host: write \"host:port,host:port/chroot\"",
            ),
            ("a:1,b:1/", "a slash ends it: write \"a:1,b:1\""),
            ("a:1/x/", "write \"a:1/x\""),
            ("zk://a:1/x", "a connect string has no scheme"),
        ] {
            let reason = split(connect).expect_err(connect);
            assert!(reason.contains(wanted), "{connect:?}: {reason}");
        }
    }

    #[test]
    fn the_same_servers_in_another_order_stand_for_the_same_place() {
        let root = |connect| parse(connect, "c").unwrap().1;
        assert_eq!(root("a:1,b:1/x"), root("b:1,a:1/x"));
        assert_eq!(root("a:1,b:1"), root("b:1,a:1/datakeeper"));
    }
}
