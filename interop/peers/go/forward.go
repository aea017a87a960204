package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
)

// forwardProtocol carries one TCP connection a stream: raw bytes, half-close as half-close, reset as reset.
const forwardProtocol = "/bench/forward/1.0.0"

func forwardExpose(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("forward-expose", flag.ExitOnError)
	target := flags.String("target", "", "HOST:PORT of the service")
	listen := flags.String("listen", "/ip4/127.0.0.1/tcp/0", "multiaddr to listen on")
	relays := flags.String("relay", "", "multiaddrs of relays to reserve at, comma between them")
	buffer := flags.Int("buffer", 128<<10, "bytes of each copy buffer")
	_ = flags.Parse(args)
	h, err := newHost(*listen, reachedThrough(*relays)...)
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(forwardProtocol, func(stream network.Stream) {
		socket, err := net.Dial("tcp", *target)
		if err != nil {
			log.Println("target:", err)
			_ = stream.Reset()
			return
		}
		splice(socket.(*net.TCPConn), stream, *buffer)
	})
	address := fullAddress(h)
	if *relays != "" {
		circuits, err := reserved(ctx, h, *relays)
		if err != nil {
			return err
		}
		address = circuits[0]
	}
	report(map[string]any{"ready": true, "multiaddr": address})
	<-ctx.Done()
	return nil
}

func forwardBind(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("forward-bind", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "HOST:PORT to accept clients on")
	to := flags.String("peer", "", "multiaddr of the exposer, with /p2p/ID")
	buffer := flags.Int("buffer", 128<<10, "bytes of each copy buffer")
	_ = flags.Parse(args)
	h, err := newHost("")
	if err != nil {
		return err
	}
	defer h.Close()
	id, err := connect(ctx, h, *to)
	if err != nil {
		return err
	}
	limited := network.WithAllowLimitedConn(ctx, "benchmark")
	return accept(ctx, *listen, func(socket *net.TCPConn) {
		stream, err := h.NewStream(limited, id, forwardProtocol)
		if err != nil {
			log.Println("stream:", err)
			abort(socket)
			return
		}
		splice(socket, stream, *buffer)
	})
}

// accept listens, says so, and gives each TCP connection to its own goroutine until ctx ends.
func accept(ctx context.Context, address string, handle func(*net.TCPConn)) error {
	server, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	report(map[string]any{"ready": true, "listen": server.Addr().String()})
	for {
		socket, err := server.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		go handle(socket.(*net.TCPConn))
	}
}

// splice copies both ways until both directions ended; an error of either resets both ends.
func splice(socket *net.TCPConn, stream network.Stream, buffer int) {
	failed := make(chan bool, 2)
	go func() {
		_, err := io.CopyBuffer(writerOnly{stream}, readerOnly{socket}, make([]byte, buffer))
		if err == nil {
			err = stream.CloseWrite()
		}
		failed <- err != nil
	}()
	go func() {
		_, err := io.CopyBuffer(writerOnly{socket}, readerOnly{stream}, make([]byte, buffer))
		if err == nil {
			err = socket.CloseWrite()
		}
		failed <- err != nil
	}()
	for range 2 {
		if <-failed {
			_ = stream.Reset()
			abort(socket)
			return
		}
	}
	_ = stream.Close()
	_ = socket.Close()
}

// abort closes a TCP connection with RST.
func abort(socket *net.TCPConn) {
	_ = socket.SetLinger(0)
	_ = socket.Close()
}
