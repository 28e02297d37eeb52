//! `status`: asks one node for its view of the cluster, over the port that clients use.
//!
//! The table is for people and may change; `--json` hands on what the node said, with the fields that this release does not
//! know. redis-protocol's codec speaks to the node: on the client side, for two frames, it is what it is good at.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BytesFrame;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::Framed;

use super::ask;
use super::config::ENV_AUTH_PASSWORD;
use crate::cluster::state::MinInSync;
use crate::cluster::status::{NodeStatus, Status};

/// Longest time an answer may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks the node at `address`; presents the password of the environment, if there is one.
///
/// # Errors
/// For the operator: nobody answers there, or not a node, or not without a password.
pub fn run(address: &str, json: bool) -> Result<String, String> {
    let answer = command(address, &["STATUS"]);
    answer.and_then(|answer| {
        let shown = if json { pretty(&answer) } else { read(&answer).map(|status| table(&status)) };
        shown.map_err(|reason| format!("{address}: {reason}"))
    })
}

/// The view of the node at `address`.
///
/// # Errors
/// As [`run`].
pub(super) fn fetch_status(address: &str) -> Result<Status, String> {
    read(&command(address, &["STATUS"])?).map_err(|reason| format!("{address}: {reason}"))
}

/// Sends one subcommand of DATAKEEPER to the node at `address` and returns its answer.
///
/// # Errors
/// As [`run`], or what the node refused it with.
pub(super) fn command(address: &str, words: &[&str]) -> Result<Bytes, String> {
    let password = std::env::var(ENV_AUTH_PASSWORD).ok().filter(|password| !password.is_empty());
    let answer = ask(async {
        let answer = timeout(PATIENCE, fetch(address, password, words)).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
    });
    answer.map_err(|reason| format!("{address}: {reason}"))
}

async fn fetch(address: &str, password: Option<String>, words: &[&str]) -> Result<Bytes, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let mut node = Framed::new(stream, Resp2::default());
    if let Some(password) = password {
        call(&mut node, vec![Bytes::from_static(b"AUTH"), password.into()]).await?;
    }
    let words = std::iter::once(&"DATAKEEPER").chain(words).map(|word| Bytes::copy_from_slice(word.as_bytes()));
    call(&mut node, words.collect()).await
}

async fn call(node: &mut Framed<TcpStream, Resp2>, words: Vec<Bytes>) -> Result<Bytes, String> {
    let words = words.into_iter().map(BytesFrame::BulkString).collect();
    node.send(BytesFrame::Array(words)).await.map_err(|e| e.to_string())?;
    match node.next().await {
        Some(Ok(BytesFrame::BulkString(bytes) | BytesFrame::SimpleString(bytes))) => Ok(bytes),
        Some(Ok(BytesFrame::Error(text))) if text.starts_with("NOAUTH") => {
            Err(format!("the node wants a password; set it in the environment as {ENV_AUTH_PASSWORD}"))
        }
        Some(Ok(BytesFrame::Error(text))) => Err(text.to_string()),
        Some(Ok(_)) => Err("this answers in RESP, but not as a DataKeeper node does".into()),
        Some(Err(e)) => Err(format!("this does not answer in RESP: {e}")),
        None => Err("the connection was closed without an answer".into()),
    }
}

fn read(answer: &[u8]) -> Result<Status, String> {
    serde_json::from_slice(answer).map_err(|e| format!("the answer is not readable: {e}"))
}

fn pretty(answer: &[u8]) -> Result<String, String> {
    let tree: serde_json::Value =
        serde_json::from_slice(answer).map_err(|e| format!("the answer is not readable: {e}"))?;
    Ok(format!("{tree:#}\n"))
}

