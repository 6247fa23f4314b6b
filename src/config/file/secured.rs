//! What can be written about secured connections.

use std::path::PathBuf;

use serde::Deserialize;

/// `tls = { ca = "ca.pem", certificate = "client.pem", key = "client.key" }`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    /// Certificates in PEM form of authorities to trust besides those of the system.
    pub ca: Option<PathBuf>,
    /// The client's certificate in PEM form, for servers that want one; intermediate ones may follow it.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate` in PEM form, not encrypted.
    pub key: Option<PathBuf>,
}

/// `oauth_token = { file = "token" }` or `{ command = ["program", "argument"] }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthTokenFile {
    /// A file that holds the token and nothing else. It is read each time a token is needed.
    pub file: Option<PathBuf>,
    /// A program with its arguments that prints the token and nothing else within ten seconds. It is run each time a
    /// token is needed. One with a `/` in it is a path like any other here, one without is looked for in `PATH`.
    #[serde(default)]
    pub command: Vec<String>,
}
