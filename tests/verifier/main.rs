//! The verifier as a program: `cargo run --example verify -- --brokers HOST:PORT --in TOPIC --out TOPIC`.

use std::process::ExitCode;

use clap::Parser;

#[path = "mod.rs"]
mod verifier;

/// Compare an input topic of numbered messages with the results in an output topic; exit with 1 where something is wrong
#[derive(Parser)]
struct Args {
    /// Servers as host:port, with commas between
    #[arg(long)]
    brokers: String,
    /// The topic with messages {"key": "k1", "seq": 7}
    #[arg(long = "in")]
    input: String,
    /// The topic with results {"key": "k1", "seq": 7, "attempt": 1, "started_us": 1}
    #[arg(long = "out")]
    output: String,
    /// Results may overtake each other
    #[arg(long)]
    unordered: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let read = verifier::topic::sent(&args.brokers, &args.input)
        .and_then(|input| Ok((input, verifier::topic::returned(&args.brokers, &args.output)?)));
    match read {
        Ok((input, output)) => {
            let report = verifier::compare(&input, &output);
            print!("{report}");
            let passed = report.is_complete() && (args.unordered || report.is_in_order());
            ExitCode::from(u8::from(!passed))
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::from(2)
        }
    }
}
