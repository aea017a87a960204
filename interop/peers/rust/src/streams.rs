//! Raw streams: a behaviour that hands out every inbound stream and opens outbound ones on request.
//!
//! Unlike `libp2p-stream`, it queues inbound streams without a bound instead of dropping them when
//! many arrive in one turn of the loop, which is what a test with 1,000 streams does.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, io,
    task::{Context, Poll},
};

use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
    future::{Ready, ready},
};
use libp2p::{
    InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream, StreamProtocol,
    core::{Endpoint, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

pub type Inbound = mpsc::UnboundedReceiver<(StreamProtocol, Stream)>;
type Answer = oneshot::Sender<io::Result<Stream>>;

/// A wish for one outbound stream.
pub struct Open {
    peer: PeerId,
    protocol: StreamProtocol,
    answer: Answer,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({}, {})", self.peer, self.protocol)
    }
}

/// Opens streams on the connection to a peer.
#[derive(Clone)]
pub struct Opener(mpsc::UnboundedSender<Open>);

impl Opener {
    pub async fn open(&self, peer: PeerId, protocol: StreamProtocol) -> io::Result<Stream> {
        let (answer, stream) = oneshot::channel();
        let wish = Open {
            peer,
            protocol,
            answer,
        };
        self.0
            .unbounded_send(wish)
            .map_err(|_| io::Error::other("the swarm is gone"))?;
        stream
            .await
            .map_err(|_| io::Error::other("the connection is gone"))?
    }
}

/// A behaviour that accepts `protocols`, with the two ends its user holds.
pub fn pair(protocols: Vec<StreamProtocol>) -> (Behaviour, Opener, Inbound) {
    let (wish, wishes) = mpsc::unbounded();
    let (arrived, inbound) = mpsc::unbounded();
    let behaviour = Behaviour {
        protocols,
        arrived,
        wishes,
    };
    (behaviour, Opener(wish), inbound)
}

pub struct Behaviour {
    protocols: Vec<StreamProtocol>,
    arrived: mpsc::UnboundedSender<(StreamProtocol, Stream)>,
    wishes: mpsc::UnboundedReceiver<Open>,
}

impl Behaviour {
    fn handler(&self) -> Handler {
        Handler {
            protocols: self.protocols.clone(),
            arrived: self.arrived.clone(),
            wishes: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.wishes.poll_next_unpin(context) {
            Poll::Ready(Some(wish)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id: wish.peer,
                handler: NotifyHandler::Any,
                event: wish,
            }),
            _ => Poll::Pending,
        }
    }
}

pub struct Handler {
    protocols: Vec<StreamProtocol>,
    arrived: mpsc::UnboundedSender<(StreamProtocol, Stream)>,
    wishes: VecDeque<Open>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Answer;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.protocols.clone()), ())
    }

    fn on_behaviour_event(&mut self, wish: Open) {
        self.wishes.push_back(wish);
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Answer, Infallible>> {
        match self.wishes.pop_front() {
            Some(wish) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Offer(vec![wish.protocol]), wish.answer),
            }),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Answer>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => {
                let _ = self.arrived.unbounded_send(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (_, stream),
                info,
            }) => {
                let _ = info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                let reason = match error {
                    StreamUpgradeError::Io(error) => error,
                    other => io::Error::other(other.to_string()),
                };
                let _ = info.send(Err(reason));
            }
            _ => {}
        }
    }
}

/// Negotiates one of its protocols and gives the bare stream.
pub struct Offer(Vec<StreamProtocol>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (StreamProtocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
