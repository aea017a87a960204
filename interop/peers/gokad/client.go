package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
)

type client struct{ ip, bootstrap, key, value string }

// run does one thing as a client, printing the result.
func (c client) run(command string) error {
	key, err := hex.DecodeString(c.key)
	if err != nil {
		return err
	}
	value, err := hex.DecodeString(c.value)
	if err != nil {
		return err
	}
	first, err := peer.AddrInfoFromString(c.bootstrap)
	if err != nil {
		return err
	}
	h, d, err := node(c.ip, 0, dht.ModeClient, untapped)
	if err != nil {
		return err
	}
	defer h.Close()
	defer d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := h.Connect(ctx, *first); err != nil {
		return err
	}
	if err := known(ctx, d); err != nil {
		return err
	}
	result := map[string]any{"event": command, "id": h.ID().String()}
	if err := c.do(ctx, d, command, key, value, result); err != nil {
		return err
	}
	say(result)
	return nil
}

// known waits until the routing table has somebody: identify runs in the background.
func known(ctx context.Context, d *dht.IpfsDHT) error {
	for d.RoutingTable().Size() == 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (c client) do(
	ctx context.Context, d *dht.IpfsDHT, command string, key, value []byte, result map[string]any,
) error {
	switch command {
	case "put":
		return d.PutValue(ctx, string(key), value)
	case "get":
		found, err := d.GetValue(ctx, string(key))
		result["value"] = hex.EncodeToString(found)
		return err
	case "provide":
		return d.Provide(ctx, cid.NewCidV1(cid.Raw, key), true)
	case "providers":
		found := []map[string]any{}
		for one := range d.FindProvidersAsync(ctx, cid.NewCidV1(cid.Raw, key), 20) {
			found = append(found, told(one))
		}
		result["providers"] = found
		return nil
	case "closest":
		ids, err := d.GetClosestPeers(ctx, string(key))
		texts := []string{}
		for _, id := range ids {
			texts = append(texts, id.String())
		}
		result["closest"] = texts
		return err
	case "find":
		found, err := d.FindPeer(ctx, peer.ID(key))
		result["peer"] = told(found)
		return err
	}
	return fmt.Errorf("unknown command %q", command)
}

func untapped(h host.Host) (host.Host, error) { return h, nil }

func told(one peer.AddrInfo) map[string]any {
	texts := []string{}
	for _, address := range one.Addrs {
		texts = append(texts, address.String())
	}
	return map[string]any{"id": one.ID.String(), "addresses": texts}
}
