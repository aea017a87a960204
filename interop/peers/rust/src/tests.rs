//! The tests a dialer runs.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream,
};
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm, identify, multiaddr::Protocol, ping, swarm::SwarmEvent,
};
use sha2::{Digest as _, Sha256};

use crate::{
    Behaviour, BehaviourEvent, Failure, new_swarm,
    serve::{self, ECHO, RESET, Token},
    streams::{self, Opener},
};

/// Streams being opened together: Go and rust refuse more than 256 that are not acknowledged yet.
const OPEN_AT_ONCE: usize = 64;
/// Fits the limit of a public relay, with everything else that goes over a circuit.
const ECHO_SMALL_BYTES: usize = 32 << 10;
/// Small beside any limit, so that the count says where the end came.
const CUTOFF_BLOCK: usize = 4 << 10;
/// Fits the initial yamux window of 256 KiB in both directions.
const HALF_CLOSE_BYTES: usize = 128 << 10;
const WANTED: [&str; 4] = [
    "/ipfs/ping/1.0.0",
    "/ipfs/id/1.0.0",
    "/interop/echo/1.0.0",
    "/interop/reset/1.0.0",
];

pub struct Options {
    pub bytes: usize,
    pub streams: usize,
    pub idle: f64,
}

pub async fn run(name: &str, to: Multiaddr, options: Options) -> Result<String, Failure> {
    let Some(Protocol::P2p(peer)) = to.iter().last() else {
        return Err("the multiaddr must end in /p2p/ID".into());
    };
    let (behaviour, opener, _inbound) = streams::pair(vec![]);
    let mut swarm = new_swarm(behaviour, None)?;
    swarm.dial(to.clone())?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => break,
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                return Err(format!("connect: {error}").into());
            }
            _ => {}
        }
    }
    match name {
        "ping" => return test_ping(&mut swarm, peer).await,
        "identify" => return test_identify(&mut swarm, peer, &to).await,
        _ => {}
    }
    let test = async {
        match name {
            "echo64" => test_echo(&opener, peer, options.bytes).await,
            "echosmall" => test_echo(&opener, peer, ECHO_SMALL_BYTES).await,
            "cutoff" => test_cutoff(&opener, peer, options.bytes).await,
            "streams1000" => test_streams(&opener, peer, options.streams).await,
            "halfclose" => test_half_close(&opener, peer).await,
            "reset" => test_reset(&opener, peer).await,
            "idle" => test_idle(&opener, peer, options.idle).await,
            _ => Err(format!("unknown test {name:?}").into()),
        }
    };
    let cutoff = name == "cutoff";
    let drive = async {
        loop {
            match swarm.select_next_some().await {
                // Its end is what that test waits for; the stream tells it.
                SwarmEvent::ConnectionClosed { peer_id, .. } if peer_id == peer && cutoff => {}
                SwarmEvent::ConnectionClosed { cause, .. } => {
                    return Err(format!("the connection closed: {cause:?}").into());
                }
                _ => {}
            }
        }
    };
    futures::select_biased! {
        outcome = test.fuse() => outcome,
        outcome = drive.fuse() => outcome,
    }
}

async fn test_ping(swarm: &mut Swarm<Behaviour>, peer: PeerId) -> Result<String, Failure> {
    let mut best = Duration::MAX;
    let mut count = 0;
    while count < 5 {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer: pinged,
                result,
                ..
            })) if pinged == peer => {
                best = best.min(result?);
                count += 1;
            }
            SwarmEvent::ConnectionClosed { cause, .. } => {
                return Err(format!("the connection closed: {cause:?}").into());
            }
            _ => {}
        }
    }
    Ok(format!("5 pings, best {} us", best.as_micros()))
}

