//! A connection to either server that gives replies as the bytes that they are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::client::encode;
use crate::wire;

/// A connection that takes requests and gives replies as the bytes that they are.
pub struct Wire {
    stream: TcpStream,
    /// What came and was not taken yet, from `taken` on.
    came: Vec<u8>,
    taken: usize,
}

impl Wire {
    /// Connects, and says HELLO with that version of the protocol.
    ///
    /// # Panics
    /// If the server does not take it.
    #[must_use]
    pub fn connect(addr: SocketAddr, protocol: u8) -> Wire {
        let stream = TcpStream::connect(addr).unwrap_or_else(|e| panic!("{addr} takes no client: {e}"));
        let patience = Some(Duration::from_secs(30));
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(patience)).expect("plain socket options");
        let mut wire = Wire { stream, came: Vec::new(), taken: 0 };
        wire.send(format!("*2\r\n$5\r\nHELLO\r\n$1\r\n{protocol}\r\n").as_bytes());
        let hello = wire.receive();
        assert_eq!(hello[0], if protocol == 3 { b'%' } else { b'*' }, "{}", hello.escape_ascii());
        wire
    }

    /// # Panics
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes requests");
    }

    /// The next reply.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn receive(&mut self) -> Vec<u8> {
        loop {
            if let Some(len) = wire::reply_len(&self.came[self.taken..]) {
                self.taken += len;
                return self.came[self.taken - len..self.taken].to_vec();
            }
            self.came.drain(..std::mem::take(&mut self.taken));
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the connection was closed behind {:?}", self.came.escape_ascii().to_string()),
                Ok(len) => self.came.extend_from_slice(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => panic!("no reply: {e}; so far {:?}", self.came.escape_ascii().to_string()),
            }
        }
    }

    /// One request and its reply.
    pub fn call(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(words, &mut bytes);
        self.send(&bytes);
        self.receive()
    }
}
