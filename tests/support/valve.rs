//! A TCP relay that can be shut: what runs through it ends, and nobody gets through until it is opened again. Or it is narrow: each connection
//! carries so many bytes a second and no more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The relay. Its threads end with their connections, its listener with the process.
pub struct Valve {
    address: String,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    shut: bool,
    /// Both ends of every connection that was let through since it was opened last.
    streams: Vec<TcpStream>,
}

impl Valve {
    /// Relays a free loopback port to `server`; open.
    #[must_use]
    pub fn start(server: String) -> Valve {
        Valve::narrow(server, None)
    }

    /// The same, with so many bytes a second on each connection.
    #[must_use]
    pub fn narrow(server: String, bytes_per_second: Option<u32>) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let inside = Arc::new(Mutex::new(Inside::default()));
        let shared = Arc::clone(&inside);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut inside = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if inside.shut {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&server) {
                    for (from, to) in [(&client, &server), (&server, &client)] {
                        let twins = (from.try_clone(), to.try_clone(), from.try_clone());
                        let (Ok(from), Ok(to), Ok(kept)) = twins else { continue };
                        let _ = from.set_nodelay(true);
                        inside.streams.push(kept);
                        thread::spawn(move || pump(from, to, bytes_per_second));
                    }
                }
            }
        });
        Valve { address, inside }
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Ends all connections and takes no new ones.
    pub fn shut(&self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.shut = true;
        for stream in inside.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).shut = false;
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, bytes_per_second: Option<u32>) {
    let mut buffer = [0; 64 << 10];
    let mut free_at = Instant::now();
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        if let Some(rate) = bytes_per_second {
            // The pace of a slow line, and no wait for anything.
            free_at = free_at.max(Instant::now()) + Duration::from_secs(1) * n as u32 / rate;
            while let Some(left) = free_at.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
