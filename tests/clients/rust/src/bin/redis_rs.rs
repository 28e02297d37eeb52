//! redis-rs through faults, as its users write it: `redis_rs blocking|async plain|cluster|sentinel NAME HOST:PORT...`, of Sentinel ports for the last.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use datakeeper_clients::{Arguments, Client, Form, expect, moved_to, run, runtime, say};
use futures_util::StreamExt as _;
use redis::aio::{ConnectionManager, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, cmd, pipe};
use tokio::runtime::Runtime;

/// Longest wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of the cluster.
const MASTER: &str = "main";

/// A connection, however it was made.
enum Connection {
    Blocking(redis::Connection),
    BlockingCluster(ClusterConnection),
    Async(ConnectionManager),
    AsyncMaster(MultiplexedConnection),
    AsyncCluster(redis::cluster_async::ClusterConnection),
}

struct RedisRs {
    arguments: Arguments,
    runtime: Runtime,
    /// Where a plain client is, or was sent last.
    node: String,
    /// None if it could not be made when that was tried last.
    connection: Option<Connection>,
}

fn url(node: &str) -> String {
    format!("redis://{node}/")
}

impl RedisRs {
    fn connect(&self) -> RedisResult<Connection> {
        let [api, way] = &self.arguments.words[..] else { panic!("redis_rs blocking|async plain|cluster|sentinel ...") };
        let urls: Vec<String> = self.arguments.nodes.iter().map(|node| url(node)).collect();
        Ok(match (&**api, &**way) {
            ("blocking", "plain") => Connection::Blocking(redis::Client::open(url(&self.node))?.get_connection()?),
            ("async", "plain") => {
                let client = redis::Client::open(url(&self.node))?;
                Connection::Async(self.runtime.block_on(client.get_connection_manager())?)
            }
            ("blocking", "cluster") => Connection::BlockingCluster(ClusterClient::new(urls)?.get_connection()?),
            ("async", "cluster") => {
                let client = ClusterClient::new(urls)?;
                Connection::AsyncCluster(self.runtime.block_on(client.get_async_connection())?)
            }
            ("blocking", "sentinel") => Connection::Blocking(self.sentinel()?.get_connection()?),
            ("async", "sentinel") => {
                let mut sentinel = self.sentinel()?;
                Connection::AsyncMaster(self.runtime.block_on(sentinel.get_async_connection())?)
            }
            other => panic!("there is no way {other:?}"),
        })
    }

    /// What asks the Sentinels where the leader is.
    fn sentinel(&self) -> RedisResult<SentinelClient> {
        let urls: Vec<String> = self.arguments.nodes.iter().map(|node| url(node)).collect();
        SentinelClient::build(urls, MASTER.to_string(), None, SentinelServerType::Master)
    }

    /// A client of a node that takes subscribers.
    fn subscriber(&self) -> RedisResult<redis::Client> {
        match &*self.arguments.words[1] {
            "sentinel" => self.sentinel()?.get_client(),
            _ => redis::Client::open(url(&self.node)),
        }
    }

    fn connected(&mut self) -> Result<(), String> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, String> {
        self.connected()?;
        match self.connection.as_mut().expect("it is there") {
            Connection::Blocking(connection) => command.query(connection),
            Connection::BlockingCluster(connection) => command.query(connection),
            Connection::Async(connection) => self.runtime.block_on(command.query_async(connection)),
            Connection::AsyncMaster(connection) => self.runtime.block_on(command.query_async(connection)),
            Connection::AsyncCluster(connection) => self.runtime.block_on(command.query_async(connection)),
        }
        .map_err(|e| e.to_string())
    }

