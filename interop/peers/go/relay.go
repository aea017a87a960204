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
	quic := flags.Bool("quic", false, "listen for QUIC, too")
	unlimited := flags.Bool("unlimited", false, "circuits without limits")
	_ = flags.Parse(args)
	h, err := newHost(fmt.Sprintf("/ip4/%s/tcp/%d", *ip, *port))
	if err != nil {
		return err
	}
	defer h.Close()
	if *quic {
		over, err := multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", *ip, *port))
		if err != nil {
			return err
		}
		if err := h.Network().Listen(over); err != nil {
			return err
		}
	}
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
	for _, address := range h.Network().ListenAddresses() {
		if !isCircuit(address) {
			report(map[string]any{"multiaddr": fmt.Sprintf("%s/p2p/%s", address, h.ID())})
		}
	}
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

// reserved waits for a reservation at each of the relays, given as multiaddrs with commas between
// them, and returns the circuit addresses of the host: through each relay as it was given, or as it
// says itself.
func reserved(ctx context.Context, h host.Host, relays string) ([]string, error) {
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
			offered := update.(event.EvtAutoRelayAddrsUpdated).RelayAddrs
			var found []string
			for _, wanted := range strings.Split(relays, ",") {
				for _, address := range byLikeness(offered, wanted) {
					found = append(found, fmt.Sprintf("%s/p2p/%s", address, h.ID()))
					break
				}
			}
			if len(found) == strings.Count(relays, ",")+1 {
				return found, nil
			}
		}
	}
}

// byLikeness are the circuit addresses through the relay given, that multiaddr itself first.
func byLikeness(offered []multiaddr.Multiaddr, relay string) []multiaddr.Multiaddr {
	var found []multiaddr.Multiaddr
	for _, address := range offered {
		id, err := address.ValueForProtocol(multiaddr.P_P2P)
		if err != nil || !strings.HasSuffix(relay, "/p2p/"+id) {
			continue
		}
		if address.String() == relay+"/p2p-circuit" {
			found = append([]multiaddr.Multiaddr{address}, found...)
		} else {
			found = append(found, address)
		}
	}
	return found
}

func isCircuit(address multiaddr.Multiaddr) bool {
	_, err := address.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}
