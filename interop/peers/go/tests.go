package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"
)

// openAtOnce bounds the streams being opened together: rust and Go refuse more than 256 that are
// not acknowledged yet.
const openAtOnce = 64

// echoSmallBytes fits the limit of a public relay, with everything else that goes over a circuit.
const echoSmallBytes = 32 << 10

// cutoffBlock is small beside any limit, so that the count says where the end came.
const cutoffBlock = 4 << 10

// halfCloseBytes fits the initial yamux window of 256 KiB in both directions.
const halfCloseBytes = 128 << 10

type testOptions struct {
	bytes    int
	streams  int
	idle     float64
	unsigned bool
}

func runTest(ctx context.Context, to, name string, options testOptions) (string, error) {
	h, err := newHost("")
	if err != nil {
		return "", err
	}
	defer h.Close()
	identified, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return "", err
	}
	defer identified.Close()
	id, err := connect(ctx, h, to)
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	ctx = network.WithAllowLimitedConn(ctx, "interop")
	switch name {
	case "ping":
		return testPing(ctx, h, id)
	case "identify":
		return testIdentify(ctx, h, id, identified, options.unsigned)
	case "echo64":
		return testEcho(ctx, h, id, options.bytes)
	case "echosmall":
		return testEcho(ctx, h, id, echoSmallBytes)
	case "cutoff":
		return testCutoff(ctx, h, id, options.bytes)
	case "streams1000":
		return testStreams(ctx, h, id, options.streams)
	case "halfclose":
		return testHalfClose(ctx, h, id)
	case "reset":
		return testReset(ctx, h, id)
	case "idle":
		return testIdle(ctx, h, id, options.idle)
	default:
		return "", fmt.Errorf("unknown test %q", name)
	}
}

func testPing(ctx context.Context, h host.Host, id peer.ID) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := ping.Ping(ctx, h, id)
	best := time.Duration(0)
	for i := range 5 {
		result := <-results
		if result.Error != nil {
			return "", fmt.Errorf("ping %d: %w", i, result.Error)
		}
		if best == 0 || result.RTT < best {
			best = result.RTT
		}
	}
	return fmt.Sprintf("5 pings, best %d us", best.Microseconds()), nil
}

func testIdentify(ctx context.Context, h host.Host, id peer.ID, done event.Subscription, unsigned bool) (string, error) {
	var facts event.EvtPeerIdentificationCompleted
	for facts.Peer != id { // a relay on the way is identified, too
		select {
		case <-ctx.Done():
			return "", errors.New("identify did not complete")
		case got := <-done.Out():
			facts = got.(event.EvtPeerIdentificationCompleted)
		}
	}
	if facts.AgentVersion == "" {
		return "", errors.New("no agent version")
	}
	for _, wanted := range []string{"/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", echoProtocol, resetProtocol} {
		found := false
		for _, offered := range facts.Protocols {
			found = found || string(offered) == wanted
		}
		if !found {
			return "", fmt.Errorf("protocol %s is missing in %v", wanted, facts.Protocols)
		}
	}
	key := h.Peerstore().PubKey(id)
	if key == nil || !id.MatchesPublicKey(key) {
		return "", errors.New("the public key does not belong to the peer id")
	}
	// js-libp2p appends our own peer id to the address it observed.
	suffix := multiaddr.StringCast("/p2p/" + h.ID().String())
	if isCircuit(facts.Conn.RemoteMultiaddr()) {
		// What a peer sees of us is the relay, and rust-libp2p says nothing but our own id.
		if seen := facts.ObservedAddr; seen != nil && !seen.Equal(suffix) && !isCircuit(seen) {
			return "", fmt.Errorf("observed address %v, although we came by a relay", seen)
		}
	} else if local := facts.Conn.LocalMultiaddr(); !isOurs(facts.ObservedAddr, suffix, local) {
		return "", fmt.Errorf("observed address %v is not ours, %v", facts.ObservedAddr, local)
	}
	if facts.SignedPeerRecord == nil {
		if !unsigned {
			return "", errors.New("no signed peer record")
		}
	} else if err := checkRecord(facts.SignedPeerRecord, id); err != nil {
		return "", err
	}
	return fmt.Sprintf("agent %s, %d protocols, %d addresses, signed record: %t", facts.AgentVersion, len(facts.Protocols), len(facts.ListenAddrs), facts.SignedPeerRecord != nil), nil
}