    fn ask_all<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, String> {
        self.connected()?;
        if let Some(Connection::BlockingCluster(connection)) = &mut self.connection {
            let mut pipe = cluster_pipe();
            for command in commands.cmd_iter() {
                pipe.add_command(command.clone());
            }
            return pipe.query(connection).map_err(|e| e.to_string());
        }
        match self.connection.as_mut().expect("it is there") {
            Connection::Blocking(connection) => commands.query(connection),
            Connection::BlockingCluster(_) => unreachable!("see above"),
            Connection::Async(connection) => self.runtime.block_on(commands.query_async(connection)),
            Connection::AsyncMaster(connection) => self.runtime.block_on(commands.query_async(connection)),
            Connection::AsyncCluster(connection) => self.runtime.block_on(commands.query_async(connection)),
        }
        .map_err(|e| e.to_string())
    }

    /// Clients of clusters have to be told where a command without a key goes.
    fn ask_master<T: FromRedisValue>(&mut self, command: Cmd) -> Result<T, String> {
        let master = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
        let value = match self.connection.as_mut() {
            Some(Connection::BlockingCluster(connection)) => connection.route_command(&command, master),
            Some(Connection::AsyncCluster(connection)) => {
                self.runtime.block_on(connection.route_command(command, master))
            }
            _ => return self.ask(&command),
        };
        value.and_then(|value| Ok(T::from_redis_value(value)?)).map_err(|e| e.to_string())
    }

    fn key(&self, word: &str) -> String {
        format!("{{{}}}:tour:{word}", self.arguments.name)
    }

    /// One command, and what has to come of it.
    fn check<T: FromRedisValue + PartialEq + std::fmt::Debug>(&mut self, command: &Cmd, wanted: T) {
        let text = String::from_utf8_lossy(&command.get_packed_command()).replace("\r\n", " ");
        expect(&text, self.ask(command), Ok(wanted));
    }

    fn scan(&mut self) {
        let names: Vec<String> = (0..60).map(|i| self.key(&format!("scan:{i}"))).collect();
        let pairs: Vec<(&String, &str)> = names.iter().map(|name| (name, "1")).collect();
        self.check(&Cmd::mset(&pairs), "OK".to_string());
        let (mut found, mut cursor) = (BTreeSet::new(), 0);
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.key("scan:*")).arg("COUNT").arg(10);
            let page: Result<(u64, Vec<String>), String> = self.ask_master(scan);
            match page {
                Ok((next, keys)) => {
                    found.extend(keys);
                    cursor = next;
                }
                Err(error) => say(format!("wrong SCAN: {error}")),
            }
            if cursor == 0 {
                break;
            }
        }
        expect("SCAN", found, names.into_iter().collect());
    }

    /// Subscribers have a connection of their own, to any node.
    fn publish_and_subscribe(&mut self) {
        let channel = format!("news:{}", self.arguments.name);
        let client = self.subscriber().expect("a node");
        let publish = Cmd::publish(&channel, "hello");
        if self.arguments.words[0] == "blocking" {
            let mut connection = client.get_connection().expect("a connection");
            let mut listener = connection.as_pubsub();
            listener.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
            listener.subscribe(&channel).expect("SUBSCRIBE");
            let _: Result<i64, String> = self.ask(&publish);
            let message = listener.get_message().map_err(|e| e.to_string());
            expect(
                "a message",
                message.and_then(|m| m.get_payload().map_err(|e| e.to_string())),
                Ok("hello".to_string()),
            );
        } else {
            let mut listener = self.runtime.block_on(client.get_async_pubsub()).expect("a connection");
            self.runtime.block_on(listener.subscribe(&channel)).expect("SUBSCRIBE");
            let _: Result<i64, String> = self.ask(&publish);
            let message =
                self.runtime.block_on(async { tokio::time::timeout(PATIENCE, listener.on_message().next()).await });
            expect("a message", message.ok().flatten().and_then(|m| m.get_payload().ok()), Some("hello".to_string()));
        }
    }
}

