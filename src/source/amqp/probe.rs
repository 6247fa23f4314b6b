//! What an AMQP source finds when its configuration is checked.
//!
//! Questions are passive declarations, each on a channel of its own, since a "no" closes the channel. Nothing is
//! declared, bound, consumed or published.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use indexmap::IndexMap;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, Error, ErrorKind, ExchangeKind};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::greeting::greet;
use super::link::{Servers, explain};
use crate::config::{AmqpSettings, Binding, Declare, Login, Secret, Target};
use crate::source::probe::{Finding, Plan, Reading, What, Writing, counted, lasting};

/// How long a parting may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects to every server in the configuration, and asks the first that lets us in for queues and exchanges. Takes at
/// most about twice the plan's limit.
pub async fn probe(source: &str, settings: &AmqpSettings, plan: &Plan) -> Vec<Finding> {
    let knocking = settings.urls.iter().map(|url| knock(source, settings, url, plan.limit));
    let (mut findings, mut open) = (Vec::new(), Vec::new());
    for (found, connection) in join_all(knocking).await {
        findings.extend(found);
        open.extend(connection);
    }
    match open.first() {
        Some(connection) => {
            let asker = Asker { connection, deadline: Instant::now() + plan.limit };
            for reading in &plan.readings {
                findings.extend(asker.reading(reading).await);
            }
            for writing in &plan.writings {
                findings.extend(asker.writing(writing).await);
            }
        }
        None => findings.extend(unasked(plan)),
    }
    join_all(open.iter().map(|connection| timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())))).await;
    findings.extend(plan.untold_rights("read", "publish to"));
    findings.push(Finding::unknown(What::Clock, "", "AMQP servers do not tell their time"));
    findings
}

/// Tries one address: first whether anybody listens there, then whether they let us in.
async fn knock(
    source: &str,
    settings: &AmqpSettings,
    url: &Secret,
    limit: Duration,
) -> (Vec<Finding>, Option<Connection>) {
    let bad = |told: &str| (vec![Finding::problem(What::Settings, "", told)], None);
    // Kept apart from the connection itself, which says in one word that both were tried.
    let Ok(uri) = url.reveal().parse::<AMQPUri>() else {
        return bad("`url` is not understood: expected amqp://user:password@host:port/vhost");
    };
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let refused = |told: String| {
        let login = Finding::unknown(What::Login, &place, "the server was not reached");
        (vec![Finding::problem(What::Server, &place, &told), login], None)
    };
    let product = match timeout(limit, approach(&uri)).await {
        Ok(Ok(product)) => product,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return refused(
                "it does not speak AMQP 0-9-1: check the port in `url`, and whether it wants amqps".to_owned(),
            );
        }
        Ok(Err(error)) => return refused(format!("server not reachable ({error}): check `url`")),
        Err(_) => return refused(format!("no answer within {}: check `url`", lasting(limit))),
    };
    let reached = Finding::ok(What::Server, &place, product);
    let mut alone = settings.clone();
    alone.urls = vec![url.clone()];
    let mut servers = match Servers::new(source, &alone, format!("lagless check {source}")) {
        Ok(servers) => servers,
        Err(fault) => return bad(&fault.to_string()),
    };
    let no_login = |told: &str| Finding::problem(What::Login, &place, told);
    match timeout(limit, servers.connect()).await {
        Ok(Ok(connection)) => {
            let status = connection.status();
            let user = match settings.login {
                Login::Plain => format!("as `{}`", status.username()),
                // The server knows whom it takes the certificate's name for, and does not say.
                Login::External => "by the client's certificate".to_owned(),
            };
            let login = Finding::ok(What::Login, &place, format!("{user}, virtual host `{}`", status.vhost()));
            (vec![reached, login], Some(connection))
        }
        Ok(Err(told)) => (vec![reached, no_login(told.strip_prefix(&format!("{place}: ")).unwrap_or(&told))], None),
        Err(_) => (vec![reached, no_login(&format!("no answer within {}: check `url`", lasting(limit)))], None),
    }
}

/// Whether anybody listens there, and who.
async fn approach(uri: &AMQPUri) -> io::Result<String> {
    let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
    match uri.scheme {
        AMQPScheme::AMQP => greet(&mut stream).await,
        AMQPScheme::AMQPS => Ok("it answers".to_owned()),
    }
}

/// The answer to a passive declaration.
enum Answer<T> {
    There(T),
    Missing,
    /// In words.
    Refused(String),
}

/// A connection with the time it may take.
struct Asker<'a> {
    connection: &'a Connection,
    deadline: Instant,
}