// isOurs compares an observed address with our own, of which QUIC knows the port alone.
func isOurs(observed, suffix, local multiaddr.Multiaddr) bool {
	if observed == nil {
		return false
	}
	observed = observed.Decapsulate(suffix)
	port, err := local.ValueForProtocol(multiaddr.P_UDP)
	if err != nil {
		return observed.Equal(local)
	}
	seen, err := observed.ValueForProtocol(multiaddr.P_UDP)
	return err == nil && seen == port
}

func checkRecord(envelope *record.Envelope, id peer.ID) error {
	content, err := envelope.Record()
	if err != nil {
		return err
	}
	signed, ok := content.(*peer.PeerRecord)
	if !ok || signed.PeerID != id || !id.MatchesPublicKey(envelope.PublicKey) {
		return errors.New("the signed record is of another peer")
	}
	if len(signed.Addrs) == 0 {
		return errors.New("the signed record has no address")
	}
	return nil
}

func testEcho(ctx context.Context, h host.Host, id peer.ID, size int) (string, error) {
	stream, err := h.NewStream(ctx, id, echoProtocol)
	if err != nil {
		return "", err
	}
	defer stream.Reset()
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	began := time.Now()
	sent, received := sha256.New(), sha256.New()
	answered := make(chan struct{})
	var both errgroup.Group
	both.Go(func() error {
		block := make([]byte, 64<<10)
		for left := size; left > 0; left -= len(block) {
			block = block[:min(left, len(block))]
			_, _ = rand.Read(block)
			sent.Write(block)
			if _, err := stream.Write(block); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		// js-libp2p loses what a stream carried if its end comes before the protocol was agreed.
		<-answered
		return stream.CloseWrite()
	})
	count := int64(0)
	both.Go(func() error {
		first := make([]byte, 1)
		_, err := io.ReadFull(stream, first)
		close(answered)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		received.Write(first)
		count, err = io.Copy(received, stream)
		count++
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		return nil
	})
	if err := both.Wait(); err != nil {
		return "", err
	}
	if count != int64(size) || !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return "", fmt.Errorf("%d bytes of %d came back, hash equal: %t", count, size, bytes.Equal(sent.Sum(nil), received.Sum(nil)))
	}
	return fmt.Sprintf("%d bytes, sha256 %x…, %.2f s", size, sent.Sum(nil)[:4], time.Since(began).Seconds()), nil
}

// testCutoff has block after block echoed until the relay cuts the circuit, and says how the end
// looks and after how many bytes, in each direction, it came.
func testCutoff(ctx context.Context, h host.Host, id peer.ID, size int) (string, error) {
	stream, err := h.NewStream(ctx, id, echoProtocol)
	if err != nil {
		return "", err
	}
	defer stream.Reset()
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	block := make([]byte, cutoffBlock)
	for count := 0; count < size; count += cutoffBlock {
		_, err := stream.Write(block)
		if err == nil {
			_, err = io.ReadFull(stream, block)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Sprintf("%d bytes, then an end of file", count), nil
		} else if errors.Is(err, network.ErrReset) {
			return fmt.Sprintf("%d bytes, then a reset", count), nil
		} else if err != nil {
			return "", fmt.Errorf("%d bytes, then: %w", count, err)
		}
	}
	return "", fmt.Errorf("all %d bytes came back: nothing cut the circuit", size)
}