impl Client for RedisRs {
    fn tour(&mut self) {
        let ok = || "OK".to_string();
        let [a, b, c, e, p, none, text] = ["a", "b", "c", "e", "p", "none", "text"].map(|word| self.key(word));
        self.check(&Cmd::set(&a, 1), ok());
        self.check(&Cmd::set_nx(&a, 2), 0);
        self.check(&Cmd::getset(&a, 3), "1".to_string());
        self.check(&Cmd::incr(&a, 39), 42);
        self.check(&Cmd::incr(&a, 0.5), 42.5);
        self.check(&Cmd::append(&a, "!"), 5);
        self.check(&Cmd::getrange(&a, 1, -1), "2.5!".to_string());
        self.check(&Cmd::mset(&[(&b, "ä\r\n"), (&c, "")]), ok());
        self.check(&Cmd::mget(&[&b, &c, &none]), vec![Some("ä\r\n".to_string()), Some(String::new()), None]);
        self.check(&Cmd::key_type(&a), "string".to_string());
        self.check(&Cmd::exists(&[&a, &none]), 1);
        self.check(&Cmd::get_del(&a), "42.5!".to_string());
        self.check(&Cmd::del(&[&b, &c, &none]), 2);
        self.check(&Cmd::set_ex(&e, 1, 100), ok());
        self.check(&Cmd::persist(&e), 1);
        self.check(&Cmd::ttl(&e), -1);
        self.check(&Cmd::pexpire(&e, 40), 1);
        let deadline = Instant::now() + PATIENCE;
        while self.ask(&Cmd::get(&e)) != Ok(None::<String>) {
            if Instant::now() > deadline {
                say("wrong: a key is there whose time is over");
                break;
            }
        }
        let mut four = pipe();
        four.set(&p, 1).incr(&p, 1).get(&p).del(&p);
        expect("a pipeline", self.ask_all(&four), Ok((ok(), 2, "2".to_string(), 1)));
        // Just a pipeline to the blocking client of clusters, which has no transactions.
        expect("a transaction", self.ask_all(four.atomic()), Ok((ok(), 2, "2".to_string(), 1)));
        self.check(&Cmd::set(&text, "text"), ok());
        let failed: Result<i64, String> = self.ask(&Cmd::incr(&text, 1));
        expect("INCR of a text", failed.is_err_and(|e| e.contains("value is not an integer or out of range")), true);
        self.scan();
        self.publish_and_subscribe();
    }

    fn write(&mut self, form: Form, keys: &[String], n: u64) -> Result<(), String> {
        if form == Form::Command {
            return self.ask(&Cmd::set(&keys[0], n));
        }
        let mut both = pipe();
        for key in keys {
            both.set(key, n);
        }
        if form == Form::Transaction {
            both.atomic();
        }
        self.ask_all::<(String, String)>(&both)
            .map(|answers| expect("answers to a batch", answers, ("OK".to_string(), "OK".to_string())))
    }

    fn mget(&mut self, keys: &[String]) -> Result<Vec<Option<String>>, String> {
        self.ask(&Cmd::mget(keys))
    }

    fn after(&mut self, error: &str) {
        if self.arguments.words[1] == "cluster" {
            return;
        }
        let answered = ["LOADING", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"].iter().any(|code| error.contains(code));
        if self.arguments.words[1] == "sentinel" {
            // The next connection asks anew where the leader is.
        } else if let Some(there) = moved_to(error) {
            self.node = there;
        } else if !answered {
            let nodes = &self.arguments.nodes;
            let at = nodes.iter().position(|node| *node == self.node).unwrap_or(0);
            self.node.clone_from(&nodes[(at + 1) % nodes.len()]);
        }
        if !answered {
            self.connection = None;
        }
    }
}

fn main() {
    let arguments = Arguments::read(2);
    let name = arguments.name.clone();
    run("redis-rs", "redis", &name, || {
        let node = arguments.nodes[0].clone();
        Box::new(RedisRs { arguments, runtime: runtime(), node, connection: None })
    });
}
