// Command goautonat is a go-libp2p peer for AutoNAT v2: a server, which relays as well, and a client that
// asks once.
//
// Standard output carries one JSON line for each fact; everything else goes to standard error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const usage = `usage: goautonat COMMAND [flags]
  serve --ip A                               AutoNAT v2 server and relay, TCP and QUIC
  ask --to MA --own MA [--quic] [--port P]   ask a server whether our address can be dialed`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	commands := map[string]func(context.Context, []string) error{"serve": serve, "ask": ask}
	command, known := commands[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "goautonat:", err)
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

// at is where to listen.
func at(ip string, port int, quic bool) string {
	if quic {
		return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", ip, port)
	}
	return fmt.Sprintf("/ip4/%s/tcp/%d", ip, port)
}

func newHost(listen []string, more ...libp2p.Option) (host.Host, error) {
	options := []libp2p.Option{
		libp2p.ListenAddrStrings(listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.UserAgent("interop-peer-go"),
	}
	return libp2p.New(append(options, more...)...)
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address to listen on")
	_ = flags.Parse(args)
	h, err := newHost(
		[]string{at(*ip, 4200, false), at(*ip, 4200, true)},
		libp2p.EnableAutoNATv2(),
		libp2p.EnableRelayService(),
		// its dialer takes UDP to be blocked before others have used it
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.ForceReachabilityPublic(),
	)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, address := range h.Network().ListenAddresses() {
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
	h, err := newHost([]string{at("0.0.0.0", *port, *quic)}, libp2p.DisableRelay())
	if err != nil {
		return err
	}
	defer h.Close()
	dialer, err := newHost(nil, libp2p.DisableRelay())
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
			"address":   result.Addr.String(),
			"reachable": result.Reachability == network.ReachabilityPublic,
			"refused":   result.AllAddrsRefused,
		})
		return nil
	}
	return ctx.Err()
}