impl Asker<'_> {
    /// Messages ready, and consumers.
    async fn queue(&self, name: &str) -> Answer<(u32, u32)> {
        self.ask(async {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
            part_with(&channel).await?;
            Ok((queue.message_count(), queue.consumer_count()))
        })
        .await
    }

    async fn exchange(&self, name: &str) -> Answer<()> {
        self.ask(async {
            let channel = self.connection.create_channel().await?;
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            // The kind is not looked at when the declaration is passive.
            channel.exchange_declare(name.into(), ExchangeKind::Direct, options, FieldTable::default()).await?;
            part_with(&channel).await
        })
        .await
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Answer<T> {
        match timeout_at(self.deadline, question).await {
            Ok(Ok(answer)) => Answer::There(answer),
            Ok(Err(error)) if is_missing(&error) => Answer::Missing,
            Ok(Err(error)) => Answer::Refused(explain(&error)),
            Err(_) => Answer::Refused("the server did not answer in time".to_owned()),
        }
    }

    async fn reading(&self, reading: &Reading) -> Vec<Finding> {
        let name = reading.queue_name();
        let creates = reading.queue.declare == Some(Declare::Create);
        let mut findings = vec![match self.queue(name).await {
            Answer::There((ready, consumers)) => {
                let mut told = format!("{} ready, {}", counted(ready, "message"), counted(consumers, "consumer"));
                if creates {
                    told.push_str("; whether its properties are as wanted shows when a worker declares it");
                }
                Finding::ok(What::Queue, name, told)
            }
            Answer::Missing if creates => Finding::ok(What::Queue, name, "it is not there: a worker makes it"),
            Answer::Missing => {
                let told = "it does not exist: create it, fix `queue`, or set declare = \"create\"";
                Finding::problem(What::Queue, name, told)
            }
            Answer::Refused(told) => Finding::problem(What::Queue, name, &told),
        }];
        let mut exchanges: IndexMap<&str, bool> = IndexMap::new();
        for Binding { exchange, exchange_type, .. } in &reading.queue.bind {
            *exchanges.entry(exchange).or_default() |= exchange_type.is_some();
        }
        for (exchange, is_made) in exchanges {
            findings.push(match self.exchange(exchange).await {
                Answer::There(()) => Finding::ok(What::Exchange, exchange, format!("a worker binds `{name}` to it")),
                Answer::Missing if is_made => {
                    Finding::ok(What::Exchange, exchange, "it is not there: a worker makes it")
                }
                Answer::Missing => {
                    let told = "it does not exist: create it, fix `bind`, or give it a `type`";
                    Finding::problem(What::Exchange, exchange, told)
                }
                Answer::Refused(told) => Finding::problem(What::Exchange, exchange, &told),
            });
        }
        if reading.rejects {
            findings.push(self.policy(reading).await);
        }
        findings
    }

    /// Where a queue's rejected messages go. Without a place, or with one that is not there, the server drops them.
    async fn policy(&self, reading: &Reading) -> Finding {
        let (what, name) = (What::DeadLetters, reading.queue_name());
        let argument = |key: &str| reading.queue.arguments.get(key).and_then(|value| value.as_str());
        match (argument("x-dead-letter-exchange"), argument("x-dead-letter-routing-key")) {
            (Some(exchange), Some(key)) => self.place(what, name, (exchange, key)).await,
            (Some(exchange), None) if !exchange.is_empty() => {
                self.place(what, name, (exchange, "the message's own key")).await
            }
            _ => {
                let told =
                    "left to the queue's own policy, which the protocol does not tell: without one they are gone";
                Finding::unknown(what, name, told)
            }
        }
    }

    async fn writing(&self, writing: &Writing) -> Option<Finding> {
        let Target::Exchange { exchange, routing_key, .. } = &writing.target else { return None };
        let name = writing.target.name();
        if exchange.is_empty() && routing_key.constant().is_none() {
            let told = "the queue's name is made of parts of each message: whether it exists shows then";
            return Some(Finding::unknown(writing.what, name, told));
        }
        let key = routing_key.constant().map_or_else(|| routing_key.to_string(), str::to_owned);
        Some(self.place(writing.what, &name, (exchange, &key)).await)
    }

    /// An exchange that is published to with a routing key.
    async fn place(&self, what: What, name: &str, (exchange, key): (&str, &str)) -> Finding {
        if exchange.is_empty() {
            return match self.queue(key).await {
                Answer::There((ready, _)) => {
                    Finding::ok(what, name, format!("queue `{key}`, {} ready", counted(ready, "message")))
                }
                Answer::Missing => {
                    let told = format!("queue `{key}` does not exist: create it, or fix the routing key");
                    Finding::problem(what, name, &told)
                }
                Answer::Refused(told) => Finding::problem(what, name, &told),
            };
        }
        match self.exchange(exchange).await {
            Answer::There(()) => {
                let told = format!("exchange `{exchange}`; whether a queue takes `{key}` shows with a message");
                Finding::ok(what, name, told)
            }
            Answer::Missing => {
                let told = format!("exchange `{exchange}` does not exist: create it, or fix its name");
                Finding::problem(what, name, &told)
            }
            Answer::Refused(told) => Finding::problem(what, name, &told),
        }
    }
}

/// One that is only dropped would still be closing when the connection closes, and break it off.
async fn part_with(channel: &Channel) -> Result<(), Error> {
    channel.close(200, "done".into()).await
}

fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(told)
        if matches!(told.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)))
}

/// Everything in the plan, when no server can be asked.
fn unasked(plan: &Plan) -> Vec<Finding> {
    let told = "no server could be asked";
    let read = plan.readings.iter().flat_map(|reading| {
        let exchanges = reading.queue.bind.iter().map(|bind| Finding::unknown(What::Exchange, &bind.exchange, told));
        [Finding::unknown(What::Queue, reading.queue_name(), told)].into_iter().chain(exchanges)
    });
    let written = plan.writings.iter().map(|writing| Finding::unknown(writing.what, writing.target.name(), told));
    read.chain(written).collect()
}
