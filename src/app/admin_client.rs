//! `admin` and `handover`: what an operator wants done, at a node's client address; `crash` alone goes to the admin address.
//!
//! That one is one POST and its answer over a connection of its own, which ends with the answer: a dozen lines of HTTP/1.1 do. Not here:
//! chunked bodies, redirects, TLS; the admin address sends short answers of known length.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cli::{AdminArgs, AdminCommand, HandoverArgs};
use super::{ask, status};
use crate::base::ids::NodeId;
use crate::cluster::role::Role;

/// Longest time an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time until there is a leader after a handover; without any fault it is some milliseconds.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Carries out an operator's command: `crash` over HTTP, the others over the port that clients use.
///
/// # Errors
/// For the operator: nobody answers, or the command is refused.
pub fn run(args: AdminArgs) -> Result<String, String> {
    let ask_node = |words: &[&str], cluster: &str| {
        let at = args.connect.as_deref().unwrap_or("127.0.0.1:6379");
        let answer = status::command(at, &[words, &["CONFIRM", cluster]].concat())?;
        Ok(String::from_utf8_lossy(&answer).into_owned() + "\n")
    };
    match &args.command {
        AdminCommand::Crash { node } => crash(args.connect.as_deref().unwrap_or("127.0.0.1:8081"), node),
        AdminCommand::Reset { confirm } => ask_node(&["RESET"], confirm),
        AdminCommand::Adopt { node, confirm } => ask_node(&["ADOPT", node], confirm),
        AdminCommand::Forget { node, confirm } => ask_node(&["FORGET", node], confirm),
        AdminCommand::LowerPeak { size, confirm } => ask_node(&["LOWER-PEAK", &size.to_string()], confirm),
        AdminCommand::RaiseVersion { confirm } => ask_node(&["RAISE-VERSION"], confirm),
        AdminCommand::SetConfig { settings, confirm } => {
            let mut words = vec!["SET-CONFIG"];
            for setting in settings {
                let (key, value) = setting.split_once('=').ok_or_else(|| format!("{setting}: want KEY=VALUE"))?;
                words.extend([key, value]);
            }
            ask_node(&words, confirm)
        }
    }
}

/// Asks the leader to hand over, and waits until the node that it was says who leads now.
///
/// # Errors
/// For the operator: nobody answers, the node refuses, or the handover was given up.
pub fn hand_over(args: &HandoverArgs) -> Result<String, String> {
    let at = &args.connect;
    let before = status::fetch_status(at)?;
    let words: Vec<&str> = match &args.to {
        Some(node) => vec!["HANDOVER", "TO", node],
        None => vec!["HANDOVER"],
    };
    status::command(at, &words)?;
    let deadline = Instant::now() + HANDOVER_PATIENCE;
    loop {
        let now = status::fetch_status(at)?;
        match now.leader {
            Some(leader) if now.epoch > before.epoch => return Ok(format!("{leader} leads in epoch {}\n", now.epoch)),
            Some(leader) if now.role == Role::Leader.as_str() => {
                return Err(format!("{at}: the handover was given up, {leader} leads on; see its log"));
            }
            _ if Instant::now() > deadline => {
                return Err(format!("{at}: no leader is confirmed yet; see `datakeeper status`"));
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Ends a node of `local` without goodbye; answers what the process said about it.
///
/// # Errors
/// For the operator: the name is none, nobody answers, or the process refuses.
pub fn crash(admin: &str, node: &str) -> Result<String, String> {
    let node: NodeId = node.parse()?;
    let said = ask(post(admin, &format!("/crash/{node}")))?;
    Ok(if said.is_empty() { format!("{node}: crashed\n") } else { said + "\n" })
}

async fn post(address: &str, path: &str) -> Result<String, String> {
    let answer = timeout(PATIENCE, exchange(address, path)).await;
    let answer = answer.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let answer = answer.map_err(|e| format!("{address}: {e}"))?;
    let (code, body) = parse(&answer).map_err(|reason| format!("{address}: {reason}"))?;
    if (200..300).contains(&code) { Ok(body) } else { Err(format!("{address}: {code}: {body}")) }
}

async fn exchange(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nDataKeeper-Confirm: crash\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status code and body of an answer that ended with its connection.
fn parse(answer: &[u8]) -> Result<(u16, String), String> {
    let answer = String::from_utf8_lossy(answer);
    let code = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.get(..3)?.parse().ok());
    match (code, answer.split_once("\r\n\r\n")) {
        (Some(code), Some((_, body))) => Ok((code, body.trim_end().to_string())),
        _ => Err("this does not answer in HTTP; is it the admin address?".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request; hands over what was asked.
    fn one_answer(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, server)
    }

    #[test]
    fn crash_posts_the_name_and_hands_on_what_is_said() {
        let (address, server) = one_answer("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nn2 crashed\n");
        assert_eq!(crash(&address, "n2"), Ok("n2 crashed\n".into()));
        let asked = server.join().unwrap();
        assert!(asked.starts_with("POST /crash/n2 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("\r\nHost: {address}\r\n")), "{asked}");
    }

    #[test]
    fn refusals_and_strangers_are_errors() {
        let (address, server) = one_answer("HTTP/1.1 404 Not Found\r\n\r\nno node n9");
        assert_eq!(crash(&address, "n9"), Err(format!("{address}: 404: no node n9")));
        server.join().unwrap();
        let (address, server) = one_answer("-ERR unknown command\r\n");
        assert!(crash(&address, "n9").unwrap_err().contains("is it the admin address?"));
        server.join().unwrap();
        assert!(crash(&address, "a/../b").unwrap_err().contains("node name"), "a path must not be made from it");
        assert!(crash(&address, "n1").unwrap_err().starts_with(&address), "nobody listens there any more");
    }
}
