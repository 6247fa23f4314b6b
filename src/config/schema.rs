//! Which keys exist, and where names of the user's own stand: the map that unknown keys are held against and that
//! variables are spelled by. The types of [`super::file`] say what the values mean; a test holds the two together.

use ::config::{Value, ValueKind};

use super::error::ConfigError;
use super::place::{KeyPath, Place, is_bare};
use super::toml_layer::KindName;

/// What may stand at one place of the tree.
#[derive(Debug)]
pub(super) enum Node {
    /// A text, or something that is written as one.
    Text,
    /// A number, list, or anything else that is set in one piece.
    Whole,
    Table(Table),
    /// Tables under names that the user chooses.
    Named {
        what: &'static str,
        each: &'static Node,
    },
    /// Texts or secrets under keys that mean something elsewhere.
    Open(OpenKeys),
}

/// Whose the keys of an open table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenKeys {
    /// The function's: kept exactly.
    Function,
    /// librdkafka's: lower case, with dots.
    Librdkafka,
}

#[derive(Debug)]
pub(super) struct Table {
    pub keys: &'static [(&'static str, Node)],
    /// Keys without a default, with what they hold.
    required: &'static [(&'static str, &'static str)],
    /// Keys of the design that cannot be honoured yet.
    planned: &'static [&'static str],
}

impl Table {
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|(key, _)| *key).collect()
    }

    pub fn get(&self, key: &str) -> Option<&'static Node> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, node)| node)
    }

    /// The error for a key that is not among ours.
    pub fn refuse(&self, at: Place, key: &str) -> ConfigError {
        if self.planned.contains(&key) {
            return ConfigError::PlannedKey { at, allowed: self.names().join(", ") };
        }
        ConfigError::unknown_key(at, key, &self.names())
    }
}

impl Node {
    /// Whether a later layer adds to this table, rather than replacing it.
    pub fn is_merged(&self) -> bool {
        !matches!(self, Self::Text | Self::Whole)
    }

    pub fn below(&self, key: &str) -> Option<&'static Node> {
        match self {
            Self::Table(table) => table.get(key),
            Self::Named { each, .. } => Some(each),
            Self::Open(_) => Some(&Self::Text),
            Self::Text | Self::Whole => None,
        }
    }
}

const PROPERTIES: Node = Node::Table(Table {
    keys: &[
        ("content_type", Node::Text),
        ("content_encoding", Node::Text),
        ("type", Node::Text),
        ("app_id", Node::Text),
        ("user_id", Node::Text),
        ("priority", Node::Whole),
        ("expiration", Node::Text),
        ("persistent", Node::Whole),
    ],
    required: &[],
    planned: &[],
});

const SINK: Node = Node::Table(Table {
    keys: &[
        ("kafka", Node::Text),
        ("memory", Node::Text),
        ("amqp", Node::Text),
        ("topic", Node::Text),
        ("exchange", Node::Text),
        ("routing_key", Node::Text),
        ("headers", Node::Whole),
        ("properties", PROPERTIES),
    ],
    required: &[],
    planned: &["http"],
});

static SOURCE: Node = Node::Table(Table {
    keys: &[
        ("kind", Node::Text),
        ("brokers", Node::Whole),
        ("client", Node::Open(OpenKeys::Librdkafka)),
        (
            "oauth_token",
            Node::Table(Table { keys: &[("file", Node::Text), ("command", Node::Whole)], required: &[], planned: &[] }),
        ),
        ("instance_id", Node::Text),
        ("url", Node::Text),
        ("urls", Node::Whole),
        (
            "tls",
            Node::Table(Table {
                keys: &[("ca", Node::Text), ("certificate", Node::Text), ("key", Node::Text)],
                required: &[],
                planned: &[],
            }),
        ),
        ("login", Node::Text),
        ("input", Node::Text),
        ("output", Node::Text),
        ("format", Node::Text),
        ("consumer_timeout", Node::Text),
        ("commit_interval", Node::Text),
        (
            "in_flight",
            Node::Table(Table {
                keys: &[("messages", Node::Whole), ("bytes", Node::Text)],
                required: &[],
                planned: &[],
            }),
        ),
        ("revoke_timeout", Node::Text),
        ("on_out_of_range", Node::Text),
    ],
    required: &[("kind", "\"kafka\", \"amqp\" or \"memory\"")],
    planned: &[],
});

static FUNCTION: Node = Node::Table(Table {
    keys: &[
        ("code", Node::Text),
        ("handler", Node::Text),
        ("memory", Node::Text),
        ("timeout", Node::Text),
        ("start_timeout", Node::Text),
        ("concurrency", Node::Whole),
        (
            "isolates",
            Node::Table(Table {
                keys: &[("min", Node::Whole), ("max", Node::Whole), ("idle", Node::Text)],
                required: &[],
                planned: &[],
            }),
        ),
    ],
    required: &[("code", "the path of the function's TypeScript or JavaScript file")],
    planned: &["cpu"],
});

