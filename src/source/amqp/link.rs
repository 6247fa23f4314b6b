//! Connections to a source's servers: which to try, how long to wait, and words for what goes wrong.

use std::time::Duration;

use async_rs::Runtime;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::{AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties, Error, ErrorKind};

use super::secure::{self, ConnectError};
use super::strides::Strides;
use crate::config::{AmqpSettings, Login, TlsSettings};
use crate::source::Fault;

/// How long a server may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is silent for longer than about twice this is taken for gone; the URL may say otherwise. Seconds.
const HEARTBEAT_SECONDS: u16 = 15;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The servers of a source, tried in turn.
#[derive(Debug)]
pub(crate) struct Servers {
    uris: Vec<AMQPUri>,
    tls: TlsSettings,
    login: Login,
    /// The name that the server's operator sees.
    name: String,
    next: usize,
    failures: u32,
    /// Whether sockets are read in strides while they are busy.
    strides: bool,
}

impl Servers {
    /// # Errors
    /// When an address cannot be understood; it is not shown, since it may hold a password.
    pub(crate) fn new(source_name: &str, settings: &AmqpSettings, name: String) -> Result<Self, Fault> {
        let parse = |url: &str| {
            url.parse::<AMQPUri>().map(|mut uri| {
                uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
                if settings.login == Login::External {
                    uri.query.auth_mechanism = Some(SASLMechanism::External);
                }
                uri
            })
        };
        let uris = settings.urls.iter().map(|url| parse(url.reveal())).collect::<Result<_, _>>();
        let uris = uris.map_err(|_| Fault::Client {
            source_name: source_name.to_owned(),
            reason: "`url` is not understood: expected amqp://user:password@host:port/vhost".to_owned(),
        })?;
        let (tls, login) = (settings.tls.clone(), settings.login);
        Ok(Self { uris, tls, login, name, next: 0, failures: 0, strides: false })
    }

    /// For connections with many messages under way at once: reads them in strides while they are busy.
    pub(super) fn in_strides(self) -> Self {
        Self { strides: true, ..self }
    }

    /// Connects to the next server. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What has gone wrong, in words, with the server's host and port.
    pub(crate) async fn connect(&mut self) -> Result<Connection, String> {
        let uri = self.uris[self.next % self.uris.len()].clone();
        self.next = (self.next + 1) % self.uris.len();
        let place = format!("{}:{}", uri.authority.host, uri.authority.port);
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let connecting = async {
            if self.strides {
                secure::connect(uri, properties, &self.tls, Runtime::new(Strides::current())).await
            } else {
                secure::connect(uri, properties, &self.tls, Runtime::tokio_current()).await
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(ConnectError::Flaw(flaw))) => Err(format!("{place}: {flaw}")),
            Ok(Err(ConnectError::Client(error))) => Err(format!("{place}: {}", self.explain_login(&error))),
            Err(_) => Err(format!("{place}: no answer within {CONNECT_TIMEOUT:?}; still trying")),
        }
    }

    /// One sentence about an error before the connection stood.
    fn explain_login(&self, error: &Error) -> String {
        let ErrorKind::ProtocolError(told) = error.kind() else { return explain(error) };
        let advice = match told.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if self.login == Login::External => {
                "check that the server offers EXTERNAL, and that the name in `tls.certificate` is one of its users"
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => "check user and password in `url`",
            _ => return explain(error),
        };
        format!("{}: {advice}; still trying", told.get_message())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.uris.len()
    }

    /// Says that a connection has served.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after a failure: all servers are tried once before the waits grow. Up to half of it is left to
    /// chance, so that workers do not come back in step.
    pub(crate) fn backoff(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let rounds = self.failures.div_ceil(u32::try_from(self.uris.len()).unwrap_or(1).max(1));
        let wait = BACKOFF_MIN.saturating_mul(1 << (rounds - 1).min(10)).min(BACKOFF_MAX);
        wait.mul_f64(1.0 - rand::random::<f64>() / 2.0)
    }
}

/// One sentence about an error, with what to do about it.
pub(crate) fn explain(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            let told = error.get_message();
            let advice = match error.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    "check user and password in `url`, and what the user may do in this virtual host"
                }
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => "create it, or fix its name; still trying",
                AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                    "it exists with other properties, or a message was kept for too long"
                }
                AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => "another connection has it for itself",
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    "check the virtual host in `url` and the user's rights"
                }
                AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => "the server goes away; still trying",
                _ => "still trying",
            };
            format!("{told}: {advice}")
        }
        ErrorKind::IOError(error) if let Some(text) = secure::explain(error) => text,
        ErrorKind::IOError(error) => format!("server not reachable ({error}): check `url`; still trying"),
        ErrorKind::MissingHeartbeatError => "the server was silent for too long; still trying".to_owned(),
        _ => format!("{error}; still trying"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn servers(urls: &[&str]) -> Result<Servers, Fault> {
        let urls = urls.iter().map(|url| Secret::plain(*url)).collect();
        let settings = AmqpSettings { urls, tls: TlsSettings::default(), login: Login::Plain };
        Servers::new("rabbit", &settings, "test".to_owned())
    }

    #[test]
    fn waits_grow_once_all_servers_were_tried() {
        let mut servers = servers(&["amqp://a", "amqp://b"]).unwrap();
        let waits: Vec<Duration> = (0..60).map(|_| servers.backoff()).collect();
        assert!(waits[..2].iter().all(|wait| *wait <= BACKOFF_MIN && *wait >= BACKOFF_MIN / 2), "{waits:?}");
        assert!(waits[2] > BACKOFF_MIN * 9 / 10 && waits[59] <= BACKOFF_MAX && waits[59] >= BACKOFF_MAX / 2);
        servers.succeeded();
        assert!(servers.backoff() <= BACKOFF_MIN);
    }

    #[test]
    fn a_bad_url_is_refused_without_being_shown() {
        let error = servers(&["amqp://me:hush@host:port/"]).unwrap_err().to_string();
        assert!(error.contains("rabbit") && !error.contains("hush"), "{error}");
    }
}
