//! The handlers of the interop contract.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Stream, StreamProtocol};

use crate::streams::Inbound;

pub const ECHO: StreamProtocol = StreamProtocol::new("/interop/echo/1.0.0");
pub const RESET: StreamProtocol = StreamProtocol::new("/interop/reset/1.0.0");

pub type Token = [u8; 16];

/// How each watched stream ended, by the token its opener sent.
type Outcomes = Arc<Mutex<HashMap<Token, u8>>>;

pub async fn run(mut inbound: Inbound) {
    let outcomes = Outcomes::default();
    while let Some((protocol, stream)) = inbound.next().await {
        let outcomes = outcomes.clone();
        tokio::spawn(async move {
            let done = if protocol == ECHO {
                echo(stream).await
            } else {
                reset(stream, outcomes).await
            };
            if let Err(error) = done {
                eprintln!("{protocol}: {error}");
            }
        });
    }
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}

/// Serves the reset protocol. The opener sends one command byte and a token of 16 bytes: `R` asks
/// for a reset, `W` (answered `k`) makes us note how the opener ends the stream, and `Q` asks what
/// was noted: `r` a reset, `e` an end of file, `p` nothing yet.
async fn reset(mut stream: Stream, outcomes: Outcomes) -> io::Result<()> {
    let mut command = [0; 1];
    let mut token: Token = [0; 16];
    stream.read_exact(&mut command).await?;
    stream.read_exact(&mut token).await?;
    let note = |outcome| {
        outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, outcome);
    };
    match command[0] {
        b'W' => {
            note(b'p');
            stream.write_all(b"k").await?;
            stream.flush().await?;
            note(if ended_by_reset(&mut stream).await {
                b'r'
            } else {
                b'e'
            });
            Ok(())
        }
        b'Q' => {
            let noted = outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&token)
                .copied()
                .unwrap_or(b'p');
            stream.write_all(&[noted]).await?;
            stream.close().await
        }
        // Dropped without a close: that is a reset on yamux. On QUIC it is an end of file together
        // with STOP_SENDING, and rust-libp2p has no other way to give up a stream.
        _ => Ok(()),
    }
}

/// Reads to the end and tells a reset from an end of file.
///
/// rust-yamux reads both as 0 bytes, and on QUIC rust-libp2p resets by an end of file with
/// STOP_SENDING; but after a mere end of file the other direction still takes data.
pub async fn ended_by_reset(stream: &mut Stream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return true,
        }
    }
    stream.write_all(b"?").await.is_err() || stream.flush().await.is_err()
}