static TRIGGER: Node = Node::Table(Table {
    keys: &[
        ("function", Node::Text),
        ("source", Node::Text),
        ("topics", Node::Whole),
        ("queue", Node::Text),
        ("declare", Node::Text),
        ("queue_type", Node::Text),
        ("bind", Node::Whole),
        ("arguments", Node::Whole),
        ("consumer_priority", Node::Whole),
        ("on_no_match", Node::Text),
        ("group", Node::Text),
        ("start", Node::Whole),
        ("rule", Node::Whole),
        ("shape", Node::Text),
        ("order", Node::Text),
        ("batch", Node::Table(Table { keys: &[("size", Node::Whole)], required: &[], planned: &["window"] })),
        (
            "retry",
            Node::Table(Table {
                keys: &[("attempts", Node::Whole), ("backoff", Node::Text), ("max_backoff", Node::Text)],
                required: &[],
                planned: &["max_age", "bisect"],
            }),
        ),
        ("on_success", SINK),
        ("on_failure", SINK),
        ("reply", Node::Whole),
        ("on_exhausted", Node::Text),
    ],
    required: &[
        ("function", "the function of this service to call"),
        ("source", "the source whose messages fire the function"),
    ],
    planned: &["when", "map", "invoke"],
});

static SERVICE: Node = Node::Table(Table {
    keys: &[
        ("env", Node::Open(OpenKeys::Function)),
        ("log", Node::Table(Table { keys: &[("level", Node::Text)], required: &[], planned: &[] })),
        ("function", Node::Named { what: "function", each: &FUNCTION }),
        ("trigger", Node::Named { what: "trigger", each: &TRIGGER }),
    ],
    required: &[],
    planned: &["permissions"],
});

/// The whole configuration.
pub(super) static ROOT: Node = Node::Table(Table {
    keys: &[
        ("admin", Node::Text),
        ("drain_timeout", Node::Text),
        ("source", Node::Named { what: "source", each: &SOURCE }),
        ("service", Node::Named { what: "service", each: &SERVICE }),
    ],
    required: &[],
    planned: &[],
});

/// Reports keys that do not belong, keys that are missing, and values where tables should be; and takes what it has
/// reported out of the tree, so that nothing is reported twice.
pub(super) fn check(tree: &mut Value, errors: &mut Vec<ConfigError>) {
    Check { errors }.keep(tree, &ROOT, &KeyPath::default());
}

struct Check<'e> {
    errors: &'e mut Vec<ConfigError>,
}

impl Check<'_> {
    /// Whether the value may stay.
    fn keep(&mut self, value: &mut Value, node: &'static Node, path: &KeyPath) -> bool {
        let at = place_of(value, path);
        let found = KindName(value).to_string();
        let ValueKind::Table(entries) = &mut value.kind else {
            let expected = match node {
                Node::Text | Node::Whole => return true,
                Node::Table(table) => format!("a table with the keys {}", table.names().join(", ")),
                Node::Named { what, .. } => format!("a table for each {what}, such as [{path}.example]"),
                Node::Open(_) => "a table of keys and values".into(),
            };
            self.errors.push(ConfigError::BadValue { at, problem: format!("found {found}; expected {expected}") });
            return false;
        };
        match node {
            Node::Text | Node::Whole | Node::Open(_) => true,
            Node::Table(table) => {
                entries.retain(|key, below| self.keep_entry(table, below, &path.then(key)));
                let missing: Vec<_> = table.required.iter().filter(|(key, _)| !entries.contains_key(*key)).collect();
                let errors = missing.iter().map(|(key, expected)| {
                    let at = at.clone();
                    ConfigError::MissingKey { at, key, expected }
                });
                self.errors.extend(errors);
                missing.is_empty()
            }
            Node::Named { what, each } => {
                entries.retain(|name, below| {
                    let path = path.then(name);
                    self.keep_name(what, below, &path) && self.keep(below, each, &path)
                });
                true
            }
        }
    }

    fn keep_entry(&mut self, table: &'static Table, value: &mut Value, path: &KeyPath) -> bool {
        if let Some(node) = table.get(path.last()) {
            return self.keep(value, node, path);
        }
        self.errors.push(table.refuse(place_of(value, path), path.last()));
        false
    }

    fn keep_name(&mut self, what: &str, value: &Value, path: &KeyPath) -> bool {
        if is_bare(path.last()) {
            return true;
        }
        let problem = format!("not fit for the name of a {what}; allowed: letters, digits, \"_\" and \"-\"");
        self.errors.push(ConfigError::BadValue { at: place_of(value, path), problem });
        false
    }
}

fn place_of(value: &Value, path: &KeyPath) -> Place {
    Place { origin: value.origin().map(str::to_owned), key: path.clone() }
}