/// The view as text: the cluster in one line, a row per node, the warnings.
fn table(status: &Status) -> String {
    let mut out = String::new();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let min = match status.min_in_sync {
        MinInSync::Auto => format!("auto ({})", status.min_in_sync_effective),
        MinInSync::Count(n) => n.to_string(),
    };
    let coordinator = if status.coordinator.connected { "connected" } else { "not connected" };
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "cluster {}   epoch {}   leader {}   in sync {} (min {min}, peak {})   coordinator {coordinator}",
        status.cluster,
        status.epoch,
        or_dash(status.leader.as_ref().map(ToString::to_string)),
        status.nodes.iter().filter(|node| node.in_sync).count(),
        status.peak_in_sync,
    );
    let dataset = or_dash(status.dataset.map(|id| id.to_string()));
    let _ = writeln!(
        out,
        "dataset {dataset}   resets {}   cluster version {}   as seen by {}, {}\n",
        status.resets, status.cluster_version, status.node, status.role
    );

    let heads = [
        "NODE",
        "ROLE",
        "LIVE",
        "IN SYNC",
        "CLIENTS",
        "REPLICATION",
        "END",
        "APPLIED",
        "ACKED",
        "LAG",
        "LAG MS",
        "VERSION",
        "RESYNC",
    ];
    let rows: Vec<[String; 13]> = status.nodes.iter().map(row).collect();
    let mut widths = heads.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&heads.map(String::from)).chain(&rows) {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Positions are compared by eye from row to row: they stand on the right.
            let _ =
                if (6..=10).contains(&i) { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for warning in &status.warnings {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    out
}

fn row(node: &NodeStatus) -> [String; 13] {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_string();
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let resync = node.sync_progress.map_or_else(|| "-".into(), |progress| progress.to_string());
    [
        node.id.to_string(),
        node.role.clone().unwrap_or_else(|| "-".into()),
        yes(node.live),
        yes(node.in_sync),
        node.client_addr.clone(),
        node.repl_addr.clone(),
        number(node.end.map(|offset| offset.0)),
        number(node.applied.map(|offset| offset.0)),
        number(node.acked.map(|offset| offset.0)),
        number(node.lag_entries),
        number(node.lag_ms),
        node.version.as_ref().map_or_else(|| "-".into(), |(program, cluster)| format!("{program} ({cluster})")),
        resync,
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const ANSWER: &str = r#"{"cluster":"main","node":"n2","role":"replica","dataset":"000000000000000000000000000000aa",
        "epoch":7,"leader":"n1","nodes":[
        {"id":"n1","role":"leader","client_addr":"127.0.0.1:6379","repl_addr":"127.0.0.1:16379","in_sync":true,"live":true,
         "end":1200,"applied":1200,"acked":1198},
        {"id":"n2","role":"replica","client_addr":"127.0.0.1:6380","repl_addr":"127.0.0.1:16380","in_sync":true,"live":true,
         "end":1199,"applied":1198,"acked":1199,"lag_entries":1,"lag_ms":2},
        {"id":"n3","role":"syncing","client_addr":"127.0.0.1:6381","repl_addr":"127.0.0.1:16381","in_sync":false,"live":true,
         "sync_progress":{"bytes":12582912,"keys":3000,"percent":41,"bytes_per_s":6815744}}],
        "min_in_sync":"auto","min_in_sync_effective":2,"peak_in_sync":3,"resets":0,"coordinator":{"connected":true},
        "warnings":["n3 is being filled"],"of_a_later_release":true}"#;

    #[test]
    fn table_is_aligned_and_says_what_is_unknown() {
        let wanted = "\
cluster main   epoch 7   leader n1   in sync 2 (min auto (2), peak 3)   coordinator connected
dataset 000000000000000000000000000000aa   resets 0   cluster version 0   as seen by n2, replica

NODE  ROLE     LIVE  IN SYNC  CLIENTS         REPLICATION       END  APPLIED  ACKED  LAG  LAG MS  VERSION  RESYNC
n1    leader   yes   yes      127.0.0.1:6379  127.0.0.1:16379  1200     1200   1198    -       -  -        -
n2    replica  yes   yes      127.0.0.1:6380  127.0.0.1:16380  1199     1198   1199    1       2  -        -
n3    syncing  yes   no       127.0.0.1:6381  127.0.0.1:16381     -        -      -    -       -  -        41 %, 3000 keys, 12 MiB, 6.5 MiB/s

warning: n3 is being filled
";
        assert_eq!(table(&read(ANSWER.as_bytes()).unwrap()), wanted);
    }

    #[test]
    fn json_keeps_what_this_release_does_not_know() {
        let json: serde_json::Value = serde_json::from_str(&pretty(ANSWER.as_bytes()).unwrap()).unwrap();
        assert_eq!(json["of_a_later_release"], true);
    }

    /// Expects exactly `asked`, then answers.
    fn node(asked: &'static str, answer: String) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; asked.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), asked);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (address, server)
    }

    fn fetched(address: &str, password: Option<&str>) -> Result<Bytes, String> {
        ask(fetch(address, password.map(str::to_string), &["STATUS"]))
    }

    const ASK: &str = "*2\r\n$10\r\nDATAKEEPER\r\n$6\r\nSTATUS\r\n";

    #[test]
    fn one_bulk_string_is_the_answer() {
        let (address, server) = node(ASK, format!("${}\r\n{ANSWER}\r\n", ANSWER.len()));
        assert_eq!(fetched(&address, None), Ok(Bytes::from_static(ANSWER.as_bytes())));
        server.join().unwrap();
    }

    #[test]
    fn password_is_presented_first() {
        let (address, server) = node("*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n", "-WRONGPASS no\r\n".into());
        assert_eq!(fetched(&address, Some("pw")), Err("WRONGPASS no".into()));
        server.join().unwrap();
    }

    #[test]
    fn what_is_no_answer_is_explained() {
        for (answer, wanted) in [
            ("-NOAUTH Authentication required.\r\n", "set it in the environment as DATAKEEPER_AUTH_PASSWORD"),
            (":1\r\n", "not as a DataKeeper node does"),
            ("HTTP/1.1 400 Bad Request\r\n", "does not answer in RESP"),
            ("", "closed without an answer"),
        ] {
            let (address, server) = node(ASK, answer.into());
            let error = fetched(&address, None).unwrap_err();
            assert!(error.contains(wanted), "{answer:?}: {error}");
            server.join().unwrap();
        }
    }
}
