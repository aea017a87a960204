package main

import (
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// tap writes what peers tell the servers into a file, one JSON object a line: each piece that is read
// from or written to a stream of the DHT, in plaintext, and each identify message.
//
// All requests among servers are streams of one of them too, so that with every server tapped the
// file has the whole traffic of the DHT, from ready on.
type tap struct {
	lock    sync.Mutex
	out     *json.Encoder
	streams atomic.Int64
	open    atomic.Bool
}

// newTap returns nil, which taps nothing, for an empty path.
func newTap(path string) (*tap, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &tap{out: json.NewEncoder(file)}, nil
}

// start begins to write.
func (t *tap) start() {
	if t != nil {
		t.open.Store(true)
	}
}

func (t *tap) write(facts any) {
	if !t.open.Load() {
		return
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	if err := t.out.Encode(facts); err != nil {
		panic(err) // an observer who misses something proves nothing
	}
}

// wrap returns the host that the DHT of a server is to use.
func (t *tap) wrap(h host.Host, server int) (host.Host, error) {
	if t == nil {
		return h, nil
	}
	told, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return nil, err
	}
	go func() {
		for one := range told.Out() {
			t.identified(one.(event.EvtPeerIdentificationCompleted), server)
		}
	}()
	return &tappedHost{Host: h, tap: t, server: server}, nil
}

func (t *tap) identified(told event.EvtPeerIdentificationCompleted, server int) {
	listens := []string{}
	for _, address := range told.ListenAddrs {
		listens = append(listens, address.String())
	}
	facts := map[string]any{
		"kind": "identify", "server": server, "peer": told.Peer.String(), "agent": told.AgentVersion,
		"version": told.ProtocolVersion, "protocols": told.Protocols, "listens": listens,
		"address": told.Conn.RemoteMultiaddr().String(),
	}
	if told.SignedPeerRecord != nil {
		facts["record"] = told.SignedPeerRecord.RawPayload
	}
	t.write(facts)
}

type tappedHost struct {
	host.Host
	tap    *tap
	server int
}

func (h *tappedHost) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		handle(&tappedStream{Stream: s, tap: h.tap, server: h.server, number: h.tap.streams.Add(1)})
	})
}

type tappedStream struct {
	network.Stream
	tap    *tap
	server int
	number int64
}

func (s *tappedStream) Read(into []byte) (int, error) {
	n, err := s.Stream.Read(into)
	s.note("in", into[:n])
	return n, err
}

func (s *tappedStream) Write(data []byte) (int, error) {
	n, err := s.Stream.Write(data)
	s.note("out", data[:n])
	return n, err
}

func (s *tappedStream) note(way string, data []byte) {
	if len(data) == 0 {
		return
	}
	s.tap.write(map[string]any{
		"kind": "stream", "stream": s.number, "server": s.server, "way": way, "data": data,
		"protocol": s.Protocol(), "peer": s.Conn().RemotePeer().String(),
		"address": s.Conn().RemoteMultiaddr().String(),
	})
}
