//! How servers are reached, and whether those of a connect string are one ensemble.
//!
//! A string may name servers that have nothing to do with each other: two single servers, or a new one beside an ensemble that does not
//! know it. A node finds whichever answers first, so two nodes with the same string could found two clusters. Before a node founds
//! anything it therefore looks for its own entry at each server that answers: who is part of the ensemble has it after a `sync`.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;
use zookeeper_client as zk;

use super::{CONNECTION_TIMEOUT, CoordError, PATIENCE};

/// How long one server may take until it counts as not answering.
const LOOK_CAP: Duration = Duration::from_secs(1);

/// The servers, and what is shown to them.
#[derive(Clone)]
pub struct Ensemble {
    /// `host:port,host:port`.
    pub hosts: String,
    /// Scheme and credentials.
    pub auth: Option<(String, String)>,
    /// To ask for.
    pub session_timeout: Duration,
}

impl Ensemble {
    /// Opens a session with whichever of these servers (`hosts`, as in a connect string) answers first.
    ///
    /// # Errors
    /// None answers, or the credentials are refused.
    pub async fn connect(&self, hosts: &str) -> Result<zk::Client, CoordError> {
        let mut connector = zk::Client::connector()
            .with_session_timeout(self.session_timeout)
            .with_connection_timeout(CONNECTION_TIMEOUT.min(self.session_timeout * 2 / 5))
            .with_fail_eagerly();
        if let Some((scheme, credentials)) = &self.auth {
            connector = connector.with_auth(scheme, credentials.as_bytes());
        }
        let unreached = |what: &dyn fmt::Display| CoordError::SessionOver(format!("{hosts} {what}"));
        match timeout(self.session_timeout.max(PATIENCE), connector.connect(hosts)).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(zk::Error::AuthFailed)) => Err(CoordError::Refused(format!(
                "ZooKeeper at {hosts} does not accept zookeeper.auth: want scheme:credentials of a scheme that it knows"
            ))),
            Ok(Err(e)) => Err(unreached(&format_args!("cannot be reached: {e}"))),
            Err(_) => Err(unreached(&"does not answer")),
        }
    }

    /// Opens a session with the server that is the first to answer. All of them are asked at once: nobody knows which of them is silent.
    ///
    /// # Errors
    /// None answers.
    pub async fn connect_to_first(&self) -> Result<zk::Client, CoordError> {
        let mut attempts = JoinSet::new();
        for server in self.hosts.split(',') {
            let (ensemble, server) = (self.clone(), server.to_string());
            attempts.spawn(async move {
                let client = ensemble.connect(&server).await?;
                // A server that is cut off from its ensemble opens a session as well, for a while.
                match timeout(LOOK_CAP, client.sync("/")).await {
                    Ok(Ok(())) => Ok(client),
                    _ => Err(CoordError::Unknown(format!("{server} answers nothing"))),
                }
            });
        }
        let mut last = CoordError::Unknown("no server is named".to_string());
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => last = error,
                Err(error) => last = CoordError::Unknown(error.to_string()),
            }
        }
        Err(last)
    }

    /// For what is created.
    pub fn acls(&self) -> zk::Acls<'static> {
        if self.auth.is_some() { zk::Acls::creator_all() } else { zk::Acls::anyone_all() }
    }

    /// Looks at every server for `path` with this content, which was written to one of them.
    ///
    /// # Errors
    /// A server answers and does not have it: for the operator.
    pub async fn check_is_one(&self, path: &str, content: &[u8]) -> Result<(), CoordError> {
        let servers: Vec<&str> = self.hosts.split(',').collect();
        if servers.len() == 1 {
            return Ok(());
        }
        let mut looks = JoinSet::new();
        for server in servers {
            let (ensemble, server) = (self.clone(), server.to_string());
            let (path, content) = (path.to_string(), content.to_vec());
            looks.spawn(async move {
                let look = timeout(LOOK_CAP, ensemble.has(&server, &path, &content)).await;
                let has = look.unwrap_or_else(|_| Err(format!("no answer within {LOOK_CAP:?}")));
                (server, has)
            });
        }
        let mut strangers = Vec::new();
        while let Some(look) = looks.join_next().await {
            match look {
                Ok((_, Ok(true))) => {}
                Ok((server, Ok(false))) => strangers.push(server),
                // It may be down: then nobody founds anything there, and whoever does later looks here.
                Ok((server, Err(reason))) => debug!("ZooKeeper: {server} was not asked about {path}: {reason}"),
                Err(error) => debug!("ZooKeeper: a server was not asked about {path}: {error}"),
            }
        }
        if strangers.is_empty() {
            return Ok(());
        }
        strangers.sort_unstable();
        Err(CoordError::Refused(format!(
            "zookeeper.connect names servers that are not one ensemble: {} answers and does not know of {path}, which others do. No \
             cluster is founded: name the servers of one ensemble only, the same at every node",
            strangers.join(" and ")
        )))
    }

    async fn has(&self, server: &str, path: &str, content: &[u8]) -> Result<bool, String> {
        let client = self.connect(server).await.map_err(|error| error.to_string())?;
        client.sync("/").await.map_err(|error| error.to_string())?;
        match client.get_data(path).await {
            Ok((found, _)) => Ok(found == content),
            Err(zk::Error::NoNode) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}
