// Command gokad is a set of kad-dht servers as of the Amino DHT, one client of such a DHT, or a peer
// that behaves as PeerTunnel in Go does.
//
//	gokad servers --ips A,B,… [--port 4001] [--links 6] [--relays N] [--crowd] [--tap FILE]
//	gokad put|get|provide|providers|closest|find --ip A --bootstrap MULTIADDR --key HEX [--value HEX]
//	gokad topic ID…
//	gokad v1-tcp --port N --listen MULTIADDR [--advertise ID --bootstrap MULTIADDR]
//	gokad v1-bind --listen HOST:PORT --peer MULTIADDR [--at MULTIADDR]
//	gokad v1-bind --listen HOST:PORT --find ID --bootstrap MULTIADDR [--at MULTIADDR]
//
// The servers run in this one process, each with its own host, identity and address; the first has an
// RSA key. They print
// {"event":"server","id":…,"multiaddr":…,"index":N} each, then {"event":"ready"} once they know one
// another, and end with stdin; a line "close N" stops one of them, which prints {"event":"closed"}.
//
// A client prints its result as one JSON object. Keys are bytes in hexadecimal: of a value the whole
// key with its namespace, of a provider record the multihash, of a peer its id. So does `topic`, which
// says for each ID what the routing discovery of go-libp2p makes of it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

var output sync.Mutex

func say(facts any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(facts); err != nil {
		os.Exit(1)
	}
}

// from makes connections come from the node's own address: the kernel's choice among all of this
// machine is that of the other end, and tables have few places for each network.
func from(ip string) tcp.DialerForAddr {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return func(ma.Multiaddr) (tcp.ContextDialer, error) { return dialer, nil }
}

// node is a host with a DHT that is configured as the public half of kubo's.
func node(
	ip string, port int, mode dht.ModeOpt, wrap func(host.Host) (host.Host, error),
	more ...libp2p.Option,
) (host.Host, *dht.IpfsDHT, error) {
	h, err := libp2p.New(append([]libp2p.Option{
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/%d", ip, port)),
		libp2p.Transport(tcp.NewTCPTransport, tcp.WithDialerForAddr(from(ip))),
		libp2p.Security(noise.ID, noise.New),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableMetrics(),
		libp2p.DisableRelay(),
		libp2p.UserAgent("gokad"),
	}, more...)...)
	if err != nil {
		return nil, nil, err
	}
	diversity := dht.NewRTPeerDiversityFilter(
		h, amino.DefaultMaxPeersPerIPGroupPerCpl, amino.DefaultMaxPeersPerIPGroup)
	seen, err := wrap(h)
	if err != nil {
		h.Close()
		return nil, nil, err
	}
	d, err := dht.New(seen,
		dht.Mode(mode),
		dht.BootstrapPeers(),
		dht.DisableAutoRefresh(),
		dht.QueryFilter(dht.PublicQueryFilter),
		dht.RoutingTableFilter(dht.PublicRoutingTableFilter),
		dht.RoutingTablePeerDiversityFilter(diversity),
		dht.AddressFilter(func(all []ma.Multiaddr) []ma.Multiaddr {
			return ma.FilterAddrs(all, manet.IsPublicAddr)
		}),
	)
	if err != nil {
		h.Close()
		return nil, nil, err
	}
	return h, d, nil
}

type server struct {
	host host.Host
	dht  *dht.IpfsDHT
}

