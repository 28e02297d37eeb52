//! A TCP relay that cuts the connection at a chosen message: before it reaches the server, or before its answer reaches the client.
//!
//! The two look the same to the client, which is the point: an outcome that is unknown.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Where to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees the message.
    Request,
    /// The server sees it; the client never sees what the server says next.
    Answer,
}

type Trap = Arc<Mutex<Option<(Vec<u8>, Cut)>>>;

/// The relay. Its threads end with their connections, its listener with the process.
pub struct Tripwire {
    address: String,
    trap: Trap,
}

impl Tripwire {
    /// Relays a free loopback port to `server`.
    #[must_use]
    pub fn start(server: String) -> Tripwire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let trap = Trap::default();
        let set = Arc::clone(&trap);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(&server) {
                    relay(client, server, &set);
                }
            }
        });
        Tripwire { address, trap }
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Cuts the connection, once, at the next message to the server that holds `text`.
    pub fn set(&self, text: &str, cut: Cut) {
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some((text.as_bytes().to_vec(), cut));
    }

    /// Whether the cut was made.
    #[must_use]
    pub fn has_tripped(&self) -> bool {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

fn relay(client: TcpStream, server: TcpStream, trap: &Trap) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    let answers_end = Arc::new(AtomicBool::new(false));
    let (trap, cut_answers) = (Arc::clone(trap), Arc::clone(&answers_end));
    thread::spawn(move || {
        pump(client_too, server_too, |bytes| {
            let mut trap = trap.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((text, cut)) = trap.as_ref() else { return true };
            let (hit, cut) = (bytes.windows(text.len()).any(|window| window == text), *cut);
            if hit {
                *trap = None;
                cut_answers.store(cut == Cut::Answer, Ordering::SeqCst);
            }
            !hit || cut == Cut::Answer
        });
    });
    thread::spawn(move || pump(server, client, |_| !answers_end.load(Ordering::SeqCst)));
}

/// Copies until either end closes, or `may_pass` refuses; then closes both.
fn pump(mut from: TcpStream, mut to: TcpStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !may_pass(&buffer[..n]) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
