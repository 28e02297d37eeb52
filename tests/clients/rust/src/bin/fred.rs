//! fred through faults, as its users write it: `fred plain|cluster|sentinel NAME HOST:PORT...`

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use datakeeper_clients::{Arguments, Client as Story, Form, expect, moved_to, run, runtime, say};
use fred::prelude::*;
use fred::types::Value;
use futures_util::TryStreamExt as _;
use tokio::runtime::Runtime;

/// Longest wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(5);

struct Fred {
    arguments: Arguments,
    runtime: Runtime,
    client: Client,
}

/// A client that reconnects, as fred's documentation shows it: without a policy it would not.
fn connect(runtime: &Runtime, url: &str) -> Client {
    let config = Config::from_url(url).expect("a URL");
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_exponential(0, 100, 30_000, 2))
        .build()
        .expect("a client");
    runtime.block_on(client.init()).unwrap_or_else(|e| panic!("{url}: {e}"));
    client
}

fn url(arguments: &Arguments) -> String {
    let (first, others) = arguments.nodes.split_first().expect("a node");
    let others: Vec<String> = others.iter().map(|node| format!("node={node}")).collect();
    match &*arguments.words[0] {
        "plain" => format!("redis://{first}"),
        "cluster" => format!("redis-cluster://{first}?{}", others.join("&")),
        "sentinel" => format!("redis-sentinel://{first}?sentinelServiceName=main&{}", others.join("&")),
        other => panic!("there is no way {other}"),
    }
}

impl Fred {
    fn key(&self, word: &str) -> String {
        format!("{{{}}}:tour:{word}", self.arguments.name)
    }

    fn wait<T>(&self, result: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        self.runtime.block_on(result).map_err(|e| e.to_string())
    }

    fn check<T: PartialEq + Debug>(&self, what: &str, result: impl Future<Output = Result<T, Error>>, wanted: T) {
        expect(what, self.wait(result), Ok(wanted));
    }

    fn publish_and_subscribe(&self) {
        let channel = format!("news:{}", self.arguments.name);
        let heard = self.wait(async {
            let listener = self.client.clone_new();
            listener.init().await?;
            let mut messages = listener.message_rx();
            listener.subscribe(channel.as_str()).await?;
            // fred does not wait for the answer to SUBSCRIBE, so the first message may be too early.
            let deadline = Instant::now() + PATIENCE;
            let mut message = None;
            while message.is_none() && Instant::now() < deadline {
                self.client.publish::<(), _, _>(channel.as_str(), "hello").await?;
                message = tokio::time::timeout(PATIENCE / 50, messages.recv()).await.ok().and_then(Result::ok);
            }
            listener.quit().await?;
            Ok(message.and_then(|message| message.value.convert::<String>().ok()))
        });
        expect("a message", heard, Ok(Some("hello".to_string())));
    }
}