async fn test_identify(
    swarm: &mut Swarm<Behaviour>,
    peer: PeerId,
    to: &Multiaddr,
) -> Result<String, Failure> {
    let info = loop {
        match swarm.select_next_some().await {
            // A relay on the way is identified, too.
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) if peer_id == peer => break info,
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Error {
                peer_id,
                error,
                ..
            })) if peer_id == peer => return Err(format!("identify: {error}").into()),
            SwarmEvent::ConnectionClosed { cause, .. } => {
                return Err(format!("the connection closed: {cause:?}").into());
            }
            _ => {}
        }
    };
    if info.agent_version.is_empty() {
        return Err("no agent version".into());
    }
    for wanted in WANTED {
        if !info
            .protocols
            .iter()
            .any(|offered| offered.as_ref() == wanted)
        {
            return Err(format!("protocol {wanted} is missing in {:?}", info.protocols).into());
        }
    }
    if info.public_key.to_peer_id() != peer {
        return Err("the public key does not belong to the peer id".into());
    }
    let circuit = |address: &Multiaddr| address.iter().any(|part| part == Protocol::P2pCircuit);
    let quic = |address: &Multiaddr| address.iter().any(|part| part == Protocol::QuicV1);
    let ours = local_ip(to)?;
    let observed: Vec<Protocol> = info.observed_addr.iter().collect();
    match observed[..] {
        // What a peer sees of us is the relay, and rust-libp2p says nothing but our own id.
        [] if circuit(to) => {}
        [Protocol::P2p(id)] if circuit(to) && id == *swarm.local_peer_id() => {}
        _ if circuit(to) && circuit(&info.observed_addr) => {}
        // js-libp2p appends our own peer id to the address it observed.
        [Protocol::Ip4(ip), Protocol::Tcp(port)]
        | [Protocol::Ip4(ip), Protocol::Tcp(port), Protocol::P2p(_)]
            if !circuit(to) && !quic(to) && ip == ours && port != 0 => {}
        [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1]
        | [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1, Protocol::P2p(_)]
            if quic(to) && ip == ours && port != 0 => {}
        _ => {
            return Err(format!("observed address {} is not ours", info.observed_addr).into());
        }
    }
    if info.listen_addrs.is_empty() {
        return Err("no listen address".into());
    }
    // rust-libp2p's identify ignores records in the standard form, so there is none to check here.
    Ok(format!(
        "agent {}, {} protocols, {} addresses",
        info.agent_version,
        info.protocols.len(),
        info.listen_addrs.len()
    ))
}

/// Our address on the way to the peer. Connecting a UDP socket asks the routes and sends nothing.
fn local_ip(to: &Multiaddr) -> Result<std::net::Ipv4Addr, Failure> {
    let Some(Protocol::Ip4(remote)) = to.iter().next() else {
        return Err("only /ip4 is dialed".into());
    };
    let probe = UdpSocket::bind(("0.0.0.0", 0))?;
    probe.connect((remote, 9))?;
    match probe.local_addr()?.ip() {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(_) => Err("no IPv4 address".into()),
    }
}

async fn test_echo(opener: &Opener, peer: PeerId, size: usize) -> Result<String, Failure> {
    let began = Instant::now();
    let (mut reader, mut writer) = opener.open(peer, ECHO).await?.split();
    let send = async {
        let mut hash = Sha256::new();
        let mut block = vec![0; 64 << 10];
        let mut state = began.elapsed().as_nanos() as u64 | 1;
        let mut left = size;
        while left > 0 {
            block.truncate(left);
            fill(&mut block, &mut state);
            hash.update(&block);
            writer.write_all(&block).await?;
            left -= block.len();
        }
        writer.close().await?;
        Ok::<_, Failure>(hash.finalize())
    };
    let receive = async {
        let mut hash = Sha256::new();
        let mut count = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = reader.read(&mut buffer).await?;
            if got == 0 {
                return Ok::<_, Failure>((hash.finalize(), count));
            }
            hash.update(&buffer[..got]);
            count += got;
        }
    };
    let (sent, (received, count)) = futures::try_join!(send, receive)?;
    if count != size || sent != received {
        return Err(format!(
            "{count} bytes of {size} came back, hash equal: {}",
            sent == received
        )
        .into());
    }
    let seconds = began.elapsed().as_secs_f64();
    let hash: String = sent[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{size} bytes, sha256 {hash}…, {seconds:.2} s"))
}

