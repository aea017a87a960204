package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	service "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
)

// reserveTimeout bounds the wait for the first reservations.
const reserveTimeout = 25 * time.Second

// manyReservations is more than any test makes: quotas are not what is tested.
const manyReservations = 4096

// relay serves circuit relay v2 with the limits libp2p has by default, others, or none: then its
// STATUS carries no limit at all.
func relay(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("relay", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address to listen on")
	port := flags.Int("port", 0, "port to listen on")
	duration := flags.Int("duration", 120, "seconds a circuit may last")
	data := flags.Int64("data", 128<<10, "bytes a circuit may carry in each direction")
	unlimited := flags.Bool("unlimited", false, "circuits without limits")
	_ = flags.Parse(args)
	h, err := newHost(fmt.Sprintf("/ip4/%s/tcp/%d", *ip, *port))
	if err != nil {
		return err
	}
	defer h.Close()
	resources := service.DefaultResources()
	resources.MaxReservations = manyReservations
	resources.MaxReservationsPerIP = manyReservations
	resources.MaxReservationsPerASN = manyReservations
	resources.MaxCircuits = manyReservations
	options := []service.Option{service.WithResources(resources)}
	if *unlimited {
		options = append(options, service.WithInfiniteLimits())
	} else {
		options = append(options, service.WithLimit(&service.RelayLimit{
			Duration: time.Duration(*duration) * time.Second,
			Data:     *data,
		}))
	}
	// The service itself, rather than the option of the host: that starts and stops it with the
	// host's idea of its reachability, which nobody here could tell it.
	server, err := service.New(h, options...)
	if err != nil {
		return err
	}
	defer server.Close()
	report(map[string]any{"multiaddr": fullAddress(h)})
	<-ctx.Done()
	return nil
}

// reachedThrough are the options of a host that keeps reservations at relays, given as multiaddrs
// with commas between them; none for an empty text.
func reachedThrough(relays string) []libp2p.Option {
	if relays == "" {
		return nil
	}
	return []libp2p.Option{
		libp2p.ForceReachabilityPrivate(),
		func(config *libp2p.Config) error {
			var static []peer.AddrInfo
			for _, text := range strings.Split(relays, ",") {
				info, err := peer.AddrInfoFromString(text)
				if err != nil {
					return fmt.Errorf("relay %s: %w", text, err)
				}
				static = append(static, *info)
			}
			return libp2p.EnableAutoRelayWithStaticRelays(
				static, autorelay.WithBackoff(2*time.Second), autorelay.WithMinInterval(time.Second),
			)(config)
		},
	}
}

// reserved waits for reservations and returns the circuit addresses of the host, one a relay.
func reserved(ctx context.Context, h host.Host) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, reserveTimeout)
	defer cancel()
	updates, err := h.EventBus().Subscribe(new(event.EvtAutoRelayAddrsUpdated))
	if err != nil {
		return nil, err
	}
	defer updates.Close()
	for {
		select {
		case <-ctx.Done():
			return nil, errors.New("no reservation in time")
		case update := <-updates.Out():
			var found []string
			seen := map[string]bool{}
			for _, address := range update.(event.EvtAutoRelayAddrsUpdated).RelayAddrs {
				id, _ := address.ValueForProtocol(multiaddr.P_P2P)
				if !seen[id] {
					seen[id] = true
					found = append(found, fmt.Sprintf("%s/p2p/%s", address, h.ID()))
				}
			}
			if len(found) > 0 {
				return found, nil
			}
		}
	}
}

func isCircuit(address multiaddr.Multiaddr) bool {
	_, err := address.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}
