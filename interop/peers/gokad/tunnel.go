package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	drouting "github.com/libp2p/go-libp2p/p2p/discovery/routing"
	dutil "github.com/libp2p/go-libp2p/p2p/discovery/util"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// v1Protocol is PeerTunnel's first protocol: raw bytes, one stream a TCP connection, and the first
	// end of file in either direction closes the stream and the socket.
	v1Protocol = "/peertunnel/1.0.0"
	// findTimeout is what the original gives the search for a peer.
	findTimeout = 30 * time.Second
)

// rendezvous is how the two ends find each other by an id, on a DHT of which one server is given.
type rendezvous struct{ id, bootstrap string }

func (r *rendezvous) flags(flags *flag.FlagSet, name, usage string) {
	flags.StringVar(&r.id, name, "", usage)
	flags.StringVar(&r.bootstrap, "bootstrap", "", "multiaddr of a server of the DHT, with /p2p/ID")
}

// v1Host is a host of the original's kind, with a DHT if it is to use one. The peer's addresses are
// looked for in the DHT when a provider record has none.
func (r *rendezvous) v1Host(listen string) (host.Host, *dht.IpfsDHT, error) {
	options := []libp2p.Option{
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Transport(websocket.New),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.EnableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UserAgent("peertunnel@"),
		libp2p.ProtocolVersion(""),
	}
	if listen == "" {
		options = append(options, libp2p.NoListenAddrs)
	} else {
		options = append(options, libp2p.ListenAddrStrings(listen))
	}
	var made *dht.IpfsDHT
	if r.id != "" {
		options = append(options, libp2p.Routing(func(h host.Host) (routing.PeerRouting, error) {
			var err error
			made, err = dht.New(h, dht.BootstrapPeers())
			return made, err
		}))
	}
	h, err := libp2p.New(options...)
	return h, made, err
}

// join connects to the given server and waits until the DHT knows it.
func (r *rendezvous) join(ctx context.Context, h host.Host, d *dht.IpfsDHT) error {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	first, err := peer.AddrInfoFromString(r.bootstrap)
	if err != nil {
		return err
	}
	if err := h.Connect(ctx, *first); err != nil {
		return err
	}
	if err := d.Bootstrap(ctx); err != nil {
		return err
	}
	return known(ctx, d)
}

// advertise does so until ctx ends, and returns after the first time.
func (r *rendezvous) advertise(ctx context.Context, d *dht.IpfsDHT) error {
	done := make(chan error, 1)
	dutil.Advertise(ctx, watched{drouting.NewRoutingDiscovery(d), done}, namespace+r.id)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find returns the first provider, whether it lives or not, as the original does.
func (r *rendezvous) find(ctx context.Context, d *dht.IpfsDHT) (peer.AddrInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	found, err := drouting.NewRoutingDiscovery(d).FindPeers(ctx, namespace+r.id)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	select {
	case first, ok := <-found:
		if !ok {
			return first, errors.New("no peer found")
		}
		return first, nil
	case <-ctx.Done():
		return peer.AddrInfo{}, ctx.Err()
	}
}

// watched is an advertiser that says how its first time went.
type watched struct {
	discovery.Advertiser
	done chan error
}

func (w watched) Advertise(ctx context.Context, ns string, opts ...discovery.Option) (time.Duration, error) {
	ttl, err := w.Advertiser.Advertise(ctx, ns, opts...)
	select {
	case w.done <- err:
	default:
	}
	return ttl, err
}

func v1Tcp(args []string) error {
	flags := flag.NewFlagSet("v1-tcp", flag.ExitOnError)
	port := flags.Int("port", 0, "port of the service on localhost")
	listen := flags.String("listen", "/ip4/127.0.0.1/tcp/0", "multiaddr to listen on")
	var meet rendezvous
	meet.flags(flags, "advertise", "id to be found by")
	_ = flags.Parse(args)
	ctx, stop := untilSignal()
	defer stop()
	h, d, err := meet.v1Host(*listen)
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(v1Protocol, func(stream network.Stream) {
		socket, err := net.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(*port)))
		if err != nil {
			log.Println("target:", err)
			_ = stream.Reset()
			return
		}
		v1Splice(socket, stream)
	})
	if d != nil {
		if err := meet.join(ctx, h, d); err != nil {
			return err
		}
		if err := meet.advertise(ctx, d); err != nil {
			return err
		}
	}
	say(map[string]any{"ready": true, "id": h.ID().String(), "multiaddr": listening(h)})
	<-ctx.Done()
	return nil
}

// v1Bind is the side of the client. As the original, it opens its streams without allowing limited
// connections: through a relay that limits circuits, they wait up to 10 s for a direct connection,
// which can come only from the other side, and only to the address of --at.
func v1Bind(args []string) error {
	flags := flag.NewFlagSet("v1-bind", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "HOST:PORT to accept clients on")
	to := flags.String("peer", "", "multiaddr of the exposer, with /p2p/ID")
	at := flags.String("at", "", "multiaddr to be dialed back on; the original has one on every address")
	var meet rendezvous
	meet.flags(flags, "find", "id of the exposer, instead of --peer")
	_ = flags.Parse(args)
	ctx, stop := untilSignal()
	defer stop()
	h, d, err := meet.v1Host(*at)
	if err != nil {
		return err
	}
	defer h.Close()
	var exposer peer.AddrInfo
	if d == nil {
		first, err := peer.AddrInfoFromString(*to)
		if err != nil {
			return err
		}
		exposer = *first
	} else {
		if err := meet.join(ctx, h, d); err != nil {
			return err
		}
		if exposer, err = meet.find(ctx, d); err != nil {
			return err
		}
	}
	if err := h.Connect(ctx, exposer); err != nil {
		return err
	}
	server, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	say(map[string]any{
		"ready": true, "listen": server.Addr().String(), "exposer": told(exposer),
	})
	for {
		socket, err := server.Accept()
		if err != nil {
			return nil
		}
		go func() {
			stream, err := h.NewStream(ctx, exposer.ID, v1Protocol)
			if err != nil {
				log.Println("stream:", err)
				_ = socket.Close()
				return
			}
			v1Splice(socket, stream)
		}()
	}
}

// v1Splice closes both ends as soon as one direction ends, for whatever reason.
func v1Splice(socket net.Conn, stream network.Stream) {
	ended := make(chan struct{}, 2)
	pump := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from)
		ended <- struct{}{}
	}
	go pump(stream, socket)
	go pump(socket, stream)
	<-ended
	_ = stream.Close()
	_ = socket.Close()
}

// listening is the address that the host listens on, with its id.
func listening(h host.Host) string {
	for _, address := range h.Network().ListenAddresses() {
		if _, err := address.ValueForProtocol(ma.P_CIRCUIT); err != nil {
			return fmt.Sprintf("%s/p2p/%s", address, h.ID())
		}
	}
	return ""
}

func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}
