//! Our own rust-libp2p peer: TCP with Noise and yamux, QUIC, circuit relay v2, and DCUtR, nothing else.
//!
//! It answers the contract every peer of the interop matrix answers: `listen`, `dial`, `relay` and
//! `version`; `punch` is asked for by interop.dcutr.
//! Standard output carries one JSON line for each fact; everything else goes to standard error.

mod punch;
mod serve;
mod streams;
mod tests;

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    process::ExitCode,
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
    tcp, yamux,
};
use serde_json::json;

pub type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: peer listen --ip A [--quic] [--no-listen] [--relay MA,…] \
                     | dial --to MULTIADDR --test NAME [--bytes N] [--streams N] [--idle S] \
                     [--timeout S] [--unsigned] \
                     | relay --ip A [--port P] [--unlimited | --duration S --data BYTES] \
                     | punch --relay MA [--quic] [--to MULTIADDR] [--timeout S] \
                     | version";

/// More streams, reservations and circuits than any test makes: limits are not what is tested.
const MANY: usize = 4096;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    relay_server: Toggle<relay::Behaviour>,
    streams: streams::Behaviour,
}

pub fn new_swarm(
    streams: streams::Behaviour,
    server: Option<relay::Config>,
) -> Result<Swarm<Behaviour>, Failure> {
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MANY);
        config
    };
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            muxer,
        )?
        .with_quic_config(|mut config| {
            config.max_concurrent_stream_limit = MANY as u32;
            config
        })
        .with_relay_client(noise::Config::new, muxer)?
        .with_behaviour(|key, relay_client| Behaviour {
            identify: identify::Behaviour::new(
                // No signed record: rust-libp2p signs a form of it that nobody else accepts.
                identify::Config::new("interop/1.0.0".into(), key.public())
                    .with_agent_version("interop-peer-rust".into()),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_millis(100)),
            ),
            relay_client,
            relay_server: server
                .map(|config| relay::Behaviour::new(key.public().to_peer_id(), config))
                .into(),
            streams,
        })?
        .with_swarm_config(|config| config.with_max_negotiating_inbound_streams(MANY))
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
        (Some("relay"), Ok(flags)) => serve_relay(&flags).await,
        (Some("punch"), Ok(flags)) => punch::run(&flags).await,
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
    let mut swarm = new_swarm(behaviour, None)?;
    if !ip.is_empty() && !flags.contains_key("no-listen") {
        let transport = if flags.contains_key("quic") {
            "udp/0/quic-v1"
        } else {
            "tcp/0"
        };
        swarm.listen_on(format!("/ip4/{ip}/{transport}").parse()?)?;
    }
    let relays = flags.get("relay").map_or("", String::as_str);
    for relay in relays.split(',').filter(|text| !text.is_empty()) {
        swarm.listen_on(relay.parse::<Multiaddr>()?.with(Protocol::P2pCircuit))?;
    }
    tokio::spawn(serve::run(inbound));
    stay(swarm, !relays.is_empty()).await
}

/// A relay with rust-libp2p's limits or others: seconds a circuit may last, and bytes it may carry
/// in both directions together. There is no relay without limits: `--unlimited` stands for the
/// longest possible duration and for a data limit of 0, which it does not apply, and its STATUS
/// carries just that as a limit, not none.
async fn serve_relay(flags: &HashMap<String, String>) -> Result<bool, Failure> {
    let ip = flags.get("ip").map_or("127.0.0.1", String::as_str);
    let port = number(flags, "port", 0_u16)?;
    let (duration, data) = if flags.contains_key("unlimited") {
        (u32::MAX.into(), 0)
    } else {
        (
            number(flags, "duration", 120)?,
            number(flags, "data", 1 << 17)?,
        )
    };
    let config = relay::Config {
        max_reservations: MANY,
        max_reservations_per_peer: MANY,
        reservation_rate_limiters: vec![],
        max_circuits: MANY,
        max_circuits_per_peer: MANY,
        max_circuit_duration: Duration::from_secs(duration),
        max_circuit_bytes: data,
        circuit_src_rate_limiters: vec![],
        ..relay::Config::default()
    };
    let (behaviour, _, _) = streams::pair(vec![]);
    let mut swarm = new_swarm(behaviour, Some(config))?;
    swarm.listen_on(format!("/ip4/{ip}/tcp/{port}").parse()?)?;
    stay(swarm, false).await
}

/// Drives a swarm for good and says where it is reachable: through relays, each named once, or else
/// at its own addresses, which are reachable as they are.
async fn stay(mut swarm: Swarm<Behaviour>, through_relays: bool) -> Result<bool, Failure> {
    let id = *swarm.local_peer_id();
    let mut named = HashSet::new();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                let relay = address.iter().find_map(|part| match part {
                    Protocol::P2p(relay) if relay != id => Some(relay),
                    _ => None,
                });
                if relay.is_none() {
                    swarm.add_external_address(address.clone());
                }
                if relay.is_some() == through_relays && named.insert(relay) {
                    let address = address.with_p2p(id).unwrap_or_else(|address| address);
                    println!("{}", json!({"multiaddr": address.to_string()}));
                }
            }
            SwarmEvent::ListenerClosed {
                reason: Err(error), ..
            } => return Err(error.into()),
            SwarmEvent::OutgoingConnectionError { error, .. } => eprintln!("connect: {error}"),
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
        let value = if ["unsigned", "no-listen", "unlimited", "quic"].contains(&name) {
            String::new()
        } else {
            rest.next().ok_or("a flag has no value")?.clone()
        };
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

pub fn number<T>(flags: &HashMap<String, String>, name: &str, default: T) -> Result<T, Failure>
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
