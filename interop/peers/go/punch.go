package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
)

// punchReady bounds the wait until the host knows where it is seen: from then on it punches.
const punchReady = 15 * time.Second

// punch is a peer behind a NAT that punches holes (DCUtR): reached through a relay, or dialing
// through it. It says multiaddr when it can be reached, relayed and direct with the address and the
// seconds when it has such a connection; who dials ends with a ping over the direct one.
func punch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("punch", flag.ExitOnError)
	relay := flags.String("relay", "", "multiaddr of the relay")
	quic := flags.Bool("quic", false, "QUIC instead of TCP")
	to := flags.String("to", "", "circuit address of the peer to dial")
	timeout := flags.Float64("timeout", 30, "seconds until there is a direct connection")
	_ = flags.Parse(args)
	through := ""
	if *to == "" {
		through = *relay
	}
	h, err := newPunchHost(*quic, through)
	if err != nil {
		return err
	}
	defer h.Close()
	seen := watch(h)
	if _, err := connect(ctx, h, *relay); err != nil {
		return err
	}
	if err := punches(ctx, h); err != nil {
		return err
	}
	if *to != "" {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(*timeout*float64(time.Second)))
		defer cancel()
		return punchDial(ctx, h, *to, seen)
	}
	addresses, err := reserved(ctx, h, *relay)
	if err != nil {
		return err
	}
	report(map[string]any{"multiaddr": addresses[0]})
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case conn := <-seen:
			tell(conn, began)
		}
	}
}

// newPunchHost shares its listening port with its dials, unlike newHost.
func newPunchHost(quic bool, through string) (host.Host, error) {
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
	listen := "/ip4/0.0.0.0/tcp/0"
	if quic {
		listen = "/ip4/0.0.0.0/udp/0/quic-v1"
	}
	options := []libp2p.Option{
		libp2p.ListenAddrStrings(listen),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(limits),
		libp2p.EnableRelay(),
		libp2p.EnableHolePunching(),
		libp2p.ForceReachabilityPrivate(),
		libp2p.DisableMetrics(),
		libp2p.UserAgent("interop-peer-go"),
	}
	return libp2p.New(append(options, reachedThrough(through)...)...)
}

// watch gives every connection, the relay's own among them.
func watch(h host.Host) <-chan network.Conn {
	seen := make(chan network.Conn, 64)
	h.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, conn network.Conn) { seen <- conn },
	})
	return seen
}

// punches waits until the host serves DCUtR, which is when it knows a public address of its own.
func punches(ctx context.Context, h host.Host) error {
	ctx, cancel := context.WithTimeout(ctx, punchReady)
	defer cancel()
	for !slices.Contains(h.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return errors.New("no public address of ours is known")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func punchDial(ctx context.Context, h host.Host, to string, seen <-chan network.Conn) error {
	address, err := multiaddr.NewMultiaddr(to)
	if err != nil {
		return err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := h.Connect(network.WithAllowLimitedConn(ctx, "interop"), *info); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not direct: %w", ctx.Err())
		case conn := <-seen:
			if conn.RemotePeer() != info.ID {
				continue
			}
			tell(conn, began)
			began = time.Now()
			if !isCircuit(conn.RemoteMultiaddr()) {
				return (<-ping.Ping(ctx, h, info.ID)).Error
			}
		}
	}
}

func tell(conn network.Conn, began time.Time) {
	name := "direct"
	if isCircuit(conn.RemoteMultiaddr()) {
		name = "relayed"
	}
	report(map[string]any{
		name: conn.RemoteMultiaddr().String(), "seconds": time.Since(began).Seconds(),
		"peer": conn.RemotePeer().String(),
	})
}