/// Has block after block echoed until the relay cuts the circuit, and says how the end looks and
/// after how many bytes, in each direction, it came.
async fn test_cutoff(opener: &Opener, peer: PeerId, size: usize) -> Result<String, Failure> {
    let mut stream = opener.open(peer, ECHO).await?;
    let mut block = [0; CUTOFF_BLOCK];
    for count in (0..size).step_by(CUTOFF_BLOCK) {
        let round_trip = async {
            stream.write_all(&block).await?;
            stream.flush().await?;
            stream.read_exact(&mut block).await
        };
        if let Err(error) = round_trip.await {
            return Ok(match error.kind() {
                std::io::ErrorKind::UnexpectedEof => format!("{count} bytes, then an end of file"),
                _ => format!("{count} bytes, then: {error}"),
            });
        }
    }
    Err(format!("all {size} bytes came back: nothing cut the circuit").into())
}

/// Fills with the output of a xorshift generator: cheap, and no block is like another.
fn fill(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

async fn test_streams(opener: &Opener, peer: PeerId, count: usize) -> Result<String, Failure> {
    let began = Instant::now();
    let mut held: Vec<Stream> = stream::iter(0..count)
        .map(|index| async move {
            let mut stream = opener.open(peer, ECHO).await?;
            round_trip(&mut stream, &format!("hello {index}")).await?;
            Ok::<_, Failure>(stream)
        })
        .buffer_unordered(OPEN_AT_ONCE)
        .try_collect()
        .await?;
    // All are open now: each must still be alive, and each must end cleanly.
    for (index, stream) in held.iter_mut().enumerate() {
        round_trip(stream, &format!("again {index}")).await?;
    }
    for stream in &mut held {
        stream.close().await?;
    }
    for stream in &mut held {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        if !rest.is_empty() {
            return Err(format!("a stream ended with {rest:?}").into());
        }
    }
    Ok(format!(
        "{count} streams, {:.2} s",
        began.elapsed().as_secs_f64()
    ))
}

async fn round_trip(stream: &mut Stream, text: &str) -> Result<(), Failure> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    if back != text.as_bytes() {
        return Err(format!("sent {text:?}, got {back:?}").into());
    }
    Ok(())
}

async fn test_half_close(opener: &Opener, peer: PeerId) -> Result<String, Failure> {
    let mut stream = opener.open(peer, ECHO).await?;
    let mut data = vec![0; HALF_CLOSE_BYTES];
    fill(&mut data, &mut 88172645463325252);
    stream.write_all(&data).await?;
    stream.close().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await?;
    if back != data {
        return Err(format!(
            "{} bytes of {} came back after the close",
            back.len(),
            data.len()
        )
        .into());
    }
    Ok(format!(
        "{} bytes read after the write side was closed",
        back.len()
    ))
}

async fn test_reset(opener: &Opener, peer: PeerId) -> Result<String, Failure> {
    let token: Token = PeerId::random().to_bytes()[2..18].try_into()?;
    let mut stream = ask(opener, peer, b'R', &token).await?;
    if !serve::ended_by_reset(&mut stream).await {
        return Err("expected a reset from the peer, got an end of file".into());
    }
    let mut stream = ask(opener, peer, b'W', &token).await?;
    stream.read_exact(&mut [0; 1]).await?;
    drop(stream);
    for _ in 0..100 {
        let mut answer = Vec::new();
        let mut stream = ask(opener, peer, b'Q', &token).await?;
        stream.read_to_end(&mut answer).await?;
        stream.close().await?;
        match answer[..] {
            [b'r'] => return Ok("peer's reset seen, ours seen by the peer".into()),
            [b'p'] => tokio::time::sleep(Duration::from_millis(50)).await,
            [b'e'] => return Err("the peer took our reset for an end of file".into()),
            _ => return Err(format!("query answered {answer:?}").into()),
        }
    }
    Err("the peer never noticed our reset".into())
}

async fn ask(opener: &Opener, peer: PeerId, command: u8, token: &Token) -> Result<Stream, Failure> {
    let mut stream = opener.open(peer, RESET).await?;
    stream.write_all(&[&[command], &token[..]].concat()).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn test_idle(opener: &Opener, peer: PeerId, seconds: f64) -> Result<String, Failure> {
    let mut stream = opener.open(peer, ECHO).await?;
    round_trip(&mut stream, "before").await?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    round_trip(&mut stream, "after").await?;
    Ok(format!("alive after {seconds} idle seconds"))
}
