package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
)

// contractTimeout bounds each wait of the hole punch contract.
const contractTimeout = 60 * time.Second

// holePunchTest answers libp2p's hole punch interop contract as the unified suite spells it, as the
// listener or the dialer, configured by the environment alone.
func holePunchTest(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*contractTimeout)
	defer cancel()
	transport, key := os.Getenv("TRANSPORT"), os.Getenv("TEST_KEY")
	if transport != "tcp" && transport != "quic-v1" {
		return fmt.Errorf("TRANSPORT=%q is not supported", transport)
	}
	redis := os.Getenv("REDIS_ADDR")
	relay, err := awaited(ctx, redis, key+"_relay_multiaddr")
	if err != nil {
		return err
	}
	h, err := newPunchHost(transport == "quic-v1", "")
	if err != nil {
		return err
	}
	defer h.Close()
	seen := watch(h)
	id, err := connect(ctx, h, relay)
	if err != nil {
		return err
	}
	if err := punches(ctx, h); err != nil {
		return err
	}
	if os.Getenv("IS_DIALER") != "true" {
		if _, err := client.Reserve(ctx, h, peer.AddrInfo{ID: id}); err != nil {
			return err
		}
		_, err := redisCommand(redis, 10*time.Second, "SET", key+"_listener_peer_id", h.ID().String())
		if err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	other, err := awaited(ctx, redis, key+"_listener_peer_id")
	if err != nil {
		return err
	}
	address, err := multiaddr.NewMultiaddr(relay + "/p2p-circuit/p2p/" + other)
	if err != nil {
		return err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := h.Connect(network.WithAllowLimitedConn(ctx, "contract"), *info); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case conn := <-seen:
			if conn.RemotePeer() != info.ID || isCircuit(conn.RemoteMultiaddr()) {
				continue
			}
			pinged := <-ping.Ping(ctx, h, info.ID)
			if pinged.Error != nil {
				return pinged.Error
			}
			fmt.Printf("latency:\n  handshake_plus_one_rtt: %.2f\n  ping_rtt: %.2f\n  unit: ms\n",
				milliseconds(time.Since(began)), milliseconds(pinged.RTT))
			return nil
		}
	}
}

// awaited polls until somebody has set the key.
func awaited(ctx context.Context, redis, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, contractTimeout)
	defer cancel()
	for {
		value, err := redisCommand(redis, 10*time.Second, "GET", key)
		if err == nil {
			return value, nil
		}
		if !errors.Is(err, errNothing) {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("nobody has set %s", key)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
