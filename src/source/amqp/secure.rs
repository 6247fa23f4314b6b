//! Connections over TLS: the handshake, and words for what goes wrong in it or right after it.
//!
//! A server's certificate must come from an authority that the system or `tls.ca` names, and be for the host of the URL.
//! With TLS 1.3 the client has finished before the server has looked at the client's certificate, so a refusal of that
//! one comes as an alert on a connection that seems to stand already.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_rs::Runtime;
use async_rs::traits::RuntimeKit;
use lapin::tcp::AMQPUriTcpExt as _;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use crate::config::{Certificates, TlsSettings};

/// `X509_V_ERR_HOSTNAME_MISMATCH` and `X509_V_ERR_IP_ADDRESS_MISMATCH`, which the wrapper has no names for.
const OTHER_NAME: [i32; 2] = [62, 64];
/// What an alert of the peer is numbered from in OpenSSL's reasons (`SSL_AD_REASON_OFFSET`), up to the next thousand.
const ALERTS: std::ops::Range<i32> = 1000..2000;
/// OpenSSL's number for itself among the libraries that report errors (`ERR_LIB_SSL`).
const LIB_SSL: i32 = 20;

/// Why there is no connection over TLS.
#[derive(Debug)]
enum TlsFailure {
    /// The server's certificate is not taken.
    Server { verdict: X509VerifyResult, host: String },
    /// The handshake came to no end for another reason.
    Handshake(io::Error),
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { verdict, host } if OTHER_NAME.contains(&verdict.as_raw()) => write!(
                f,
                "the server's certificate is for another name than {host}: check the host in `url`; still trying"
            ),
            Self::Server { verdict, .. } => write!(
                f,
                "the server's certificate is not trusted ({}): check `tls.ca`; still trying",
                verdict.error_string()
            ),
            Self::Handshake(error) => match alert(error) {
                Some(reason) => f.write_str(&refused(&reason)),
                None => {
                    write!(f, "TLS failed ({error}): check that the port in `url` is one for TLS; still trying")
                }
            },
        }
    }
}

impl std::error::Error for TlsFailure {}

/// Connects as the URL says, with TLS or without.
pub(super) async fn connect<RK: RuntimeKit + Clone + Send + Sync + 'static>(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: &TlsSettings,
    runtime: Runtime<RK>,
) -> Result<Connection, ConnectError> {
    if uri.scheme != AMQPScheme::AMQPS {
        return Ok(Connection::connect_uri_with_runtime(uri, properties, runtime).await?);
    }
    let certificates = tls.read().map_err(|flaw| ConnectError::Flaw(format!("{flaw}; still trying")))?;
    let verdict = Arc::new(Mutex::new(None));
    let connector = connector(certificates, verdict.clone())
        .map_err(|error| ConnectError::Flaw(format!("`tls` is not taken by OpenSSL: {error}")))?;
    let handshake = async move |uri: AMQPUri, runtime: Runtime<RK>| {
        // Without TLS yet: that comes below, by a connector of our own.
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
        let stream = plain.connect_async(&runtime).await?;
        let host = uri.authority.host;
        stream.into_openssl(&connector, &host).await.map_err(|error| {
            let verdict = verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
            let failure = match verdict {
                Some(verdict) => TlsFailure::Server { verdict, host },
                None => TlsFailure::Handshake(error),
            };
            io::Error::other(failure).into()
        })
    };
    Ok(Connection::connector(uri, runtime, handshake, properties).await?)
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// Of the files, in words.
    Flaw(String),
    Client(lapin::Error),
}

impl From<lapin::Error> for ConnectError {
    fn from(error: lapin::Error) -> Self {
        Self::Client(error)
    }
}

/// `verdict` gets what speaks against the server's certificate.
fn connector(
    certificates: Certificates,
    verdict: Arc<Mutex<Option<X509VerifyResult>>>,
) -> Result<SslConnector, ErrorStack> {
    // Trusts what the system trusts, and wants the certificate to be for the host.
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    for authority in certificates.authorities {
        builder.cert_store_mut().add_cert(authority)?;
    }
    if let Some(client) = certificates.client {
        builder.set_certificate(&client.certificate)?;
        for certificate in client.chain {
            builder.add_extra_chain_cert(certificate)?;
        }
        builder.set_private_key(&client.key)?;
    }
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_good, context| {
        if !is_good {
            verdict.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(context.error());
        }
        is_good
    });
    Ok(builder.build())
}

/// One sentence about an error of a connection, where it is one of TLS.
pub(super) fn explain(error: &io::Error) -> Option<String> {
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<TlsFailure>()).map(ToString::to_string);
    failure.or_else(|| alert(error).map(|reason| refused(&reason)))
}

fn refused(reason: &str) -> String {
    format!(
        "the server has refused the client in the TLS handshake ({reason}): check `tls.certificate` and `tls.key`, and \
         that the server trusts who has signed the certificate; still trying"
    )
}

/// What the peer has broken off with, in OpenSSL's words.
fn alert(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
    let alert = error
        .ssl_error()?
        .errors()
        .iter()
        .find(|error| error.library_code() == LIB_SSL && ALERTS.contains(&error.reason_code()))?;
    Some(alert.reason().map_or_else(|| format!("alert {}", alert.reason_code() - ALERTS.start), str::to_owned))
}
