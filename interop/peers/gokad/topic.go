package main

import (
	"context"
	"encoding/hex"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	drouting "github.com/libp2p/go-libp2p/p2p/discovery/routing"
)

// namespace precedes the id in the topic of PeerTunnel.
const namespace = "/peertunnel/1.0.0/"

// topics says what the routing discovery asks a DHT for: it is given one that only listens.
func topics(ids []string) error {
	for _, id := range ids {
		asked := &listener{}
		if _, err := drouting.NewRoutingDiscovery(asked).Advertise(context.Background(), namespace+id); err != nil {
			return err
		}
		say(map[string]any{
			"id": id, "topic": namespace + id, "cid": asked.cid.String(), "key": hex.EncodeToString(asked.cid.Hash()),
		})
	}
	return nil
}

type listener struct{ cid cid.Cid }

func (l *listener) Provide(_ context.Context, c cid.Cid, _ bool) error {
	l.cid = c
	return nil
}

func (l *listener) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	return nil
}
