//! Secured listeners of the servers that `make test` starts, and what is needed to be let in.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use super::kafka::Kafka;
use super::numbered::Numbered;
use super::project::{Project, case};
use super::rabbit::{Queues, Rabbit};

/// Certificates and keys as `tests/brokers/certificates.sh` makes them.
#[derive(Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// The path of a file, as it is written in a configuration.
    pub fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }

    pub fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// A token that lives for so long, or that has been dead for so long, signed with a key in PEM form.
    pub fn token_signed_by(key: &str, lives: Result<Duration, Duration>) -> String {
        #[expect(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expires = lives.map_or_else(|dead| now - dead, |lives| now + lives).as_secs();
        let claims = serde_json::json!({
            "iss": "lagless-tests",
            "aud": "lagless-tests",
            "sub": "lagless",
            "iat": expires.min(now.as_secs()) - 1,
            "exp": expires,
        });
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"tests","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let key = PKey::private_key_from_pem(key.as_bytes()).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.update(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signer.sign_to_vec().unwrap()))
    }

    pub fn token(&self, lives: Result<Duration, Duration>) -> String {
        Self::token_signed_by(&self.text("token.key"), lives)
    }
}

/// A variable that `with` sets beside the server's address. Somebody else's server has no such listener as far as we
/// know: what needs one is skipped there, and says so.
fn variable(name: &str, started_by_us: &str) -> Option<String> {
    match std::env::var(name) {
        Ok(value) => Some(value),
        Err(_) if std::env::var_os(started_by_us).is_some() => panic!("{started_by_us} is set, and {name} is not"),
        Err(_) => {
            eprintln!("skipped: no {name}, since the server is not one that tests/brokers has started");
            None
        }
    }
}

/// Kafka's listeners with TLS.
#[derive(Debug)]
pub struct SecuredKafka {
    /// The same server without.
    pub plain: Kafka,
    pub sasl_ssl: String,
    pub ssl: String,
    pub certificates: Certificates,
}

impl SecuredKafka {
    pub fn find() -> Option<Self> {
        let plain = Kafka::shared();
        let variable = |name| variable(name, "LAGLESS_KAFKA_DIR");
        Some(Self {
            plain,
            sasl_ssl: variable("KAFKA_SASL_SSL_BROKERS")?,
            ssl: variable("KAFKA_SSL_BROKERS")?,
            certificates: Certificates(variable("KAFKA_CERTIFICATES")?.into()),
        })
    }

    /// Settings of `client` that begin with the authority to trust.
    pub fn client(&self, settings: &[(&str, &str)]) -> String {
        let ca = self.certificates.path("ca.pem");
        let all = [&[("ssl.ca.location", &*ca)], settings].concat();
        let entries: Vec<_> = all.iter().map(|(key, value)| format!("{key:?} = {value:?}")).collect();
        format!("client = {{ {} }}", entries.join(", "))
    }

    /// Reads and writes on one of the listeners; `source` are lines of the source.
    pub fn project(run: &Numbered, brokers: &str, source: &str) -> Project {
        let (name, input, output) = (&run.name, run.input(), run.output());
        let config = format!(
            r#"
            admin = "127.0.0.1:0"
            [source.secured]
            kind = "kafka"
            brokers = "{brokers}"
            commit_interval = "100ms"
            {source}
            [service.it.function.f]
            code = "f.ts"
            [service.it.trigger.t]
            function = "f"
            source = "secured"
            topics = ["{input}"]
            group = "{name}"
            on_success = {{ kafka = "secured", topic = "{output}" }}
            "#
        );
        Project::new(&config).with("f.ts", &case("echo.ts"))
    }
}

/// RabbitMQ's listener with TLS.
#[derive(Debug)]
pub struct SecuredRabbit {
    /// The same server without.
    pub plain: Rabbit,
    pub port: String,
    pub certificates: Certificates,
}

impl SecuredRabbit {
    pub fn find() -> Option<Self> {
        let plain = Rabbit::shared();
        let variable = |name| variable(name, "LAGLESS_RABBITMQ_DIR");
        let address = variable("AMQPS_ADDRESS")?;
        let port = address.strip_prefix("127.0.0.1:").expect("the server listens on loopback").to_owned();
        Some(Self { plain, port, certificates: Certificates(variable("AMQP_CERTIFICATES")?.into()) })
    }

    /// The table for `tls` with the authority, and where given the name of a client's certificate.
    pub fn tls(&self, client: Option<&str>) -> String {
        let path = |file: &str| self.certificates.path(file);
        let client = client.map(|name| {
            format!(", certificate = {:?}, key = {:?}", path(&format!("{name}.pem")), path(&format!("{name}.key")))
        });
        format!("tls = {{ ca = {:?}{} }}", path("ca.pem"), client.unwrap_or_default())
    }

    /// Reads and writes on the listener, which `at` names; `source` are more lines of the source.
    pub fn project(&self, run: &Queues, at: &str, source: &str) -> Project {
        let (port, input, output) = (&self.port, run.input(), run.output());
        let (user, rest) = at.rsplit_once('@').map_or(("", at), |(user, rest)| (user, rest));
        let (host, vhost) = rest.split_once('/').unwrap_or((rest, "%2f"));
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let config = format!(
            r#"
            admin = "127.0.0.1:0"
            [source.secured]
            kind = "amqp"
            url = "amqps://{user}{host}:{port}/{vhost}"
            {source}
            [service.it.function.f]
            code = "f.ts"
            [service.it.trigger.t]
            function = "f"
            source = "secured"
            queue = "{input}"
            on_success = {{ amqp = "secured", routing_key = "{output}" }}
            "#
        );
        Project::new(&config).with("f.ts", &case("echo.ts"))
    }
}
