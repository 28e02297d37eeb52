//! Where this process runs, as the operating system says: what a successor of its name has to know to be sure that it is gone.
//!
//! *Not here*: whether any of it proves anything (`cluster/registration`).

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use crate::cluster::registration::Host;

/// Inode of the process namespace that a machine begins with: the kernel's `PROC_PID_INIT_INO`. Any other is a container's.
const FIRST_PROCESS_NAMESPACE: u64 = 0xefff_fffc;

/// The host of a process that has bound these addresses; none where the system does not tell.
pub(super) fn of(client: SocketAddr, repl: SocketAddr) -> Option<Host> {
    let line = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let inode = |path: &str| std::fs::metadata(path).ok().map(|file| file.ino());
    // An image may bring a machine id that other containers have as well.
    let on_the_machine = inode("/proc/self/ns/pid") == Some(FIRST_PROCESS_NAMESPACE);
    Some(Host {
        boot_id: line("/proc/sys/kernel/random/boot_id").filter(|id| !id.is_empty())?,
        network: inode("/proc/self/ns/net")?,
        machine_id: line("/etc/machine-id").filter(|id| on_the_machine && !id.is_empty()),
        client_bound: client.to_string(),
        repl_bound: repl.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_from_one_process_see_one_host_and_other_addresses_are_another_place() {
        let [a, b]: [SocketAddr; 2] = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let host = of(a, b).expect("Linux has /proc");
        assert_eq!(of(a, b), Some(host.clone()));
        let other = of(b, a).unwrap();
        assert!(host.took_addresses_of(&host) && !other.took_addresses_of(&host) && !other.started_again_since(&host));
    }
}
