package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
	"golang.org/x/sync/errgroup"
)

// quic-serve and quic-fetch are quic-go itself, without libp2p above its certificates; the package
// interop.quic has the contract.

// quicFacts is what a process tells in the end; it sees all events of its connections.
type quicFacts struct {
	updates, moves atomic.Int64
	cipher         atomic.Value
}

func (f *quicFacts) AddProducer() qlogwriter.Recorder { return f }
func (f *quicFacts) SupportsSchemas(string) bool      { return true }
func (f *quicFacts) Close() error                     { return nil }

func (f *quicFacts) RecordEvent(event qlogwriter.Event) {
	if update, ok := event.(qlog.KeyUpdated); ok && update.Trigger != qlog.KeyUpdateTLS {
		f.updates.Add(1)
	}
}

func (f *quicFacts) saw(conn *quic.Conn) {
	f.cipher.Store(strings.TrimPrefix(tls.CipherSuiteName(conn.ConnectionState().TLS.CipherSuite), "TLS_"))
}

func (f *quicFacts) said() map[string]any {
	cipher, _ := f.cipher.Load().(string)
	return map[string]any{"cipher": cipher, "key_updates": f.updates.Load(), "moves": f.moves.Load()}
}

func (f *quicFacts) config() *quic.Config {
	return &quic.Config{
		Versions:           []quic.Version{quic.Version1},
		MaxIncomingStreams: 256,
		// For the cases with many lost datagrams; a handshake may take twice as long.
		HandshakeIdleTimeout: 15 * time.Second,
		// A client that says nothing after its NAT has changed its port is where no server can
		// find it; one that only receives says nothing when the last answer was lost with the port.
		KeepAlivePeriod: time.Second,
		Tracer: func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace {
			return f
		},
	}
}

func quicIdentity() (*libp2ptls.Identity, peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	identity, err := libp2ptls.NewIdentity(key)
	return identity, id, err
}

func quicServe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("quic-serve", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address to listen on")
	retry := flags.Bool("retry", false, "have every client prove its address by a Retry")
	flags.Bool("chacha", false, "nothing: GODEBUG=cpu.aes=off lets this side choose ChaCha20")
	_ = flags.Parse(args)
	identity, id, err := quicIdentity()
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(*ip)})
	if err != nil {
		return err
	}
	facts := &quicFacts{}
	transport := &quic.Transport{Conn: socket, VerifySourceAddress: func(net.Addr) bool { return *retry }}
	listener, err := transport.Listen(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config, _ := identity.ConfigForPeer("")
			return config, nil
		},
	}, facts.config())
	if err != nil {
		return err
	}
	family := "ip4"
	if strings.Contains(*ip, ":") {
		family = "ip6"
	}
	port := socket.LocalAddr().(*net.UDPAddr).Port
	report(map[string]any{"multiaddr": fmt.Sprintf("/%s/%s/udp/%d/quic-v1/p2p/%s", family, *ip, port, id)})
	go func() {
		for {
			conn, err := listener.Accept(ctx)
			if err != nil {
				return
			}
			facts.saw(conn)
			go quicAnswers(ctx, conn, facts)
		}
	}()
	<-ctx.Done()
	report(facts.said())
	return nil
}

func quicAnswers(ctx context.Context, conn *quic.Conn, facts *quicFacts) {
	at := conn.RemoteAddr().String()
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() {
			// To the end: a stream that is not read to its end is never over.
			request, err := io.ReadAll(io.LimitReader(stream, 64))
			if err != nil || len(request) != 8 {
				stream.CancelWrite(1)
				return
			}
			hash := sha256.New()
			size := int64(binary.BigEndian.Uint64(request))
			if _, err := io.CopyN(stream, io.TeeReader(rand.Reader, hash), size); err != nil {
				stream.CancelWrite(1)
				return
			}
			_, _ = stream.Write(hash.Sum(nil))
			_ = stream.Close()
			if conn.RemoteAddr().String() != at {
				facts.moves.Store(1)
			}
		}()
	}
}

func quicFetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("quic-fetch", flag.ExitOnError)
	to := flags.String("to", "", "multiaddr of the server")
	sizes := flags.String("sizes", "1024", "bytes of each stream, comma between them")
	connections := flags.Int("connections", 1, "connections to make")
	atOnce := flags.Int("at-once", 10, "connections at a time")
	timeout := flags.Float64("timeout", 60, "seconds for everything")
	flags.Bool("key-update", false, "nothing: quic-go updates its keys after a hundred packets")
	flags.Bool("chacha", false, "nothing: as with quic-serve")
	_ = flags.Parse(args)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	facts := &quicFacts{}
	var all errgroup.Group
	all.SetLimit(*atOnce)
	for range *connections {
		all.Go(func() error { return quicFetchConnection(ctx, *to, strings.Split(*sizes, ","), facts) })
	}
	err := all.Wait()
	result := facts.said()
	result["ok"], result["detail"] = err == nil, "all as asked"
	if err != nil {
		result["detail"] = err.Error()
	}
	report(result)
	if err != nil {
		return errors.New("fetch failed")
	}
	return nil
}

func quicFetchConnection(ctx context.Context, to string, sizes []string, facts *quicFacts) error {
	parts := strings.Split(to, "/")
	if len(parts) != 8 {
		return fmt.Errorf("not a QUIC address: %s", to)
	}
	id, err := peer.Decode(parts[7])
	if err != nil {
		return err
	}
	address, err := net.ResolveUDPAddr("udp", net.JoinHostPort(parts[2], parts[4]))
	if err != nil {
		return err
	}
	identity, _, err := quicIdentity()
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	// Without connection ids of its own a client cannot be followed to another address.
	transport := &quic.Transport{Conn: socket, ConnectionIDLength: 4}
	defer transport.Close()
	config, _ := identity.ConfigForPeer(id)
	conn, err := transport.Dial(ctx, address, config, facts.config())
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer conn.CloseWithError(0, "")
	facts.saw(conn)
	var streams errgroup.Group
	for _, text := range sizes {
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		streams.Go(func() error { return quicFetchStream(ctx, conn, size) })
	}
	return streams.Wait()
}

func quicFetchStream(ctx context.Context, conn *quic.Conn, size int64) error {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	_ = stream.Close()
	hash := sha256.New()
	if _, err := io.CopyN(hash, stream, size); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	rest, err := io.ReadAll(stream)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if string(rest) != string(hash.Sum(nil)) {
		return errors.New("the hash differs")
	}
	return nil
}