impl Story for Fred {
    fn tour(&mut self) {
        let client = &self.client;
        let ok = || "OK".to_string();
        let some = |text: &str| Some(text.to_string());
        let [a, b, c, e, p, none, text] = ["a", "b", "c", "e", "p", "none", "text"].map(|word| self.key(word));
        self.check("SET", client.set(&a, "1", None, None, false), ok());
        self.check("SET NX", client.set(&a, "2", None, Some(SetOptions::NX), false), None::<String>);
        self.check("SET GET", client.set(&a, "3", None, None, true), some("1"));
        self.check("INCRBY", client.incr_by(&a, 39), 42);
        self.check("INCRBYFLOAT", client.incr_by_float(&a, 0.5), 42.5);
        self.check("APPEND", client.append(&a, "!"), 5);
        self.check("GETRANGE", client.getrange(&a, 1, 9), "2.5!".to_string());
        self.check("MSET", client.mset(vec![(b.as_str(), "ä\r\n"), (c.as_str(), "")]), ());
        self.check("MGET", client.mget(vec![&b, &c, &none]), vec![some("ä\r\n"), some(""), None]);
        self.check("EXISTS", client.exists(vec![&a, &none]), 1);
        self.check("GETDEL", client.getdel(&a), "42.5!".to_string());
        self.check("DEL", client.del(vec![&b, &c, &none]), 2);
        self.check("SET EX", client.set(&e, "1", Some(Expiration::EX(100)), None, false), ok());
        self.check("PERSIST", client.persist(&e), 1);
        self.check("TTL", client.ttl(&e), -1);
        self.check("PEXPIRE", client.pexpire(&e, 40, None), 1);
        let deadline = Instant::now() + PATIENCE;
        while self.wait(client.get(&e)) != Ok(None::<String>) {
            if Instant::now() > deadline {
                say("wrong: a key is there whose time is over");
                break;
            }
        }
        let pipeline = self.wait(async {
            let pipeline = client.pipeline();
            pipeline.set::<(), _, _>(&p, "1", None, None, false).await?;
            pipeline.incr::<(), _>(&p).await?;
            pipeline.get::<(), _>(&p).await?;
            pipeline.del::<(), _>(&p).await?;
            pipeline.all::<(String, i64, String, i64)>().await
        });
        expect("a pipeline", pipeline, Ok((ok(), 2, "2".to_string(), 1)));
        let transaction = self.wait(async {
            let transaction = client.multi();
            transaction.set::<Value, _, _>(&p, "1", None, None, false).await?;
            transaction.incr::<Value, _>(&p).await?;
            transaction.get::<Value, _>(&p).await?;
            transaction.del::<Value, _>(&p).await?;
            transaction.exec::<(String, i64, String, i64)>(true).await
        });
        expect("a transaction", transaction, Ok((ok(), 2, "2".to_string(), 1)));
        self.check("SET", client.set(&text, "text", None, None, false), ok());
        let failed: Result<i64, String> = self.wait(client.incr(&text));
        expect("INCR of a text", failed.is_err_and(|e| e.contains("value is not an integer or out of range")), true);

        let names: BTreeSet<String> = (0..60).map(|i| self.key(&format!("scan:{i}"))).collect();
        let pairs: Vec<(String, &str)> = names.iter().map(|name| (name.clone(), "1")).collect();
        self.check("MSET", client.mset(pairs), ());
        let pattern = self.key("scan:*");
        let found = self.wait(async {
            let page = |keys: Vec<Key>| keys.iter().map(|key| key.as_str_lossy().into_owned()).collect::<Vec<_>>();
            let keys: Vec<Key> = if self.arguments.words[0] == "cluster" {
                client.scan_cluster_buffered(pattern, Some(10), None).try_collect().await?
            } else {
                client.scan_buffered(pattern, Some(10), None).try_collect().await?
            };
            Ok(page(keys).into_iter().collect::<BTreeSet<String>>())
        });
        expect("SCAN", found, Ok(names));
        self.publish_and_subscribe();
    }

    fn write(&mut self, form: Form, keys: &[String], n: u64) -> Result<(), String> {
        let value = n.to_string();
        let client = &self.client;
        let answers: (String, String) = match form {
            Form::Command => return self.wait(client.set(&keys[0], value, None, None, false)),
            Form::Pipeline => self.wait(async {
                let pipeline = client.pipeline();
                for key in keys {
                    pipeline.set::<(), _, _>(key, &value, None, None, false).await?;
                }
                pipeline.all().await
            })?,
            Form::Transaction => self.wait(async {
                let transaction = client.multi();
                for key in keys {
                    transaction.set::<Value, _, _>(key, &value, None, None, false).await?;
                }
                transaction.exec(true).await
            })?,
        };
        expect("answers to a batch", answers, ("OK".to_string(), "OK".to_string()));
        Ok(())
    }

    fn mget(&mut self, keys: &[String]) -> Result<Vec<Option<String>>, String> {
        self.wait(self.client.mget(keys.to_vec()))
    }

    fn after(&mut self, error: &str) {
        let there = moved_to(error).filter(|_| self.arguments.words[0] == "plain");
        if let Some(there) = there {
            let _ = self.wait(self.client.quit());
            self.client = connect(&self.runtime, &format!("redis://{there}"));
        }
    }
}

fn main() {
    let arguments = Arguments::read(1);
    let name = arguments.name.clone();
    run("fred", "fred", &name, || {
        let runtime = runtime();
        let client = connect(&runtime, &url(&arguments));
        Box::new(Fred { arguments, runtime, client })
    });
}