func servers(ips []string, port, links, relays int, crowd bool, tapped string) error {
	observer, err := newTap(tapped)
	if err != nil {
		return err
	}
	var all []server
	for index, ip := range ips {
		var options []libp2p.Option
		if index == 0 {
			identity, err := rsa()
			if err != nil {
				return err
			}
			options = append(options, identity)
		}
		if crowd {
			options = append(options, crowded(ip, index))
		}
		h, d, err := node(ip, port, dht.ModeServer, func(h host.Host) (host.Host, error) {
			return observer.wrap(h, index)
		}, options...)
		if err != nil {
			return err
		}
		if index < relays {
			// The service itself: that of the host waits for a word about reachability.
			if _, err := relay.New(h); err != nil {
				return err
			}
		}
		all = append(all, server{h, d})
		say(map[string]any{
			"event": "server", "index": index, "id": h.ID().String(),
			"multiaddr": fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", ip, port, h.ID()),
		})
	}
	var group sync.WaitGroup
	for index := range all {
		group.Add(1)
		go func() {
			defer group.Done()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			for link := 1; link <= links && link < len(all); link++ {
				other := all[(index+link*link)%len(all)].host
				if other == all[index].host {
					continue
				}
				_ = all[index].host.Connect(ctx, peer.AddrInfo{ID: other.ID(), Addrs: other.Addrs()})
			}
		}()
	}
	group.Wait()
	for index := range all {
		group.Add(1)
		go func() {
			defer group.Done()
			<-all[index].dht.ForceRefresh()
		}()
	}
	group.Wait()
	known := make([]int, len(all))
	for index := range all {
		known[index] = all[index].dht.RoutingTable().Size()
	}
	observer.start()
	say(map[string]any{"event": "ready", "known": known})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if address, found := strings.CutPrefix(lines.Text(), "meet "); found {
			if err := meet(all, address); err != nil {
				return err
			}
			continue
		}
		var index int
		if _, err := fmt.Sscanf(lines.Text(), "close %d", &index); err != nil {
			return fmt.Errorf("unknown command %q", lines.Text())
		}
		all[index].dht.Close()
		all[index].host.Close()
		say(map[string]any{"event": "closed", "index": index})
	}
	return lines.Err()
}

// meet has every server connect to another one until that one is in its table. A server is not taken
// up while it knows nobody itself, which is so when it comes, and who came is not looked at again.
func meet(all []server, address string) error {
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var group sync.WaitGroup
	var known atomic.Int64
	for _, one := range all {
		group.Add(1)
		go func() {
			defer group.Done()
			for ctx.Err() == nil {
				for wait := 0; wait < 10 && ctx.Err() == nil; wait++ {
					if one.dht.RoutingTable().Find(info.ID) != "" {
						known.Add(1)
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
				_ = one.host.Network().ClosePeer(info.ID)
				_ = one.host.Connect(ctx, *info)
			}
		}()
	}
	group.Wait()
	say(map[string]any{"event": "met", "known": known.Load()})
	return nil
}

func run() error {
	if len(os.Args) < 2 {
		return errors.New("usage: gokad servers|put|get|provide|providers|closest|find|topic|v1-tcp|v1-bind …")
	}
	command := os.Args[1]
	switch command {
	case "topic":
		return topics(os.Args[2:])
	case "v1-tcp":
		return v1Tcp(os.Args[2:])
	case "v1-bind":
		return v1Bind(os.Args[2:])
	}
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	ips := flags.String("ips", "", "addresses of the servers, with commas")
	port := flags.Int("port", 4001, "TCP port of the servers")
	links := flags.Int("links", 6, "other servers that each one is connected to at first")
	relays := flags.Int("relays", 0, "servers, from the first on, that relay with libp2p's limits")
	crowd := flags.Bool("crowd", false, "announce as many addresses as kubo does")
	tapped := flags.String("tap", "", "file for the traffic of the DHT")
	var c client
	flags.StringVar(&c.ip, "ip", "", "address of the client")
	flags.StringVar(&c.bootstrap, "bootstrap", "", "multiaddr of a server")
	flags.StringVar(&c.key, "key", "", "key, hexadecimal")
	flags.StringVar(&c.value, "value", "", "value, hexadecimal")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	if command == "servers" {
		return servers(strings.Split(*ips, ","), *port, *links, *relays, *crowd, *tapped)
	}
	return c.run(command)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
