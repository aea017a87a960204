package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
)

const (
	echoProtocol  = "/interop/echo/1.0.0"
	resetProtocol = "/interop/reset/1.0.0"
	tokenSize     = 16
)

// newHost makes a host with no limits on streams and connections: limits are not what is tested.
func newHost(listen string, more ...libp2p.Option) (host.Host, error) {
	limits, err := rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{
			{Network: netip.MustParsePrefix("0.0.0.0/0"), ConnCount: math.MaxInt},
		}, nil),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}),
	)
	if err != nil {
		return nil, err
	}
	options := []libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Transport(websocket.New),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(limits),
		libp2p.EnableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UserAgent("interop-peer-go"),
	}
	if listen == "" {
		options = append(options, libp2p.NoListenAddrs)
	} else {
		options = append(options, libp2p.ListenAddrStrings(listen))
	}
	return libp2p.New(append(options, more...)...)
}

// fullAddress is the first address the host listens on, with its peer id.
func fullAddress(h host.Host) string {
	for _, address := range h.Network().ListenAddresses() {
		if !isCircuit(address) {
			return fmt.Sprintf("%s/p2p/%s", address, h.ID())
		}
	}
	return "/p2p/" + h.ID().String()
}

// connect parses a multiaddr that ends in /p2p/ID and connects to it.
func connect(ctx context.Context, h host.Host, address string) (peer.ID, error) {
	parsed, err := multiaddr.NewMultiaddr(address)
	if err != nil {
		return "", err
	}
	info, err := peer.AddrInfoFromP2pAddr(parsed)
	if err != nil {
		return "", err
	}
	return info.ID, h.Connect(ctx, *info)
}

// serve registers the handlers of the interop contract; ping and identify are the host's own.
func serve(h host.Host) {
	h.SetStreamHandler(echoProtocol, echo)
	watched := &outcomes{seen: map[[tokenSize]byte]byte{}}
	h.SetStreamHandler(resetProtocol, watched.handle)
}

func echo(stream network.Stream) {
	if _, err := io.CopyBuffer(writerOnly{stream}, readerOnly{stream}, make([]byte, 64<<10)); err != nil {
		_ = stream.Reset()
		return
	}
	_ = stream.Close()
}

// outcomes remembers how each watched stream ended, by the token its opener sent.
type outcomes struct {
	lock sync.Mutex
	seen map[[tokenSize]byte]byte
}

// handle serves the reset protocol. The opener sends one command byte and a token of 16 bytes:
// 'R' asks for a reset, 'W' (answered 'k') makes us note how the opener ends the stream, and 'Q'
// asks what was noted: 'r' a reset, 'e' an end of file, 'p' nothing yet.
func (o *outcomes) handle(stream network.Stream) {
	request := make([]byte, 1+tokenSize)
	if _, err := io.ReadFull(stream, request); err != nil {
		_ = stream.Reset()
		return
	}
	token := [tokenSize]byte(request[1:])
	switch request[0] {
	case 'W':
		o.note(token, 'p')
		if _, err := stream.Write([]byte{'k'}); err != nil {
			o.note(token, 'r')
			return
		}
		if err := endOf(stream); err != nil {
			o.note(token, 'r')
			_ = stream.Reset()
			return
		}
		o.note(token, 'e')
		_ = stream.Close()
	case 'Q':
		_, _ = stream.Write([]byte{o.noted(token)})
		_ = stream.Close()
	default:
		_ = stream.Reset()
	}
}

// endOf reads to the end of a stream and returns an error if that is a reset. rust-libp2p resets a
// QUIC stream by an end of file together with STOP_SENDING; after a mere end of file the other
// direction still takes data.
func endOf(stream network.Stream) error {
	_, err := io.Copy(io.Discard, stream)
	if err == nil {
		_, err = stream.Write([]byte{'?'})
	}
	return err
}

func (o *outcomes) note(token [tokenSize]byte, outcome byte) {
	o.lock.Lock()
	defer o.lock.Unlock()
	o.seen[token] = outcome
}

func (o *outcomes) noted(token [tokenSize]byte) byte {
	o.lock.Lock()
	defer o.lock.Unlock()
	if outcome, ok := o.seen[token]; ok {
		return outcome
	}
	return 'p'
}

// readerOnly and writerOnly hide ReadFrom and WriteTo, so that a copy uses the buffer it was given.
type readerOnly struct{ io.Reader }
type writerOnly struct{ io.Writer }
