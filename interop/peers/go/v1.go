package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"
	"strconv"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// v1Protocol is PeerTunnel's first protocol: raw bytes, one stream a TCP connection, and the first
// end of file in either direction closes the stream and the socket.
const v1Protocol = "/peertunnel/1.0.0"

func v1Host(listen string) (host.Host, error) {
	return newHost(listen, libp2p.UserAgent("peertunnel@"), libp2p.ProtocolVersion(""))
}

func v1Tcp(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("v1-tcp", flag.ExitOnError)
	port := flags.Int("port", 0, "port of the service on localhost")
	listen := flags.String("listen", "/ip4/127.0.0.1/tcp/0", "multiaddr to listen on")
	_ = flags.Parse(args)
	h, err := v1Host(*listen)
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
	report(map[string]any{"ready": true, "multiaddr": fullAddress(h)})
	<-ctx.Done()
	return nil
}

// v1Bind is the side of the client. As the original, it opens its streams without allowing limited
// connections: through a relay that limits circuits, they wait up to 10 s for a direct connection,
// which can come only from the other side, and only to the address of --at.
func v1Bind(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("v1-bind", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "HOST:PORT to accept clients on")
	to := flags.String("peer", "", "multiaddr of the exposer, with /p2p/ID")
	at := flags.String("at", "", "multiaddr to be dialed back on; the original has one on every address")
	_ = flags.Parse(args)
	h, err := v1Host(*at)
	if err != nil {
		return err
	}
	defer h.Close()
	id, err := connect(ctx, h, *to)
	if err != nil {
		return err
	}
	return accept(ctx, *listen, func(socket *net.TCPConn) {
		stream, err := h.NewStream(ctx, id, v1Protocol)
		if err != nil {
			log.Println("stream:", err)
			_ = socket.Close()
			return
		}
		v1Splice(socket, stream)
	})
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
