//! A client that shows what was said: one blocking connection, requests as given, RESP2 replies as they came.
//!
//! The real client libraries hide what these tests look at: the exact text of an error, a connection that was closed, a reply that
//! has not come. Not here: RESP3, reconnecting, redirects.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply that takes longer is an error: no command of these tests may.
const PATIENCE: Duration = Duration::from_secs(30);

/// One reply of RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+...`
    Simple(String),
    /// `-...`, without the dash.
    Error(String),
    /// `:...`
    Integer(i64),
    /// `$...`
    Bulk(Vec<u8>),
    /// `$-1` or `*-1`
    Null,
    /// `*...`
    Array(Vec<Reply>),
}

impl Reply {
    /// `+OK`.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Reply::Simple(text) if text == "OK")
    }

    /// The text of an error; empty if it is none.
    #[must_use]
    pub fn error(&self) -> &str {
        if let Reply::Error(text) = self { text } else { "" }
    }

    /// The text of a status or a bulk.
    ///
    /// # Panics
    /// If it is neither.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) => text.clone(),
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("a text was expected, not {other:?}"),
        }
    }
}

/// A bulk of this text.
#[must_use]
pub fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// One request as bytes.
pub fn encode<W: AsRef<[u8]>>(words: &[W], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
        out.extend_from_slice(word.as_ref());
        out.extend_from_slice(b"\r\n");
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    /// Connects, within a second.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(addr: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let replies = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        Ok(Client { stream, replies })
    }

    /// How long to wait for a reply from now on.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// One reply.
    ///
    /// # Errors
    /// The connection is gone, or nothing came in time.
    pub fn receive(&mut self) -> io::Result<Reply> {
        receive(&mut self.replies)
    }

    /// One request and its reply.
    ///
    /// # Errors
    /// The connection is gone, or nothing came in time: the outcome is unknown.
    pub fn try_call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        encode(words, &mut bytes);
        self.send(&bytes)?;
        self.receive()
    }

    /// One request, as words without spaces in them, and its reply.
    ///
    /// # Panics
    /// If there is none.
    pub fn call(&mut self, words: &str) -> Reply {
        let words: Vec<&str> = words.split(' ').collect();
        self.try_call(&words).unwrap_or_else(|e| panic!("no reply to {words:?}: {e}"))
    }

    /// Many requests in one go and their replies, in order.
    ///
    /// # Panics
    /// If one is missing.
    pub fn pipeline<W: AsRef<[u8]>>(&mut self, requests: &[Vec<W>]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        requests.iter().for_each(|words| encode(words, &mut bytes));
        self.send(&bytes).expect("the connection takes requests");
        requests.iter().map(|_| self.receive().expect("a reply to each request")).collect()
    }

    /// Reads an array of bulks without keeping them; returns how many they are.
    ///
    /// # Errors
    /// The connection is gone, nothing came in time, or it is something else.
    pub fn skim_array(&mut self) -> io::Result<usize> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        let count = line.trim_end().strip_prefix('*').and_then(|count| count.parse().ok());
        let count: usize = count.ok_or_else(|| io::Error::other(format!("not an array: {line:?}")))?;
        for _ in 0..count {
            match self.receive()? {
                Reply::Bulk(_) => {}
                other => return Err(io::Error::other(format!("not a bulk: {other:?}"))),
            }
        }
        Ok(count)
    }

    /// Everything up to the end of the connection; what a reset cuts off counts as its end.
    #[must_use]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.replies.read_to_end(&mut bytes);
        bytes
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// No connection, or no reply.
pub fn ask(addr: SocketAddr, words: &str) -> io::Result<Reply> {
    let words: Vec<&str> = words.split(' ').collect();
    Client::connect(addr)?.try_call(&words)
}

fn receive(from: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    let strange = |line: &[u8]| io::Error::other(format!("not RESP2: {:?}", String::from_utf8_lossy(line)));
    let Some((&kind, rest)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first()) else {
        return Err(if line.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { strange(&line) });
    };
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || text().parse::<i64>().map_err(|_| strange(&line));
    Ok(match kind {
        b'+' => Reply::Simple(text()),
        b'-' => Reply::Error(text()),
        b':' => Reply::Integer(number()?),
        b'$' | b'*' => match (kind, usize::try_from(number()?)) {
            (_, Err(_)) => Reply::Null,
            (b'$', Ok(len)) => {
                let mut bytes = vec![0; len + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Reply::Bulk(bytes)
            }
            (_, Ok(len)) => Reply::Array((0..len).map(|_| receive(from)).collect::<io::Result<_>>()?),
        },
        _ => return Err(strange(&line)),
    })
}

/// One request to the operators' address, and everything that it answers.
///
/// # Panics
/// If the node takes none.
#[must_use]
pub fn http_get(addr: SocketAddr, path: &str) -> String {
    let mut client = Client::connect(addr).expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    client.send(request.as_bytes()).expect("a request is taken");
    String::from_utf8_lossy(&client.rest()).into_owned()
}
