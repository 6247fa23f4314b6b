//! Files, environment and flags become validated [`Settings`].
//!
//! Four layers, each over the one before: built-in defaults, TOML files in the order given, environment variables that
//! begin with `LAGLESS__`, and `KEY=VALUE` overrides from the command line. Tables are merged key by key; lists, rules,
//! secrets and plain values are replaced whole. What can be written is documented at the types of [`mod@file`].
//!
//! What always holds: nothing is ignored. An unknown key, a value of the wrong kind, or a combination that cannot be
//! honoured is an error that names where it was set, the key, and what is allowed; as many errors as can be found are
//! reported at once. Secrets reach no error and no printed setting.
//!
//! Deliberately unknown here: brokers, the network, and whether a function's code file exists.
//!
//! # Environment variables
//!
//! `LAGLESS__SERVICE__SHOP__FUNCTION__TOTAL__TIMEOUT=2s` sets `service.shop.function.total.timeout`. Segments are parted
//! by two underscores and compared without regard to case, `-` and `_` being equal, with the known keys and with the
//! names that the files define; a variable that names none of them is an error. Below `env` the key is taken exactly as
//! written, below `client` it is made a librdkafka name: `..__CLIENT__SECURITY_PROTOCOL` sets `security.protocol`.
//! Variables with one underscore (`LAGLESS_HOME`) are no configuration.
//!
//! # Overrides
//!
//! `service.shop.function.total.timeout=2s`: keys exactly as in a file, parted by dots. New names may be introduced.
//! Everything after `client.` is one librdkafka name, dots included.
//!
//! # Values in variables and overrides
//!
//! What the key expects decides: for texts (durations, sizes, names, `env`, `client`) the value is taken as it stands,
//! unless it is a quoted TOML string or an inline table such as `{ env = "NAME" }`. Elsewhere it is read as a TOML value
//! (number, boolean, array, inline table, quoted string) and, where it is none, as text.
//!
//! # Paths
//!
//! A relative path belongs to the folder of the file that set it, or to the working directory when a variable or an
//! override did.

mod choice;
mod error;
pub mod file;
mod form;
mod keys;
mod load;
mod place;
mod resolve;
mod routing_key;
mod schema;
mod settings;
mod show;
mod suggest;
mod tls;
mod toml_layer;
mod units;
mod values;

#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigErrors};
pub use load::{Sources, load};
pub use place::{KeyPath, Place};
pub use routing_key::{KeyPart, ROUTING_KEY_MAX, RoutingKey};
pub use settings::*;
pub use show::show;
pub use tls::{Certificates, ClientCertificate, Identity, TlsFlaw, TlsSettings};
