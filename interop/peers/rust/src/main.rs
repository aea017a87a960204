//! Our own rust-libp2p peer: TCP, Noise and yamux, nothing else.
//!
//! It answers the contract every peer of the interop matrix answers: `listen`, `dial` and `version`.
//! Standard output carries one JSON line for each fact; everything else goes to standard error.

mod serve;
mod streams;
mod tests;

use std::{collections::HashMap, error::Error, process::ExitCode, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identify, noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;

pub type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: peer listen --ip A | dial --to MULTIADDR --test NAME [--bytes N] \
                     [--streams N] [--idle S] [--timeout S] [--unsigned] | version";

/// More streams than any test holds: limits are not what is tested.
const MAX_STREAMS: usize = 4096;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: streams::Behaviour,
}

pub fn new_swarm(streams: streams::Behaviour) -> Result<Swarm<Behaviour>, Failure> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            || {
                let mut config = yamux::Config::default();
                config.set_max_num_streams(MAX_STREAMS);
                config
            },
        )?
        .with_behaviour(|key| Behaviour {
            identify: identify::Behaviour::new(
                // No signed record: rust-libp2p signs a form of it that nobody else accepts.
                identify::Config::new("interop/1.0.0".into(), key.public())
                    .with_agent_version("interop-peer-rust".into()),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_millis(100)),
            ),
            streams,
        })?
        .with_swarm_config(|config| config.with_max_negotiating_inbound_streams(MAX_STREAMS))
        .build();
    Ok(swarm)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let command = args.first().map(String::as_str);
    let outcome = match (command, flags(args.get(1..).unwrap_or_default())) {
        (Some("listen"), Ok(flags)) => listen(&flags).await,
        (Some("dial"), Ok(flags)) => dial(&flags).await,
        (Some("version"), Ok(_)) => {
            println!(
                "{}",
                json!({"implementation": "rust-libp2p", "version": locked_version()})
            );
            Ok(true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn listen(flags: &HashMap<String, String>) -> Result<bool, Failure> {
    let ip = flags.get("ip").map_or("127.0.0.1", String::as_str);
    let (behaviour, _, inbound) = streams::pair(vec![serve::ECHO, serve::RESET]);
    let mut swarm = new_swarm(behaviour)?;
    swarm.listen_on(format!("/ip4/{ip}/tcp/0").parse()?)?;
    tokio::spawn(serve::run(inbound));
    let id = *swarm.local_peer_id();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                swarm.add_external_address(address.clone());
                println!("{}", json!({"multiaddr": format!("{address}/p2p/{id}")}));
            }
            SwarmEvent::ConnectionClosed {
                cause: Some(cause), ..
            } => eprintln!("closed: {cause}"),
            _ => {}
        }
    }
}

async fn dial(flags: &HashMap<String, String>) -> Result<bool, Failure> {
    let name = flags.get("test").map_or("ping", String::as_str);
    let to: Multiaddr = flags.get("to").ok_or("--to is missing")?.parse()?;
    let options = tests::Options {
        bytes: number(flags, "bytes", 64 << 20)?,
        streams: number(flags, "streams", 1000)?,
        idle: number(flags, "idle", 12.0)?,
    };
    let limit = Duration::from_secs_f64(number(flags, "timeout", 60.0)?);
    let outcome = match tokio::time::timeout(limit, tests::run(name, to, options)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not done after {} s", limit.as_secs_f64()).into()),
    };
    let ok = outcome.is_ok();
    let detail = outcome.unwrap_or_else(|error| error.to_string());
    println!("{}", json!({"test": name, "ok": ok, "detail": detail}));
    Ok(ok)
}

fn flags(args: &[String]) -> Result<HashMap<String, String>, Failure> {
    let mut found = HashMap::new();
    let mut rest = args.iter();
    while let Some(name) = rest.next() {
        let name = name.strip_prefix("--").ok_or("flags begin with --")?;
        let value = if name == "unsigned" {
            String::new()
        } else {
            rest.next().ok_or("a flag has no value")?.clone()
        };
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn number<T>(flags: &HashMap<String, String>, name: &str, default: T) -> Result<T, Failure>
where
    T: std::str::FromStr<Err: Error + Send + Sync + 'static>,
{
    Ok(match flags.get(name) {
        Some(text) => text.parse()?,
        None => default,
    })
}

/// The version of the libp2p crate this binary was built with.
fn locked_version() -> &'static str {
    include_str!("../Cargo.lock")
        .split("[[package]]")
        .find_map(|package| {
            package
                .trim()
                .strip_prefix("name = \"libp2p\"\nversion = \"")
        })
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("unknown")
}
