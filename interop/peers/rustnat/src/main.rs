//! A rust-libp2p peer behind a NAT: it reserves at a relay or dials over one, and DCUtR does the rest.
//!
//! Standard output carries one JSON line for each fact; everything else goes to standard error.

use std::{
    collections::HashMap,
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, dcutr, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: rustnat listen --relay MULTIADDR [--port P] [--quic] \
                     | dial --to CIRCUIT [--port P] [--quic]";

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
}

fn new_swarm() -> Result<Swarm<Behaviour>, Failure> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay_client| Behaviour {
            identify: identify::Behaviour::new(
                identify::Config::new("interop/1.0.0".into(), key.public())
                    .with_agent_version("interop-peer-rust".into()),
            ),
            ping: ping::Behaviour::new(ping::Config::new()),
            relay_client,
            dcutr: dcutr::Behaviour::new(key.public().to_peer_id()),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build())
}

fn flags(args: &[String]) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = args.iter().peekable();
    while let Some(word) = rest.next() {
        let name = word.trim_start_matches("--").to_string();
        let value = match rest.peek() {
            Some(next) if !next.starts_with("--") => rest.next().cloned().unwrap_or_default(),
            _ => String::new(),
        };
        found.insert(name, value);
    }
    found
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = flags(args.get(1..).unwrap_or_default());
    let listens = match args.first().map(String::as_str) {
        Some("listen") => true,
        Some("dial") => false,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(listens, &options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rustnat: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(listens: bool, options: &HashMap<String, String>) -> Result<(), Failure> {
    let port = options.get("port").map_or("4400", String::as_str);
    let at = if options.contains_key("quic") {
        format!("/ip4/0.0.0.0/udp/{port}/quic-v1")
    } else {
        format!("/ip4/0.0.0.0/tcp/{port}")
    };
    let given = if listens { "relay" } else { "to" };
    let target: Multiaddr = options.get(given).ok_or(USAGE)?.parse()?;
    let relay: Multiaddr = target
        .iter()
        .take_while(|part| !matches!(part, Protocol::P2pCircuit))
        .collect();
    let mut swarm = new_swarm()?;
    swarm.listen_on(at.parse()?)?;
    // The listener has to be there before the relay is dialed, which is to be from its port.
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await
            && !address.to_string().contains("127.0.0.1")
        {
            break;
        }
    }
    swarm.dial(relay.clone())?;
    let mut begun = Instant::now();
    let (mut told, mut learned, mut went) = (false, false, false);
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } => println!(
                "{}",
                json!({
                    "connected": endpoint.get_remote_address().to_string(),
                    "peer": peer_id.to_string(),
                    "relayed": endpoint.is_relayed(),
                    "outbound": endpoint.is_dialer(),
                    "seconds": begun.elapsed().as_secs_f64(),
                })
            ),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. })) => {
                told = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                info,
                ..
            })) => {
                eprintln!("observed as {}", info.observed_addr);
                learned = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::RelayClient(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => println!(
                "{}",
                json!({
                    "multiaddr": relay
                        .clone()
                        .with(Protocol::P2pCircuit)
                        .with(Protocol::P2p(*swarm.local_peer_id()))
                        .to_string()
                })
            ),
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => println!(
                "{}",
                json!({"trace": format!("{:?}", event.result), "peer": event.remote_peer_id.to_string()})
            ),
            other => eprintln!("{other:?}"),
        }
        if told && learned && !went {
            went = true;
            begun = Instant::now();
            if listens {
                swarm.listen_on(relay.clone().with(Protocol::P2pCircuit))?;
            } else {
                swarm.dial(target.clone())?;
            }
        }
    }
}
