// Command gonat is a go-libp2p peer behind a NAT: it punches holes (DCUtR), and it answers AutoNAT v2.
//
// Standard output carries one JSON line for each fact; everything else goes to standard error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const usage = `usage: gonat COMMAND [flags]
  listen --relay MA [--quic]        reserve at the relay, and punch holes to who comes over it
  dial --to MA [--quic]             connect over a relay, and be punched to
  autonat --ip A                    AutoNAT v2 server, TCP and QUIC
  ask --to MA --own MA              ask the AutoNAT v2 server whether our address can be dialed`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	commands := map[string]func(context.Context, []string) error{
		"listen": listen, "dial": dial, "autonat": autonat, "ask": ask,
	}
	command, known := commands[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "gonat:", err)
		os.Exit(1)
	}
}

func report(facts map[string]any) {
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// tracer reports what the hole punching service does.
type tracer struct{}

func (tracer) Trace(evt *holepunch.Event) {
	report(map[string]any{"trace": evt.Type, "peer": evt.Remote.String(), "what": evt.Evt})
}

func newHost(listen []string, more ...libp2p.Option) (host.Host, error) {
	options := []libp2p.Option{
		libp2p.ListenAddrStrings(listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.EnableRelay(),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.UserAgent("interop-peer-go"),
	}
	return libp2p.New(append(options, more...)...)
}

// at is where to listen.
func at(ip string, port int, quic bool) string {
	if quic {
		return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", ip, port)
	}
	return fmt.Sprintf("/ip4/%s/tcp/%d", ip, port)
}

// punching are the options of a host that is behind a NAT and knows it.
func punching(static ...peer.AddrInfo) []libp2p.Option {
	options := []libp2p.Option{
		libp2p.EnableHolePunching(holepunch.WithTracer(tracer{})),
		libp2p.ForceReachabilityPrivate(),
	}
	if len(static) > 0 {
		options = append(options, libp2p.EnableAutoRelayWithStaticRelays(
			static, autorelay.WithBackoff(2*time.Second), autorelay.WithMinInterval(time.Second),
		))
	}
	return options
}

// watch reports each connection that is not through a relay, and the time since `begun`.
func watch(h host.Host, begun func() time.Time) {
	h.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, conn network.Conn) {
			relayed := isCircuit(conn.RemoteMultiaddr())
			report(map[string]any{
				"connected": conn.RemoteMultiaddr().String(),
				"peer":      conn.RemotePeer().String(),
				"relayed":   relayed,
				"outbound":  conn.Stat().Direction == network.DirOutbound,
				"seconds":   time.Since(begun()).Seconds(),
			})
		},
	})
	h.SetStreamHandler("/interop/echo/1.0.0", func(stream network.Stream) {
		_, _ = io.Copy(stream, stream)
		_ = stream.Close()
	})
}

func listen(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("listen", flag.ExitOnError)
	relay := flags.String("relay", "", "multiaddr of the relay")
	quic := flags.Bool("quic", false, "QUIC instead of TCP")
	port := flags.Int("port", 4200, "port to listen on")
	_ = flags.Parse(args)
	info, err := peer.AddrInfoFromString(*relay)
	if err != nil {
		return err
	}
	h, err := newHost([]string{at("0.0.0.0", *port, *quic)}, punching(*info)...)
	if err != nil {
		return err
	}
	defer h.Close()
	begun := time.Now()
	watch(h, func() time.Time { return begun })
	updates, err := h.EventBus().Subscribe(new(event.EvtAutoRelayAddrsUpdated))
	if err != nil {
		return err
	}
	defer updates.Close()
	for {
		select {
		case <-ctx.Done():
			return errors.New("no reservation in time")
		case update := <-updates.Out():
			if len(update.(event.EvtAutoRelayAddrsUpdated).RelayAddrs) > 0 {
				report(map[string]any{
					"multiaddr": fmt.Sprintf("%s/p2p-circuit/p2p/%s", *relay, h.ID()),
				})
				<-ctx.Done()
				return nil
			}
		}
	}
}

func dial(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("dial", flag.ExitOnError)
	to := flags.String("to", "", "circuit address of the peer")
	quic := flags.Bool("quic", false, "QUIC instead of TCP")
	port := flags.Int("port", 4200, "port to listen on")
	_ = flags.Parse(args)
	target, err := peer.AddrInfoFromString(*to)
	if err != nil {
		return err
	}
	h, err := newHost([]string{at("0.0.0.0", *port, *quic)}, punching()...)
	if err != nil {
		return err
	}
	defer h.Close()
	begun := time.Now()
	watch(h, func() time.Time { return begun })
	// the relay first: its identify tells us where we are seen
	first, _ := multiaddr.SplitFunc(multiaddr.StringCast(*to), func(c multiaddr.Component) bool {
		return c.Protocol().Code == multiaddr.P_CIRCUIT
	})
	relay, err := peer.AddrInfoFromP2pAddr(first)
	if err != nil {
		return err
	}
	if err := h.Connect(ctx, *relay); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // the service looks for our addresses every 250 ms
	begun = time.Now()
	if err := h.Connect(ctx, *target); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func autonat(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("autonat", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address to listen on")
	_ = flags.Parse(args)
	h, err := newHost(
		[]string{at(*ip, 4200, false), at(*ip, 4200, true)},
		libp2p.EnableAutoNATv2(),
		// its dialer takes UDP to be blocked before others have used it
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.ForceReachabilityPublic(),
	)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, address := range h.Network().ListenAddresses() {
		if isCircuit(address) {
			continue
		}
		report(map[string]any{"multiaddr": fmt.Sprintf("%s/p2p/%s", address, h.ID())})
	}
	<-ctx.Done()
	return nil
}

func ask(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ask", flag.ExitOnError)
	to := flags.String("to", "", "multiaddr of the server")
	own := flags.String("own", "", "the address in question")
	quic := flags.Bool("quic", false, "QUIC instead of TCP")
	port := flags.Int("port", 4200, "port to listen on")
	_ = flags.Parse(args)
	address, err := multiaddr.NewMultiaddr(*own)
	if err != nil {
		return err
	}
	server, err := peer.AddrInfoFromString(*to)
	if err != nil {
		return err
	}
	h, err := newHost([]string{at("0.0.0.0", *port, *quic)})
	if err != nil {
		return err
	}
	defer h.Close()
	dialer, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	defer dialer.Close()
	nat, err := autonatv2.New(dialer)
	if err != nil {
		return err
	}
	if err := nat.Start(h); err != nil {
		return err
	}
	defer nat.Close()
	if err := h.Connect(ctx, *server); err != nil {
		return err
	}
	for ctx.Err() == nil {
		result, err := nat.GetReachability(
			ctx, []autonatv2.Request{{Addr: address, SendDialData: true}},
		)
		if errors.Is(err, autonatv2.ErrNoPeers) {
			time.Sleep(50 * time.Millisecond) // it learns of the server from identify
			continue
		}
		if err != nil {
			return err
		}
		report(map[string]any{
			"address": result.Addr.String(), "reachability": result.Reachability.String(),
			"refused": result.AllAddrsRefused,
		})
		return nil
	}
	return ctx.Err()
}

func isCircuit(address multiaddr.Multiaddr) bool {
	_, err := address.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}
