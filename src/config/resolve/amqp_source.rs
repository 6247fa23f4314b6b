//! `[source.NAME]` with `kind = "amqp"`: servers, certificates, and whom we say we are.

use super::Resolver;
use super::source::{kafka_keys, memory_keys};
use crate::config::file::{SecretFile, SourceFile, TlsFile};
use crate::config::place::KeyPath;
use crate::config::settings::{AmqpSettings, Login, Secret};
use crate::config::tls::{ClientCertificate, TlsFlaw, TlsSettings};

impl Resolver<'_> {
    pub(super) fn amqp(&mut self, file: &SourceFile, path: &KeyPath) -> Option<AmqpSettings> {
        self.refuse_keys_of(&memory_keys(file), "memory", path);
        self.refuse_keys_of(&kafka_keys(file), "kafka", path);
        let urls: Vec<(&SecretFile, KeyPath)> = match (&file.url, &file.urls[..]) {
            (Some(url), []) => vec![(url, path.then("url"))],
            (None, urls @ [_, ..]) => urls.iter().map(|url| (url, path.then("urls"))).collect(),
            (Some(_), _) => {
                self.conflict(&path.then("urls"), "is given besides url", "give one of the two");
                return None;
            }
            (None, []) => {
                self.missing(path, "url", "where the server is, such as \"amqp://127.0.0.1:5672/%2f\"");
                return None;
            }
        };
        let found: Vec<_> = urls.iter().filter_map(|(url, key)| self.url(url, key)).collect();
        let login = file.login.unwrap_or(Login::Plain);
        for ((_, key), url) in urls.iter().zip(&found).filter(|_| login == Login::External) {
            self.check_external(url, key);
        }
        if let Some(tls) = &file.tls {
            self.check_use(tls, &found, &path.then("tls"));
        }
        let tls = self.tls(file, path)?;
        (found.len() == urls.len()).then_some(AmqpSettings { urls: found, tls, login })
    }

    /// By certificate, over TLS, and not by password.
    fn check_external(&mut self, url: &Secret, key: &KeyPath) {
        if !is_tls(url) {
            let problem = "login = \"external\" needs TLS, to show the certificate";
            self.conflict(key, problem, "begin the URL with amqps://");
        }
        if has_user(url.reveal()) {
            let problem = "names a user, and login = \"external\" takes the user from the certificate";
            self.conflict(key, problem, "remove the user from the URL, or login");
        }
    }

    fn check_use(&mut self, tls: &TlsFile, urls: &[Secret], path: &KeyPath) {
        let given = tls.ca.is_some() || tls.certificate.is_some() || tls.key.is_some();
        if given && !urls.iter().any(is_tls) {
            self.conflict(path, "has no use without TLS", "begin the URL with amqps://, or remove the key");
        }
    }

    fn tls(&mut self, file: &SourceFile, path: &KeyPath) -> Option<TlsSettings> {
        let at = path.then("tls");
        let none = TlsFile::default();
        let tls = file.tls.as_ref().unwrap_or(&none);
        let client = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: self.path(certificate, &at.then("certificate")),
                key: self.path(key, &at.then("key")),
            }),
            (Some(_), None) => {
                self.missing(&at, "key", "the file with the private key of the certificate");
                return None;
            }
            (None, Some(_)) => {
                self.missing(&at, "certificate", "the file with the certificate that the key is of");
                return None;
            }
            (None, None) => None,
        };
        if client.is_none() && file.login == Some(Login::External) {
            let problem = "is \"external\", and there is no certificate to log in with";
            self.conflict(&path.then("login"), problem, "give tls = { certificate = \"...\", key = \"...\" }");
            return None;
        }
        let settings = TlsSettings { ca: tls.ca.as_ref().map(|ca| self.path(ca, &at.then("ca"))), client };
        if let Err(TlsFlaw { key, problem }) = settings.read() {
            self.unavailable(&at.then(key), problem);
            return None;
        }
        Some(settings)
    }

    /// The text of a bad one is not shown: it may hold a password.
    fn url(&mut self, file: &SecretFile, key: &KeyPath) -> Option<Secret> {
        let secret = self.secret("url", file, key)?;
        let Some((scheme, rest)) = secret.reveal().split_once("://").filter(|(_, rest)| !rest.is_empty()) else {
            self.bad(key, "is no URL; expected amqp://user:password@host:port/vhost");
            return None;
        };
        if scheme != "amqp" && scheme != "amqps" {
            self.bad(key, "has another scheme; expected amqp://user:password@host:port/vhost, or amqps:// for TLS");
            return None;
        }
        Some(if rest.contains('@') { Secret::hidden(secret.reveal()) } else { secret })
    }
}

fn is_tls(url: &Secret) -> bool {
    url.reveal().starts_with("amqps://")
}

fn has_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().is_some_and(|authority| authority.contains('@'))
}
