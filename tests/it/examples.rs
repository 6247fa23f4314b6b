//! The examples run: what needs no broker as their pages say, the pipelines between the real brokers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lapin::ExchangeKind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::kafka::Kafka;
use crate::harness::project::Project;
use crate::harness::rabbit::Rabbit;
use crate::harness::wait::{SOON, eventually};
use crate::harness::worker::Worker;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("examples")).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// An example with keys set from the environment, as whoever runs it elsewhere does.
struct Example {
    config: PathBuf,
    keys: Vec<(String, String)>,
    /// Where it runs.
    project: Project,
}

impl Example {
    fn new(name: &str, keys: &[(&str, String)]) -> Self {
        let config = root().join("examples").join(name).join("lagless.toml");
        let name = |key: &str| format!("LAGLESS__{}", key.replace('.', "__").to_uppercase());
        let mut keys: Vec<_> = keys.iter().map(|(key, value)| (name(key), value.clone())).collect();
        keys.push((name("admin"), "127.0.0.1:0".to_owned()));
        keys.push((name("source.kafka.brokers"), Kafka::shared().brokers));
        keys.push((name("source.rabbit.url"), Rabbit::shared().url));
        Self { config, keys, project: Project::new("") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.project.command(&[args, &["-c", self.config.to_str().unwrap()]].concat());
        command.envs(self.keys.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Starts it once everything is found where it must be.
    fn start(&self) -> Worker {
        Worker::start(self.command(&["check", "--connect"]), Stdio::null()).end().expect_code(0);
        Worker::start(self.command(&["run"]), Stdio::null())
    }
}

fn end(worker: Worker) {
    worker.signal(Signal::SIGTERM);
    worker.end().expect_code(0);
}

fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

#[test]
fn orders_go_from_rabbit_to_kafka() {
    let (kafka, rabbit, name) = (Kafka::shared(), Rabbit::shared(), unique("audit"));
    kafka.create_topic(&name, 1);
    let bind = format!("[{{ exchange = \"{name}\", type = \"topic\", routing_key = \"order.*.created\" }}]");
    let trigger = "service.audit.trigger.created";
    let example = Example::new(
        "rabbit-to-kafka",
        &[
            (&format!("{trigger}.queue"), name.clone()),
            (&format!("{trigger}.bind"), bind),
            (&format!("{trigger}.on_success.topic"), name.clone()),
        ],
    );
    let mut worker = example.start();
    worker.until_logged("consuming");
    for (region, id) in [("eu", "o-1"), ("us", "o-2"), ("eu", "o-3")] {
        let body = json!({ "id": id }).to_string();
        rabbit.publish(&name, &format!("order.{region}.created"), [body].into_iter());
    }
    worker.until_metric("lagless_subscription_settled_total", "", |settled| settled == 3.0);
    let records: Vec<Value> = kafka.values(&name).iter().map(|value| serde_json::from_str(value).unwrap()).collect();
    let orders: Vec<(&Value, &Value)> =
        records.iter().map(|record| (&record["order"], &record["routing_key"])).collect();
    let key = json!("order.eu.created");
    assert_eq!(orders, [(&json!("o-1"), &key), (&json!("o-3"), &key)]);
    assert_eq!(rabbit.ready(&name), Some(0));
    end(worker);
}

#[test]
fn alarms_go_from_kafka_to_rabbit() {
    let (kafka, rabbit, name) = (Kafka::shared(), Rabbit::shared(), unique("alarms"));
    let failed = format!("{name}.failed");
    kafka.create_topic(&name, 1);
    rabbit.create_exchange(&name, ExchangeKind::Topic);
    rabbit.create_queue(&name, &[]);
    rabbit.bind_queue(&name, &name, "alarm.#");
    rabbit.create_queue(&failed, &[]);
    // The position of the new group is where the topic begins, so the readings may be there before the worker.
    let readings = std::fs::read_to_string(root().join("examples/kafka-to-rabbit/readings.jsonl")).unwrap();
    kafka.produce(&name, readings.lines().map(|line| (String::new(), line.to_owned())));
    let trigger = "service.alarms.trigger.hot";
    let example = Example::new(
        "kafka-to-rabbit",
        &[
            (&format!("{trigger}.topics"), name.clone()),
            (&format!("{trigger}.group"), name.clone()),
            (&format!("{trigger}.on_success.exchange"), name.clone()),
            (&format!("{trigger}.on_failure.routing_key"), failed.clone()),
        ],
    );
    let worker = example.start();
    rabbit.until_ready(&name, 1);
    rabbit.until_ready(&failed, 1);
    eventually("committed offsets", SOON, || {
        let progress = kafka.progress(&name, &name).map_err(|error| error.to_string())?;
        if progress == [(3, 3)] { Ok(()) } else { Err(format!("{progress:?}")) }
    });
    end(worker);
    let alarms = rabbit.take_all(&name);
    let alarm: Value = serde_json::from_slice(&alarms[0].data).unwrap();
    assert_eq!((alarms.len(), &alarm["text"]), (1, &json!("boiler is at 96.5 degrees")));
    let letters = rabbit.take_all(&failed);
    assert_eq!((letters.len(), letters[0].data.as_slice()), (1, br#"{"celsius":120}"#.as_slice()));
}

/// The commands of a page's code blocks.
fn commands(page: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut commands = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if (is_code || line.starts_with("    ")) && line.contains("lagless ") {
            commands.push(line.trim());
        }
    }
    commands
}

#[test]
fn the_commands_of_the_pages_that_need_no_broker_work_as_they_stand() {
    let folder = Path::new(env!("CARGO_BIN_EXE_lagless")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for example in examples() {
        let page = std::fs::read_to_string(example.join("README.md")).unwrap();
        let is_local = |line: &&str| {
            ["--stdin", "lagless invoke"].iter().any(|word| line.contains(word))
                || line.contains("lagless check") && !line.contains("--connect")
        };
        let local: Vec<&str> = commands(&page).into_iter().filter(is_local).collect();
        assert!(!local.is_empty(), "{} shows nothing to try without a broker", example.display());
        for line in local {
            let mut command = Command::new("sh");
            command.args(["-c", line]).current_dir(root()).env("PATH", &path);
            let ended = Worker::start(command, Stdio::null()).end();
            assert!(ended.expect_code(0).stdout.len() > 1, "{line}: {ended:?}");
        }
    }
}

#[test]
fn every_example_is_valid_and_has_a_page() {
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let config = example.join("lagless.toml");
        Project::new("").lagless(&["check", "-c", config.to_str().unwrap()]).expect_code(0);
        assert!(example.join("README.md").exists(), "{}", example.display());
    }
}