func testStreams(ctx context.Context, h host.Host, id peer.ID, count int) (string, error) {
	streams := make([]network.Stream, count)
	defer func() {
		for _, stream := range streams {
			if stream != nil {
				_ = stream.Reset()
			}
		}
	}()
	began := time.Now()
	var opening errgroup.Group
	opening.SetLimit(openAtOnce)
	for i := range streams {
		opening.Go(func() error {
			stream, err := h.NewStream(ctx, id, echoProtocol)
			if err != nil {
				return fmt.Errorf("open %d: %w", i, err)
			}
			streams[i] = stream
			return roundTrip(stream, fmt.Sprintf("hello %d", i))
		})
	}
	if err := opening.Wait(); err != nil {
		return "", err
	}
	// All are open now: each must still be alive, and each must end cleanly.
	for i, stream := range streams {
		if err := roundTrip(stream, fmt.Sprintf("again %d", i)); err != nil {
			return "", fmt.Errorf("stream %d: %w", i, err)
		}
	}
	for i, stream := range streams {
		if err := stream.CloseWrite(); err != nil {
			return "", fmt.Errorf("close %d: %w", i, err)
		}
	}
	for i, stream := range streams {
		if rest, err := io.ReadAll(stream); err != nil || len(rest) != 0 {
			return "", fmt.Errorf("stream %d ended with %q, %w", i, rest, err)
		}
	}
	return fmt.Sprintf("%d streams, %.2f s", count, time.Since(began).Seconds()), nil
}

func roundTrip(stream network.Stream, text string) error {
	_ = stream.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := stream.Write([]byte(text)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(stream, back); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if string(back) != text {
		return fmt.Errorf("sent %q, got %q", text, back)
	}
	return nil
}

func testHalfClose(ctx context.Context, h host.Host, id peer.ID) (string, error) {
	stream, err := h.NewStream(ctx, id, echoProtocol)
	if err != nil {
		return "", err
	}
	defer stream.Reset()
	_ = stream.SetDeadline(time.Now().Add(30 * time.Second))
	data := make([]byte, halfCloseBytes)
	_, _ = rand.Read(data)
	if _, err := stream.Write(data); err != nil {
		return "", err
	}
	if err := stream.CloseWrite(); err != nil {
		return "", err
	}
	back, err := io.ReadAll(stream)
	if err != nil {
		return "", fmt.Errorf("read after close: %w", err)
	}
	if !bytes.Equal(back, data) {
		return "", fmt.Errorf("%d bytes of %d came back after the close", len(back), len(data))
	}
	return fmt.Sprintf("%d bytes read after the write side was closed", len(back)), nil
}

func testReset(ctx context.Context, h host.Host, id peer.ID) (string, error) {
	token := make([]byte, tokenSize)
	_, _ = rand.Read(token)
	stream, err := ask(ctx, h, id, 'R', token)
	if err != nil {
		return "", err
	}
	if err := endOf(stream); !errors.Is(err, network.ErrReset) {
		return "", fmt.Errorf("expected a reset from the peer, got %v", err)
	}
	stream, err = ask(ctx, h, id, 'W', token)
	if err != nil {
		return "", err
	}
	if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
		return "", fmt.Errorf("the peer does not watch: %w", err)
	}
	if err := stream.Reset(); err != nil {
		return "", err
	}
	for range 100 {
		stream, err = ask(ctx, h, id, 'Q', token)
		if err != nil {
			return "", err
		}
		answer, err := io.ReadAll(stream)
		if err != nil || len(answer) != 1 {
			return "", fmt.Errorf("query answered %q, %w", answer, err)
		}
		_ = stream.Close()
		switch answer[0] {
		case 'r':
			return "peer's reset seen, ours seen by the peer", nil
		case 'e':
			return "", errors.New("the peer took our reset for an end of file")
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", errors.New("the peer never noticed our reset")
}

func ask(ctx context.Context, h host.Host, id peer.ID, command byte, token []byte) (network.Stream, error) {
	stream, err := h.NewStream(ctx, id, resetProtocol)
	if err != nil {
		return nil, err
	}
	_ = stream.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := stream.Write(append([]byte{command}, token...)); err != nil {
		return nil, err
	}
	return stream, nil
}

func testIdle(ctx context.Context, h host.Host, id peer.ID, seconds float64) (string, error) {
	stream, err := h.NewStream(ctx, id, echoProtocol)
	if err != nil {
		return "", err
	}
	defer stream.Reset()
	if err := roundTrip(stream, "before"); err != nil {
		return "", err
	}
	before := stream.Conn().ID()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	}
	if err := roundTrip(stream, "after"); err != nil {
		return "", fmt.Errorf("after %g idle seconds: %w", seconds, err)
	}
	conns := h.Network().ConnsToPeer(id)
	if len(conns) != 1 || conns[0].ID() != before {
		return "", errors.New("the connection was replaced")
	}
	return fmt.Sprintf("alive after %g idle seconds", seconds), nil
}
