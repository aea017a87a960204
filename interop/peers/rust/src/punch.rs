//! A peer behind a NAT that punches holes (DCUtR): reached through a relay, or dialing through it.
//!
//! It says `multiaddr` when it can be reached, `relayed` and `direct` with the address and the
//! seconds when it has such a connection; who dials ends with a ping over the direct one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, dcutr, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;

use crate::{Failure, number};

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
}

type Event = SwarmEvent<BehaviourEvent>;

pub async fn run(flags: &HashMap<String, String>) -> Result<bool, Failure> {
    let limit = Duration::from_secs_f64(number(flags, "timeout", 30.0)?);
    let to = flags.get("to").map(|text| text.parse()).transpose()?;
    let relay: Multiaddr = flags.get("relay").ok_or("--relay is missing")?.parse()?;
    let mut swarm = new_swarm()?;
    let own = if flags.contains_key("quic") {
        "udp/0/quic-v1"
    } else {
        "tcp/0"
    };
    swarm.listen_on(format!("/ip4/0.0.0.0/{own}").parse()?)?;
    until(&mut swarm, |event| {
        matches!(event, SwarmEvent::NewListenAddr { .. })
    })
    .await?;
    meet(&mut swarm, &relay).await?;
    let Some(to) = to else {
        return listen(swarm, relay).await;
    };
    match tokio::time::timeout(limit, dial(&mut swarm, to)).await {
        Ok(outcome) => outcome.map(|()| true),
        Err(_) => Err(format!("not direct after {} s", limit.as_secs_f64()).into()),
    }
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
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_millis(100)),
            ),
            relay_client,
            dcutr: dcutr::Behaviour::new(key.public().to_peer_id()),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build())
}

async fn until(
    swarm: &mut Swarm<Behaviour>,
    found: impl Fn(&Event) -> bool,
) -> Result<(), Failure> {
    loop {
        let event = swarm.select_next_some().await;
        if let SwarmEvent::OutgoingConnectionError { error, .. } = &event {
            return Err(format!("connect: {error}").into());
        }
        if found(&event) {
            return Ok(());
        }
    }
}

/// Connects to the relay and waits until it has said where it sees us, and knows who we are.
async fn meet(swarm: &mut Swarm<Behaviour>, relay: &Multiaddr) -> Result<(), Failure> {
    swarm.dial(relay.clone())?;
    let mut told = (false, false);
    while told != (true, true) {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                ..
            })) => {
                told.0 = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. })) => {
                told.1 = true;
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                return Err(format!("relay: {error}").into());
            }
            _ => {}
        }
    }
    Ok(())
}

async fn listen(mut swarm: Swarm<Behaviour>, relay: Multiaddr) -> Result<bool, Failure> {
    let id = *swarm.local_peer_id();
    let circuit = relay.with(Protocol::P2pCircuit);
    swarm.listen_on(circuit.clone())?;
    let accepted = |event: &Event| {
        matches!(
            event,
            SwarmEvent::Behaviour(BehaviourEvent::RelayClient(
                relay::client::Event::ReservationReqAccepted { .. }
            ))
        )
    };
    until(&mut swarm, accepted).await?;
    println!(
        "{}",
        json!({"multiaddr": circuit.with(Protocol::P2p(id)).to_string()})
    );
    let began = Instant::now();
    loop {
        let event = swarm.select_next_some().await;
        tell(&event, None, began);
    }
}

async fn dial(swarm: &mut Swarm<Behaviour>, to: Multiaddr) -> Result<(), Failure> {
    let Some(Protocol::P2p(peer)) = to.iter().last() else {
        return Err("the multiaddr must end in /p2p/ID".into());
    };
    swarm.dial(to)?;
    let mut began = Instant::now();
    let mut direct = None;
    loop {
        let event = swarm.select_next_some().await;
        match tell(&event, Some(peer), began) {
            Some((_, true)) => began = Instant::now(),
            Some((connection, false)) => direct = Some(connection),
            None => {}
        }
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                connection,
                result: Ok(_),
                ..
            })) if Some(connection) == direct => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } if direct.is_none() => {
                eprintln!("connect: {error}");
            }
            _ => {}
        }
    }
}

/// Says so when there is a connection (with `peer`, if given): its id, and whether it is relayed.
fn tell(event: &Event, peer: Option<PeerId>, began: Instant) -> Option<(ConnectionId, bool)> {
    match event {
        SwarmEvent::ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint,
            ..
        } if peer.is_none_or(|wanted| wanted == *peer_id) => {
            let relayed = endpoint.is_relayed();
            let name = if relayed { "relayed" } else { "direct" };
            println!(
                "{}",
                json!({
                    name: endpoint.get_remote_address().to_string(),
                    "seconds": began.elapsed().as_secs_f64(),
                })
            );
            Some((*connection_id, relayed))
        }
        SwarmEvent::Behaviour(BehaviourEvent::Dcutr(event)) => {
            eprintln!("dcutr: {event:?}");
            None
        }
        _ => None,
    }
}
